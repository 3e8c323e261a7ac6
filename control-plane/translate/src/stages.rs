//! The memo of translation: its stages, the order in which an update runs them, and the resources and views that they
//! gave.
//!
//! An update compares the graph with the previous one by pointer, runs the affected keys of each stage in order, and
//! applies the changed outputs to [`Derived`]. The crate documentation has a diagram of the stages.

mod callers;

use std::{collections::BTreeSet, sync::Arc};

use evermesh_model::{
    Endpoint, Graph, ResolvedRouter, ResolvedService, ResourceName, ServiceName, ServiceProvider,
    SharedMap,
};
use evermesh_proto::{ProxyView, ResourceKey};

use self::callers::{CallerStage, caller_of, own_clusters_of, renamed_backend_of};
use crate::{
    Derived, ResourceChanges, cluster, endpoint, listener,
    listener::{GatewayResources, NodeEgress, NodeIngress},
    scope::{self, EncodedResources, ProxyScope},
    secret::{self, SecretUses},
    service::{self, GatewayServiceRoutes, NodeServiceRoutes, ReachableClusters},
    stage::{Dependency, DerivationStage, OutputChange, TrackedReads},
    tls::{ClusterNames, RenamedBackend},
};

/// The state that [`crate::derive`] keeps between updates. A memo only saves work: the result is that of an empty one.
#[derive(Debug, Default)]
pub struct DeriveMemo {
    /// The graph of the last update.
    graph: Graph,
    original_destinations: DerivationStage<Arc<str>, EncodedResources>,
    clusters: DerivationStage<ResourceName, EncodedResources>,
    callers: CallerStage,
    caller_routes: DerivationStage<RenamedBackend, NodeServiceRoutes>,
    caller_assignments: DerivationStage<ResourceName, EncodedResources>,
    assignments: DerivationStage<ResourceName, EncodedResources>,
    reachable: DerivationStage<ServiceName, ReachableClusters>,
    node_routes: DerivationStage<ServiceName, NodeServiceRoutes>,
    gateway_routes: DerivationStage<ServiceName, GatewayServiceRoutes>,
    ingress: DerivationStage<ResourceName, NodeIngress>,
    egress: DerivationStage<ResourceName, NodeEgress>,
    egress_routes: DerivationStage<ResourceName, EncodedResources>,
    views: DerivationStage<ResourceName, ProxyView>,
    gateways: DerivationStage<ResourceName, GatewayResources>,
    secrets: DerivationStage<Arc<str>, EncodedResources>,
    /// The secrets that views list.
    secret_uses: SecretUses,
    /// The services that routes of gateways target.
    gateway_targets: BTreeSet<ServiceName>,
    derived: Derived,
}

impl DeriveMemo {
    /// All resources and views as of the last update.
    pub const fn derived(&self) -> &Derived {
        &self.derived
    }

    pub(crate) fn update(&mut self, graph: &Graph) -> ResourceChanges {
        let mut changed = self.changed_inputs(graph);
        let mut out = ResourceChanges::default();
        self.update_services(graph, &mut changed);
        self.update_callers(graph, &mut changed, &mut out);
        self.update_assignments(graph, &changed, &mut out);
        self.update_nodes(graph, &mut changed, &mut out);
        self.update_gateways(graph, &mut changed, &mut out);
        self.update_secrets(graph, &changed, &mut out);
        out
    }

    /// An update in which only the endpoints of one node differ.
    pub(crate) fn update_endpoints(
        &mut self,
        node: &ResourceName,
        endpoints: Arc<Vec<Endpoint>>,
    ) -> ResourceChanges {
        let mut out = ResourceChanges::default();
        Arc::make_mut(&mut self.graph.endpoints).insert(node.clone(), endpoints);
        let graph = self.graph.clone();
        let changed = [Dependency::Endpoints(node.clone())].into();
        self.update_assignments(&graph, &changed, &mut out);
        out
    }

