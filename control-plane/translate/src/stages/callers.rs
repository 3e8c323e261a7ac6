//! The stage of the clusters that nodes and gateways with client policies have for themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{
    ClientTls, Graph, LocalPorts, ObjectRef, ProxyKind, ResolvedGateway, ResourceName, ServiceName,
};

use super::{backends, read_service};
use crate::{
    endpoint,
    scope::{EncodedResources, ProxyScope},
    service::{self, NodeServiceRoutes, ReachableClusters},
    stage::{Dependency, DerivationStage, OutputChange, TrackedReads},
    tls::{CalledService, CallerClusters, RenamedBackend, caller_clusters},
    wire,
};

pub(super) type CallerStage = DerivationStage<ResourceName, CallerClusters>;

type Reachable = BTreeMap<ServiceName, Arc<ReachableClusters>>;

/// The own clusters of a node or gateway. `None` without a client policy; then nothing but the caller is read.
pub(super) fn derive(
    graph: &Graph,
    reachable: &Reachable,
    caller: &ResourceName,
    reads: &mut TrackedReads,
) -> Option<CallerClusters> {
    match caller.kind {
        ProxyKind::VirtualNode => {
            let node = reads.get(&graph.nodes, caller, Dependency::Node)?;
            node.backends.iter().find(|it| it.tls.is_some())?;
            let policies = node.backends.iter().map(|it| it.tls.as_deref());
            let services = backends(&node).zip(policies);
            let local = node.local_ports.as_ref();
            let services = called_services(services, local, reachable, reads);
            own_clusters(graph, caller, &node.object, &services, reads)
        }
        ProxyKind::VirtualGateway => {
            let gateway = reads.get(&graph.gateways, caller, Dependency::Gateway)?;
            let policy = gateway.tls.as_deref()?;
            let services = targets(&gateway).into_iter().cloned();
            let services = services.map(|service| (service, Some(policy)));
            let services = called_services(services, None, reachable, reads);
            own_clusters(graph, caller, &gateway.object, &services, reads)
        }
        ProxyKind::VirtualRouter => None,
    }
}

/// The services that exist; with local ports, only those of which a port has one.
fn called_services<'a>(
    services: impl Iterator<Item = (ServiceName, Option<&'a ClientTls>)>,
    local: Option<&LocalPorts>,
    reachable: &Reachable,
    reads: &mut TrackedReads,
) -> Vec<CalledService<'a>> {
    let read = if local.is_some() {
        Dependency::Reachable
    } else {
        Dependency::Targets
    };
    let services = services.filter_map(|(service, policy)| {
        let reachable = reads.get(reachable, &service, read)?;
        let is_called = local.is_none_or(|ports| {
            let mut ports = ports.backends.values();
            ports.any(|it| it.service == service.hostname && reachable.has_port(it.port))
        });
        is_called.then_some(CalledService { reachable, policy })
    });
    services.collect()
}

fn own_clusters(
    graph: &Graph,
    caller: &ResourceName,
    object: &ObjectRef,
    services: &[CalledService<'_>],
    reads: &mut TrackedReads,
) -> Option<CallerClusters> {
    let mesh = reads.get(&graph.meshes, &caller.mesh, Dependency::Mesh)?;
    let origin = wire::origin(object);
    Some(caller_clusters(caller, &origin, &mesh, services, |node| {
        reads.get(&graph.nodes, node, Dependency::Node)
    }))
}

/// The backends that were or are [`RenamedBackend`]s of a caller whose own clusters changed.
pub(super) fn renamed(
    change: &OutputChange<ResourceName, CallerClusters>,
) -> impl Iterator<Item = RenamedBackend> {
    let caller = &change.key;
    let own = change.before.iter().chain(&change.after);
    let hostnames = own.flat_map(|own| own.renamed());
    hostnames.map(|hostname| RenamedBackend {
        caller: caller.clone(),
        service: ServiceName {
            mesh: Arc::clone(&caller.mesh),
            hostname: Arc::clone(hostname),
        },
    })
}

/// The routes by which a caller reaches a backend. `None` if they are those of all callers.
pub(super) fn derive_routes(
    graph: &Graph,
    callers: &BTreeMap<ResourceName, Arc<CallerClusters>>,
    RenamedBackend { caller, service }: &RenamedBackend,
    reads: &mut TrackedReads,
) -> Option<NodeServiceRoutes> {
    let own = callers.get(caller)?;
    let names = CallerClusters::names(Some(own), &service.hostname);
    if names.are_shared() {
        return None;
    }
    let (service, router) = read_service(graph, service, reads)?;
    let router = router.as_deref();
    Some(service::node_service_routes(&service, router, names))
}

/// The load assignments of a caller's own clusters whose names are not those of the shared ones. One of a node whose
/// endpoints are not known does not exist.
pub(super) fn derive_assignments(
    graph: &Graph,
    callers: &BTreeMap<ResourceName, Arc<CallerClusters>>,
    caller: &ResourceName,
    reads: &mut TrackedReads,
) -> Option<EncodedResources> {
    let own = callers.get(caller)?;
    let scope = ProxyScope::new(caller);
    let assignments = own.assignments.iter().filter_map(|assignment| {
        let node = reads.get(&graph.nodes, &assignment.node, Dependency::Node)?;
        let endpoints = reads.get(&graph.endpoints, &assignment.node, Dependency::Endpoints)?;
        let name = Arc::clone(&assignment.name);
        let resource = endpoint::renamed_assignment(name, &node, assignment.port, &endpoints)?;
        Some(scope.scoped(resource))
    });
    Some(assignments.collect())
}

/// The target services of a gateway's routes, each once.
pub(super) fn targets(gateway: &ResolvedGateway) -> BTreeSet<&ServiceName> {
    gateway.routes.iter().map(|route| &route.target).collect()
}

/// The caller whose own clusters changed.
pub(super) fn own_clusters_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::CallerClusters(name) => Some(name),
        _ => None,
    }
}

