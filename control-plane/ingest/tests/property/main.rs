//! Properties that hold for arbitrary inputs and histories: a rebuild does not panic, its result does not depend on the
//! memo, and every name in a graph is resolved.

mod changes;

use std::{collections::BTreeSet, sync::Arc};

use evermesh_ingest::{
    BuildMemo, IngestSettings, Inputs, admission::validate, build, cloud_map_users, endpoints,
    object::parse,
};
use evermesh_model::{
    Discovery, Graph, Kind, LocalPorts, ObjectRef, ResolvedMesh, ResolvedNode, RouteRule,
    ServiceName, service::ServiceProvider,
};
use proptest::prelude::*;

use changes::{Change, change, common_mesh, object};

fn apply(inputs: &mut Inputs, change: Change) {
    match change {
        Change::Put(value) => {
            // An API server rejects the other documents.
            if let Some((reference, object)) = parse(value).object {
                assert!(
                    validate(&object)
                        .iter()
                        .all(|problem| problem.object.as_ref() == Some(&reference))
                );
                inputs.apply(reference, Some(object));
            }
        }
        Change::Remove(reference) => {
            inputs.apply(reference, None);
        }
        Change::CloudMap(service, state) => inputs.set_cloud_map(service, state.map(Arc::new)),
        Change::EndpointSlices(endpoint_slices) => {
            inputs.settings = IngestSettings { endpoint_slices };
        }
    }
}

/// Asserts that every name in the graph is a key of one of its maps.
fn assert_resolved(graph: &Graph) {
    let service = |mesh: &Arc<str>, hostname: &Arc<str>| {
        graph.services.contains_key(&ServiceName {
            mesh: Arc::clone(mesh),
            hostname: Arc::clone(hostname),
        })
    };
    for (name, node) in &*graph.nodes {
        assert_eq!(*name, node.name);
        assert!(graph.meshes.contains_key(&name.mesh));
        assert!(
            node.backends
                .iter()
                .all(|one| service(&name.mesh, &one.service))
        );
        match &node.local_ports {
            None => assert_backends_share_ports(graph, node),
            Some(ports) => assert_local_ports(graph, node, ports),
        }
        let is_eds = node.discovery.as_ref().is_some_and(Discovery::is_eds);
        assert!(is_eds || !graph.endpoints.contains_key(name));
    }
    for (name, service) in &*graph.services {
        assert_eq!(*name, service.name);
        assert!(graph.meshes.contains_key(&name.mesh));
        match &service.provider {
            ServiceProvider::None => assert!(service.ports.is_empty()),
            ServiceProvider::Node(node) => assert!(graph.nodes.contains_key(node)),
            ServiceProvider::Router(router) => assert!(graph.routers.contains_key(router)),
        }
    }
    for (name, router) in &*graph.routers {
        assert_eq!(*name, router.name);
        let names: BTreeSet<_> = router.routes.iter().map(|route| &route.name).collect();
        assert_eq!(names.len(), router.routes.len(), "names are unique");
        for route in &router.routes {
            let targets = match &route.rule {
                RouteRule::Http(rule) => &rule.targets,
                RouteRule::Tcp(rule) => &rule.targets,
            };
            for target in targets {
                let listeners = &graph.nodes[&target.node].listeners;
                assert!(listeners.iter().any(|listener| {
                    (listener.port, listener.protocol) == (target.port, target.protocol)
                }));
            }
        }
    }
    for (name, gateway) in &*graph.gateways {
        assert_eq!(*name, gateway.name);
        assert!(gateway.listeners.iter().all(|one| one.protocol.is_http()));
        for route in &gateway.routes {
            let ports = &graph.services[&route.target].ports;
            assert_eq!(route.target_port.is_none(), ports.is_empty());
            assert!(route.target_port.is_none_or(|port| ports.contains(&port)));
        }
    }
}

