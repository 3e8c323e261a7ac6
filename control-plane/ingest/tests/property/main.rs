//! Properties that hold for arbitrary inputs and histories: a rebuild does not panic, its result does not depend on the
//! memo, and every name in a graph is resolved.

mod changes;

use std::{collections::BTreeSet, sync::Arc};

use evermesh_ingest::{
    BuildMemo, IngestSettings, Inputs, admission::validate, build, cloud_map_users, endpoints,
    object::parse,
};
use evermesh_model::{
    AccessLogFile, AccessLogFormat, Discovery, Graph, Kind, LocalPorts, NodeListener, ObjectRef,
    Protocol, ResolvedMesh, ResolvedNode, ResolvedService, RouteRule, ServiceName, ServicePort,
    service::ServiceProvider,
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
        assert_envoy_accepts(node.listeners.iter(), node.access_log.as_ref());
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
        assert_envoy_accepts([], gateway.access_log.as_ref());
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

/// Asserts that Envoy accepts the values of settings: durations of ejections, paths of health checks, and the access log.
fn assert_envoy_accepts<'a>(
    listeners: impl IntoIterator<Item = &'a NodeListener>,
    access_log: Option<&AccessLogFile>,
) {
    for listener in listeners {
        if let Some(check) = &listener.health_check {
            let is_http = matches!(check.protocol, Protocol::Http | Protocol::Http2);
            assert!(!is_http || (check.path.starts_with('/') && !check.path.contains(' ')));
        }
        if let Some(outlier) = &listener.outlier {
            assert!(!outlier.interval.is_zero() && !outlier.base_duration.is_zero());
        }
    }
    let Some(AccessLogFile { path, format }) = access_log else {
        return;
    };
    assert!(!path.ends_with('/'));
    match format {
        None => {}
        Some(AccessLogFormat::Text(text)) => assert!(is_format(text)),
        Some(AccessLogFormat::Json(values)) => {
            assert!(!values.is_empty() && values.values().all(|value| is_format(value)));
        }
    }
}

/// Returns whether a format of the strategies is one that Envoy accepts.
fn is_format(text: &str) -> bool {
    ["%PROTOCOL%", "100%%"].contains(&text)
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

/// Asserts that connections to a port are distinguished: TCP backends that share their port have virtual IPs of their
/// own, except one if no HTTP backend uses the port.
fn assert_backends_share_ports(graph: &Graph, node: &ResolvedNode) {
    let backends = &node.backends;
    assert!(
        backends.is_sorted_by(|one, other| one.service < other.service),
        "ascending, without duplicates"
    );
    let services: Vec<&ResolvedService> = backends
        .iter()
        .map(|backend| {
            let name = ServiceName {
                mesh: Arc::clone(&node.name.mesh),
                hostname: Arc::clone(&backend.service),
            };
            &*graph.services[&name]
        })
        .collect();
    let with_ports: Vec<(&ResolvedService, ServicePort)> = services
        .iter()
        .flat_map(|service| service.ports.iter().map(|port| (*service, *port)))
        .collect();
    let takes_any = |service: &ResolvedService, port: ServicePort| {
        port.protocol.is_http() || service.virtual_ips.is_empty()
    };
    for (index, &(one, port)) in with_ports.iter().enumerate() {
        for &(other, wanted) in &with_ports[index + 1..] {
            let are_http = port.protocol.is_http() && wanted.protocol.is_http();
            if port.port != wanted.port || are_http {
                continue;
            }
            let mut addresses = one.virtual_ips.iter();
            assert!(!addresses.any(|address| other.virtual_ips.contains(address)));
            assert!(!(takes_any(one, port) && takes_any(other, wanted)));
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