    /// The objects whose pointers differ from those of the last update.
    fn changed_inputs(&mut self, graph: &Graph) -> BTreeSet<Dependency> {
        let mut changed = BTreeSet::new();
        let last = std::mem::replace(&mut self.graph, graph.clone());
        collect_changed(&last.meshes, &graph.meshes, Dependency::Mesh, &mut changed);
        collect_changed(&last.nodes, &graph.nodes, Dependency::Node, &mut changed);
        collect_changed(
            &last.services,
            &graph.services,
            Dependency::Service,
            &mut changed,
        );
        collect_changed(
            &last.routers,
            &graph.routers,
            Dependency::Router,
            &mut changed,
        );
        collect_changed(
            &last.secrets,
            &graph.secrets,
            Dependency::Secret,
            &mut changed,
        );
        collect_changed(
            &last.endpoints,
            &graph.endpoints,
            Dependency::Endpoints,
            &mut changed,
        );
        if collect_changed(
            &last.gateways,
            &graph.gateways,
            Dependency::Gateway,
            &mut changed,
        ) {
            let routes = graph.gateways.values().flat_map(|gateway| &gateway.routes);
            let targets = routes.map(|route| route.target.clone()).collect();
            let differing = self.gateway_targets.symmetric_difference(&targets).cloned();
            changed.extend(differing.map(Dependency::GatewayTarget));
            self.gateway_targets = targets;
        }
        changed
    }

    /// The stages with an output for each service. They have no resources of their own.
    fn update_services(&mut self, graph: &Graph, changed: &mut BTreeSet<Dependency>) {
        let reachable = self.reachable.update(changed, service_of, |name, reads| {
            let (service, router) = read_service(graph, name, reads)?;
            let nodes: Vec<_> = service::nodes(&service, router.as_deref())
                .into_iter()
                .filter_map(|node| reads.get(&graph.nodes, node, Dependency::Node))
                .collect();
            Some(service::reachable_clusters(
                &service,
                router.as_deref(),
                &nodes,
            ))
        });
        let node_routes = self.node_routes.update(changed, service_of, |name, reads| {
            let (service, router) = read_service(graph, name, reads)?;
            Some(service::node_service_routes(
                &service,
                router.as_deref(),
                ClusterNames::default(),
            ))
        });
        let gateway_routes = self
            .gateway_routes
            .update(changed, target_of, |name, reads| {
                if !self.gateway_targets.contains(name) {
                    return None;
                }
                let (service, router) = read_service(graph, name, reads)?;
                Some(service::gateway_service_routes(&service, router.as_deref()))
            });
        for change in reachable {
            let before = change.before.as_ref().map(|it| &it.clusters);
            if before != change.after.as_ref().map(|it| &it.clusters) {
                changed.insert(Dependency::Targets(change.key.clone()));
            }
            changed.insert(Dependency::Reachable(change.key));
        }
        changed.extend(
            node_routes
                .into_iter()
                .map(|change| Dependency::NodeRoutes(change.key)),
        );
        changed.extend(
            gateway_routes
                .into_iter()
                .map(|change| Dependency::GatewayRoutes(change.key)),
        );
    }

    /// The own clusters of nodes and gateways with client policies, and the routes that name them.
    fn update_callers(
        &mut self,
        graph: &Graph,
        changed: &mut BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        let reachable = self.reachable.outputs();
        for change in self.callers.update(changed, caller_of, |name, reads| {
            callers::derive(graph, reachable, name, reads)
        }) {
            self.derived.apply(&change, |own| &own.resources, out);
            changed.extend(callers::renamed(&change).map(Dependency::RenamedBackend));
            changed.insert(Dependency::CallerClusters(change.key));
        }
        let callers = self.callers.outputs();
        let stage = &mut self.caller_routes;
        for change in stage.update(changed, renamed_backend_of, |backend, reads| {
            callers::derive_routes(graph, callers, backend, reads)
        }) {
            changed.insert(Dependency::CallerRoutes(change.key));
        }
    }