/// The backend that a caller has other clusters for, or had.
pub(super) fn renamed_backend_of(read: &Dependency) -> Option<&RenamedBackend> {
    match read {
        Dependency::RenamedBackend(backend) => Some(backend),
        _ => None,
    }
}

/// The node or gateway that the stage runs for.
pub(super) fn caller_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::Node(name) | Dependency::Gateway(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
#[path = "../../tests/support/builders.rs"]
#[allow(dead_code, clippy::unwrap_used, unreachable_pub)] // shared with the other tests
mod builders;
#[cfg(test)]
#[path = "../../tests/support/tls.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the other tests
mod settings;

#[cfg(test)]
mod tests {
    use evermesh_model::{LocalBackend, LocalPorts, Protocol, ServiceProvider};

    use super::{super::DeriveMemo, builders, settings};

    /// A service with an HTTP route and a TCP route to two nodes with TLS, and a caller with a policy. `weight` is that of
    /// one target of each route.
    fn graph(weight: u32) -> evermesh_model::Graph {
        let ports = [(80, Protocol::Http), (6379, Protocol::Tcp)];
        let mut graph = builders::graph();
        for name in ["a", "b"] {
            let mut node = builders::node(name, &ports, &[]);
            for listener in &mut node.listeners {
                listener.tls = settings::server(1);
            }
            builders::add_node(&mut graph, node);
        }
        let targets = |port| {
            vec![
                builders::target("a", port, weight),
                builders::target("b", port, 100),
            ]
        };
        let routes = vec![
            builders::route("r", "http", builders::http("/", targets(ports[0]))),
            builders::route("r", "tcp", builders::tcp(targets(ports[1]))),
        ];
        builders::add_router(&mut graph, builders::router("r", routes));
        let provider = ServiceProvider::Router(builders::router_name("r"));
        builders::add_service(&mut graph, builders::service("s.ns", provider, &ports));
        let mut caller = builders::node("caller", &[], &["s.ns"]);
        for backend in &mut caller.backends {
            backend.tls = settings::policy(2);
        }
        builders::add_node(&mut graph, caller);
        let route = builders::gateway_route("s.ns", Some(ports[0]), true);
        let mut gateway = builders::gateway(vec![route], false);
        gateway.tls = settings::policy(2);
        builders::add_gateway(&mut graph, gateway);
        graph
    }

    /// The number of runs of the stages that read to which clusters a service leads.
    fn cluster_runs(memo: &DeriveMemo) -> usize {
        let of_callers = memo.callers.runs + memo.caller_assignments.runs;
        of_callers + memo.clusters.runs + memo.ingress.runs
    }

    #[test]
    fn reordered_and_repeated_targets_run_no_stage_of_clusters() {
        let mut memo = DeriveMemo::default();
        let mut graph = graph(100);
        memo.update(&graph);
        let before = cluster_runs(&memo);
        let targets = |port, nodes: [&str; 3]| {
            let targets = nodes.map(|node| builders::target(node, port, 1));
            targets.to_vec()
        };
        for nodes in [["b", "a", "b"], ["a", "b", "a"]] {
            let http = builders::http("/", targets((80, Protocol::Http), nodes));
            let tcp = builders::tcp(targets((6379, Protocol::Tcp), nodes));
            let routes = vec![
                builders::route("r", "http", http),
                builders::route("r", "tcp", tcp),
            ];
            builders::add_router(&mut graph, builders::router("r", routes));
            memo.update(&graph);
            assert_eq!(cluster_runs(&memo), before);
        }
    }

    /// Three services with other routes to the same nodes. A caller has one of these policies for each.
    fn with_policies(weight: u32, policies: [usize; 3]) -> evermesh_model::Graph {
        let mut graph = graph(100);
        let ports = [(80, Protocol::Http)];
        let targets = vec![
            builders::target("a", ports[0], weight),
            builders::target("b", ports[0], 100),
        ];
        let routes = vec![builders::route("t", "http", builders::http("/", targets))];
        builders::add_router(&mut graph, builders::router("t", routes));
        let provider = ServiceProvider::Router(builders::router_name("t"));
        builders::add_service(&mut graph, builders::service("t.ns", provider, &ports));
        let node = ServiceProvider::Node(builders::node_name("a"));
        builders::add_service(&mut graph, builders::service("u.ns", node, &ports));
        let mut caller = builders::node("caller", &[], &["s.ns", "t.ns", "u.ns"]);
        for (backend, policy) in caller.backends.iter_mut().zip(policies) {
            backend.tls = settings::policy(policy);
        }
        builders::add_node(&mut graph, caller);
        graph
    }

    fn hostnames_of_own_routes(memo: &DeriveMemo) -> Vec<String> {
        let backends = memo.caller_routes.outputs().keys();
        backends.map(|it| it.service.hostname.to_string()).collect()
    }

    #[test]
    fn shifted_weight_derives_own_routes_of_its_service_only() {
        let mut memo = DeriveMemo::default();
        let mut graph = with_policies(100, [2, 3, 4]);
        memo.update(&graph);
        assert_eq!(hostnames_of_own_routes(&memo), ["t.ns", "u.ns"]);
        let before = memo.caller_routes.runs;
        graph.routers = with_policies(50, [2, 3, 4]).routers;
        let changes = memo.update(&graph);
        assert_eq!(memo.caller_routes.runs, before + 1);
        let names: Vec<&str> = changes.resources.keys().map(|key| &*key.name).collect();
        assert_eq!(names, ["rds_egress_http_80"]);
    }

    #[test]
    fn node_with_local_ports_has_own_clusters_of_the_services_that_it_calls() {
        let mut memo = DeriveMemo::default();
        let mut graph = with_policies(100, [2, 3, 4]);
        let name = builders::node_name("caller");
        let mut caller = (*graph.nodes[&name]).clone();
        let backend = |service: &str, port| LocalBackend {
            service: service.into(),
            port,
        };
        caller.local_ports = Some(LocalPorts {
            backends: [(9001, backend("u.ns", 80)), (9002, backend("t.ns", 81))].into(),
            application: [].into(),
        });
        builders::add_node(&mut graph, caller);
        memo.update(&graph);
        let own = &memo.callers.outputs()[&name];
        assert!(own.calls("u.ns"));
        assert!(!own.calls("s.ns") && !own.calls("t.ns"));
    }

    #[test]
    fn equal_policies_have_no_own_routes() {
        let mut memo = DeriveMemo::default();
        memo.update(&with_policies(100, [2, 3, 4]));
        memo.update(&with_policies(100, [2, 2, 2]));
        assert_eq!(hostnames_of_own_routes(&memo), [""; 0]);
    }

    #[test]
    fn shifted_weight_runs_no_stage_of_clusters() {
        let mut memo = DeriveMemo::default();
        let mut shifted = graph(100);
        let first = memo.update(&shifted);
        assert!(
            first
                .resources
                .keys()
                .any(|key| key.scope.is_some() && key.name.starts_with("cds_egress")),
            "the caller has clusters of its own"
        );
        let before = (cluster_runs(&memo), memo.node_routes.runs);
        shifted.routers = graph(50).routers;
        let changes = memo.update(&shifted);
        assert_eq!(cluster_runs(&memo), before.0);
        assert!(memo.node_routes.runs > before.1, "the routes were derived");
        let kinds = changes.resources.keys().map(|key| key.kind.as_str());
        let kinds: std::collections::BTreeSet<&str> = kinds.collect();
        assert_eq!(kinds, ["listener", "route"].into());
        assert!(changes.views.is_empty(), "{:?}", changes.views);
    }
}