/// Asserts that the Secrets of the graph exist and have the meshes that map them.
fn assert_secrets(graph: &Graph, inputs: &Inputs) {
    for (name, secret) in &*graph.secrets {
        assert_eq!(*name, secret.name);
        assert!(secret.certificate.is_some() || secret.authorities.is_some());
        let maps = |mesh: &&Arc<ResolvedMesh>| {
            let mut certificates = mesh.acm_certificates.values();
            certificates.any(|it| it.secret == *name)
                || mesh.acm_authorities.values().any(|it| it == name)
        };
        let mut meshes: Vec<_> = graph.meshes.values().filter(maps).collect();
        meshes.sort_by(|one, other| one.object.cmp(&other.object));
        assert!(!meshes.is_empty());
        assert!(meshes.iter().map(|mesh| &mesh.object).eq(&secret.meshes));
        let object = ObjectRef::new(Kind::Secret, name.namespace.clone(), name.name.clone());
        assert!(inputs.secrets.contains_key(&object));
    }
}

/// Asserts that local ports belong to ports of backends or listeners and do not overlap.
fn assert_local_ports(graph: &Graph, node: &ResolvedNode, ports: &LocalPorts) {
    for (local, backend) in &ports.backends {
        assert!(
            node.backends
                .iter()
                .any(|own| own.service == backend.service)
        );
        let name = ServiceName {
            mesh: Arc::clone(&node.name.mesh),
            hostname: Arc::clone(&backend.service),
        };
        let served = &graph.services[&name].ports;
        assert!(served.iter().any(|port| port.port == backend.port));
        assert!(!ports.application.values().any(|own| own == local));
    }
    for listener in &node.listeners {
        assert!(!ports.backends.contains_key(&listener.port));
        assert!(!ports.application.values().any(|own| *own == listener.port));
    }
}

fn assert_backends_share_ports(graph: &Graph, node: &ResolvedNode) {
    for (index, one) in node.backends.iter().enumerate() {
        let ports = |hostname: &Arc<str>| {
            let name = ServiceName {
                mesh: Arc::clone(&node.name.mesh),
                hostname: Arc::clone(hostname),
            };
            graph.services[&name].ports.clone()
        };
        for other in &node.backends[index + 1..] {
            assert!(one.service < other.service, "ascending, without duplicates");
            for port in ports(&one.service) {
                assert!(ports(&other.service).iter().all(|wanted| {
                    wanted.port != port.port
                        || (wanted.protocol.is_http() && port.protocol.is_http())
                }));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn memo_does_not_affect_the_result(
        start in prop::collection::vec(object(), 20..80),
        batches in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..8),
    ) {
        let mut inputs = Inputs::default();
        let mut memo = BuildMemo::default();
        let start = std::iter::once(common_mesh()).chain(start);
        let start = start.map(Change::Put).collect();
        for batch in std::iter::once(start).chain(batches) {
            for change in batch {
                apply(&mut inputs, change);
            }
            let built = build(&inputs, &mut memo);
            let fresh = build(&inputs, &mut BuildMemo::default());
            prop_assert_eq!(&built.graph, &fresh.graph);
            prop_assert_eq!(&built.problems, &fresh.problems);
            prop_assert!(built.problems.is_sorted_by(|one, other| one < other));
            assert_resolved(&built.graph);
            assert_secrets(&built.graph, &inputs);

            for (name, node) in &*built.graph.nodes {
                let mesh = &built.graph.meshes[&name.mesh];
                let expected = built.graph.endpoints.get(name);
                let single = endpoints(node, mesh, &inputs);
                prop_assert_eq!(single.as_ref(), expected.map(|expected| &**expected));
            }
            for (service, users) in cloud_map_users(&built.graph) {
                prop_assert!(!users.is_empty(), "{} has users", service);
            }

            let again = build(&inputs, &mut memo);
            prop_assert!(Arc::ptr_eq(&again.graph, &built.graph));
            prop_assert!(Arc::ptr_eq(&again.problems, &built.problems));
        }
    }
}