    /// The stages of load assignments. While the endpoints of a node are not known, its load assignments do not exist, and
    /// proxies keep those that they have.
    fn update_assignments(
        &mut self,
        graph: &Graph,
        changed: &BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        let of_nodes = self.assignments.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            let Some(endpoints) = reads.get(&graph.endpoints, name, Dependency::Endpoints) else {
                return Some(EncodedResources::new());
            };
            Some(endpoint::load_assignments(&node, &endpoints))
        });
        let callers = self.callers.outputs();
        let stage = &mut self.caller_assignments;
        let of_callers = stage.update(changed, own_clusters_of, |name, reads| {
            callers::derive_assignments(graph, callers, name, reads)
        });
        for change in of_nodes.iter().chain(&of_callers) {
            self.derived.apply(change, |resources| resources, out);
        }
    }

    fn update_nodes(
        &mut self,
        graph: &Graph,
        changed: &mut BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        let derived = &mut self.derived;
        let callers = self.callers.outputs();
        for change in self
            .original_destinations
            .update(changed, mesh_of, |name, reads| {
                let mesh = reads.get(&graph.meshes, name, Dependency::Mesh)?;
                Some(cluster::original_destinations(&mesh))
            })
        {
            derived.apply(&change, |resources| resources, out);
        }
        for change in self.clusters.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            Some(cluster::node_clusters(&node, &mesh))
        }) {
            derived.apply(&change, |resources| resources, out);
        }
        let ingress = self.ingress.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            Some(listener::node_ingress(&node, &mesh))
        });
        let egress = self.egress.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            let own = reads.get(callers, name, Dependency::CallerClusters);
            if let Some(ports) = &node.local_ports {
                let ports = listener::local_ports(&node, ports, |service| {
                    reads.get(self.reachable.outputs(), service, Dependency::Reachable)
                });
                return Some(listener::local_egress(&node, &mesh, &ports, own.as_deref()));
            }
            let backends: Vec<_> = backends(&node)
                .filter_map(|service| {
                    reads.get(self.reachable.outputs(), &service, Dependency::Reachable)
                })
                .collect();
            Some(listener::node_egress(
                &node,
                &mesh,
                &backends,
                own.as_deref(),
            ))
        });
        for change in ingress {
            derived.apply(&change, |ingress| &ingress.resources, out);
            changed.insert(Dependency::Ingress(change.key));
        }
        for change in egress {
            derived.apply(&change, |egress| &egress.resources, out);
            changed.insert(Dependency::Egress(change.key));
        }
        for change in self.egress_routes.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            if let Some(ports) = &node.local_ports {
                let own = reads.get(callers, name, Dependency::CallerClusters);
                let ports = listener::local_ports(&node, ports, |service| {
                    read_service(graph, service, reads)
                });
                return Some(listener::local_egress_routes(&node, &ports, own.as_deref()));
            }
            let egress = reads.get(self.egress.outputs(), name, Dependency::Egress)?;
            let backends: Vec<_> = backends(&node)
                .filter_map(|service| {
                    if egress.renamed.contains(&service.hostname) {
                        let routes = self.caller_routes.outputs();
                        let caller = name.clone();
                        let backend = RenamedBackend { caller, service };
                        return reads.get(routes, &backend, Dependency::CallerRoutes);
                    }
                    reads.get(self.node_routes.outputs(), &service, Dependency::NodeRoutes)
                })
                .collect();
            Some(listener::node_egress_routes(&egress, &backends))
        }) {
            derived.apply(&change, |resources| resources, out);
        }
        for change in self.views.update(changed, node_side_of, |name, reads| {
            let ingress = reads.get(self.ingress.outputs(), name, Dependency::Ingress)?;
            let egress = reads.get(self.egress.outputs(), name, Dependency::Egress)?;
            let keys = ingress.secrets.iter().chain(&egress.keys);
            Some(scope::view(&ingress.resources, keys))
        }) {
            let (before, after) = (change.before.as_deref(), change.after.as_deref());
            self.secret_uses.replace(before, after, changed);
            derived.apply_view(&change.key, change.after, out);
        }
    }

    fn update_gateways(
        &mut self,
        graph: &Graph,
        changed: &mut BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        for change in self.gateways.update(changed, gateway_of, |name, reads| {
            let gateway = reads.get(&graph.gateways, name, Dependency::Gateway)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            let own = reads.get(self.callers.outputs(), name, Dependency::CallerClusters);
            let targets: Vec<_> = callers::targets(&gateway)
                .into_iter()
                .filter_map(|target| {
                    let reachable =
                        reads.get(self.reachable.outputs(), target, Dependency::Reachable)?;
                    let routes = reads.get(
                        self.gateway_routes.outputs(),
                        target,
                        Dependency::GatewayRoutes,
                    )?;
                    Some((reachable, routes))
                })
                .collect();
            Some(listener::gateway_resources(
                &gateway,
                &mesh,
                &targets,
                own.as_deref(),
            ))
        }) {
            self.derived
                .apply(&change, |gateway| &gateway.resources, out);
            let view_of = |gateway: &Option<Arc<GatewayResources>>| {
                gateway.as_ref().map(|it| Arc::clone(&it.view))
            };
            let (before, after) = (view_of(&change.before), view_of(&change.after));
            self.secret_uses
                .replace(before.as_deref(), after.as_deref(), changed);
            self.derived.apply_view(&change.key, after, out);
        }
    }
}

impl DeriveMemo {
    /// The stage of secrets with the contents of Kubernetes Secrets, after all views.
    fn update_secrets(
        &mut self,
        graph: &Graph,
        changed: &BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        for change in self.secrets.update(changed, secret_of, |name, reads| {
            let is_listed = self.secret_uses.contains(name);
            is_listed.then(|| {
                secret::resource(name, |it| reads.get(&graph.secrets, it, Dependency::Secret))
            })
        }) {
            self.derived.apply(&change, |resources| resources, out);
        }
    }
}

impl Derived {
    /// Applies the resources of a changed output and records the differences in `out`.
    ///
    /// A resource key belongs to one output, so a resource that the new output lacks is removed. An equal resource keeps
    /// its pointer.
    fn apply<K, T>(
        &mut self,
        change: &OutputChange<K, T>,
        resources: impl Fn(&T) -> &EncodedResources,
        out: &mut ResourceChanges,
    ) {
        let before = change.before.as_deref().map_or(&[][..], |it| resources(it));
        let after = change.after.as_deref().map_or(&[][..], |it| resources(it));
        let kept = |key: &ResourceKey| after.iter().any(|(other, _)| other == key);
        for (key, _) in before.iter().filter(|(key, _)| !kept(key)) {
            self.resources.remove(key);
            out.resources.insert(key.clone(), None);
        }
        for (key, resource) in after {
            if self.resources.get(key) != Some(resource) {
                self.resources.insert(key.clone(), Arc::clone(resource));
                out.resources
                    .insert(key.clone(), Some(Arc::clone(resource)));
            }
        }
    }

    fn apply_view(
        &mut self,
        proxy: &ResourceName,
        view: Option<Arc<ProxyView>>,
        out: &mut ResourceChanges,
    ) {
        let name = ProxyScope::new(proxy).name();
        if self.views.get(&name) == view.as_ref() {
            return;
        }
        match &view {
            Some(view) => self.views.insert(Arc::clone(&name), Arc::clone(view)),
            None => self.views.remove(&name),
        };
        out.views.insert(name, view);
    }
}

/// Adds the keys whose pointers differ between the maps to `changed`. Returns false if both are the same map, by pointer.
///
/// Walks both maps in key order at once.
fn collect_changed<K: Ord + Clone, T>(
    last: &SharedMap<K, T>,
    now: &SharedMap<K, T>,
    read: fn(K) -> Dependency,
    changed: &mut BTreeSet<Dependency>,
) -> bool {
    if Arc::ptr_eq(last, now) {
        return false;
    }
    let mut before = last.iter().peekable();
    let mut add = |key: &K| changed.insert(read(key.clone()));
    for (key, value) in &**now {
        let unchanged = |it: &(&K, &Arc<T>)| Arc::ptr_eq(it.1, value) && it.0 == key;
        if before.next_if(unchanged).is_some() {
            continue;
        }
        while let Some((removed, _)) = before.next_if(|(other, _)| *other < key) {
            add(removed);
        }
        if before.next_if(unchanged).is_none() {
            before.next_if(|(other, _)| *other == key);
            add(key);
        }
    }
    for (removed, _) in before {
        add(removed);
    }
    true
}

fn read_service(
    graph: &Graph,
    name: &ServiceName,
    reads: &mut TrackedReads,
) -> Option<(Arc<ResolvedService>, Option<Arc<ResolvedRouter>>)> {
    let service = reads.get(&graph.services, name, Dependency::Service)?;
    let router = match &service.provider {
        ServiceProvider::Router(router) => reads.get(&graph.routers, router, Dependency::Router),
        ServiceProvider::Node(_) | ServiceProvider::None => None,
    };
    Some((service, router))
}

/// The names of the backends of a node, in its order.
fn backends(node: &evermesh_model::ResolvedNode) -> impl Iterator<Item = ServiceName> {
    node.backends.iter().map(|backend| ServiceName {
        mesh: Arc::clone(&node.name.mesh),
        hostname: Arc::clone(&backend.service),
    })
}

fn mesh_of(read: &Dependency) -> Option<&Arc<str>> {
    match read {
        Dependency::Mesh(name) => Some(name),
        _ => None,
    }
}

fn node_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::Node(name) => Some(name),
        _ => None,
    }
}

/// The node of an ingress or egress output; the view of a node depends on both.
fn node_side_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::Ingress(name) | Dependency::Egress(name) => Some(name),
        _ => None,
    }
}

fn service_of(read: &Dependency) -> Option<&ServiceName> {
    match read {
        Dependency::Service(name) => Some(name),
        _ => None,
    }
}

fn target_of(read: &Dependency) -> Option<&ServiceName> {
    match read {
        Dependency::Service(name) | Dependency::GatewayTarget(name) => Some(name),
        _ => None,
    }
}

fn secret_of(read: &Dependency) -> Option<&Arc<str>> {
    match read {
        Dependency::StoredSecret(name) => Some(name),
        _ => None,
    }
}

fn gateway_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::Gateway(name) => Some(name),
        _ => None,
    }
}
