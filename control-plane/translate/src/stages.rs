//! The stages of a turn: which function gets what, in which order, and what came of it.
//!
//! Must not make a resource.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_model::{
    Endpoint, Graph, ResolvedRouter, ResolvedService, ResourceName, ServiceName, ServiceProvider,
    SharedMap,
};
use evermesh_proto::{ProxyView, ResourceKey};

use crate::{
    Derived, ResourceChanges, cluster, endpoint, listener,
    listener::{GatewayResources, NodeEgress, NodeIngress},
    scope::{self, EncodedResources, ProxyScope},
    service::{self, GatewayServiceRoutes, NodeServiceRoutes, ReachableClusters},
    stage::{Dependency, DerivationStage, OutputChange, TrackedReads},
};

/// What [`crate::derive`] remembers from one turn to the next. It only saves time: the result is that of a fresh one.
#[derive(Debug, Default)]
pub struct DeriveMemo {
    last: Graph,
    original_destinations: DerivationStage<Arc<str>, EncodedResources>,
    clusters: DerivationStage<ResourceName, EncodedResources>,
    assignments: DerivationStage<ResourceName, EncodedResources>,
    reachable: DerivationStage<ServiceName, ReachableClusters>,
    node_routes: DerivationStage<ServiceName, NodeServiceRoutes>,
    gateway_routes: DerivationStage<ServiceName, GatewayServiceRoutes>,
    ingress: DerivationStage<ResourceName, NodeIngress>,
    egress: DerivationStage<ResourceName, NodeEgress>,
    routes: DerivationStage<ResourceName, EncodedResources>,
    views: DerivationStage<ResourceName, ProxyView>,
    gateways: DerivationStage<ResourceName, GatewayResources>,
    /// The services that gateways lead to.
    targeted: BTreeSet<ServiceName>,
    derived: Derived,
}

impl DeriveMemo {
    /// What the last turn made.
    pub const fn derived(&self) -> &Derived {
        &self.derived
    }

    pub(crate) fn update(&mut self, graph: &Graph) -> ResourceChanges {
        let mut changed = self.changed_inputs(graph);
        let mut out = ResourceChanges::default();
        self.update_services(graph, &mut changed);
        self.update_nodes(graph, &mut changed, &mut out);
        self.update_gateways(graph, &changed, &mut out);
        out
    }

    /// The last graph again, with other endpoints of one node.
    pub(crate) fn update_endpoints(
        &mut self,
        node: &ResourceName,
        endpoints: Arc<Vec<Endpoint>>,
    ) -> ResourceChanges {
        let mut out = ResourceChanges::default();
        Arc::make_mut(&mut self.last.endpoints).insert(node.clone(), endpoints);
        update_assignments(
            &mut self.assignments,
            &mut self.derived,
            &self.last,
            &[Dependency::Endpoints(node.clone())].into(),
            &mut out,
        );
        out
    }

    /// The objects that are not those of the last turn, by pointer.
    fn changed_inputs(&mut self, graph: &Graph) -> BTreeSet<Dependency> {
        let mut changed = BTreeSet::new();
        let last = std::mem::replace(&mut self.last, graph.clone());
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
            let targeted = routes.map(|route| route.target.clone()).collect();
            let other = self.targeted.symmetric_difference(&targeted).cloned();
            changed.extend(other.map(Dependency::Targeted));
            self.targeted = targeted;
        }
        changed
    }

    /// What services mean to their callers.
    fn update_services(&mut self, graph: &Graph, changed: &mut BTreeSet<Dependency>) {
        let reach = self.reachable.update(changed, service_of, |name, reads| {
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
        let node_hosts = self.node_routes.update(changed, service_of, |name, reads| {
            let (service, router) = read_service(graph, name, reads)?;
            Some(service::node_service_routes(&service, router.as_deref()))
        });
        let gateway_hosts = self
            .gateway_routes
            .update(changed, target_of, |name, reads| {
                if !self.targeted.contains(name) {
                    return None;
                }
                let (service, router) = read_service(graph, name, reads)?;
                Some(service::gateway_service_routes(&service, router.as_deref()))
            });
        changed.extend(
            reach
                .into_iter()
                .map(|it| Dependency::ReachableClusters(it.key)),
        );
        changed.extend(
            node_hosts
                .into_iter()
                .map(|it| Dependency::NodeServiceRoutes(it.key)),
        );
        changed.extend(
            gateway_hosts
                .into_iter()
                .map(|it| Dependency::GatewayServiceRoutes(it.key)),
        );
    }

    fn update_nodes(
        &mut self,
        graph: &Graph,
        changed: &mut BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        let derived = &mut self.derived;
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
        update_assignments(&mut self.assignments, derived, graph, changed, out);
        let inbound = self.ingress.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            Some(listener::node_ingress(&node, &mesh))
        });
        let outbound = self.egress.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            if let Some(ports) = &node.local_ports {
                let ports = listener::local_ports(&node, ports, |service| {
                    reads.get(
                        self.reachable.outputs(),
                        service,
                        Dependency::ReachableClusters,
                    )
                });
                return Some(listener::local_egress(&node, &mesh, &ports));
            }
            let backends: Vec<_> = backends(&node)
                .filter_map(|service| {
                    reads.get(
                        self.reachable.outputs(),
                        &service,
                        Dependency::ReachableClusters,
                    )
                })
                .collect();
            Some(listener::node_egress(&node, &mesh, &backends))
        });
        for change in inbound {
            derived.apply(&change, |inbound| &inbound.resources, out);
            changed.insert(Dependency::NodeIngress(change.key));
        }
        for change in outbound {
            derived.apply(&change, |outbound| &outbound.resources, out);
            changed.insert(Dependency::NodeEgress(change.key));
        }
        for change in self.routes.update(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Dependency::Node)?;
            if let Some(ports) = &node.local_ports {
                let ports = listener::local_ports(&node, ports, |service| {
                    read_service(graph, service, reads)
                });
                return Some(listener::local_egress_routes(&node, &ports));
            }
            let outbound = reads.get(self.egress.outputs(), name, Dependency::NodeEgress)?;
            let backends: Vec<_> = backends(&node)
                .filter_map(|it| {
                    reads.get(
                        self.node_routes.outputs(),
                        &it,
                        Dependency::NodeServiceRoutes,
                    )
                })
                .collect();
            Some(listener::node_egress_routes(&outbound, &backends))
        }) {
            derived.apply(&change, |resources| resources, out);
        }
        for change in self
            .views
            .update(changed, node_direction_of, |name, reads| {
                let inbound = reads.get(self.ingress.outputs(), name, Dependency::NodeIngress)?;
                let outbound = reads.get(self.egress.outputs(), name, Dependency::NodeEgress)?;
                Some(scope::view(&inbound.resources, &outbound.keys))
            })
        {
            derived.apply_view(&change.key, change.after, out);
        }
    }

    fn update_gateways(
        &mut self,
        graph: &Graph,
        changed: &BTreeSet<Dependency>,
        out: &mut ResourceChanges,
    ) {
        for change in self.gateways.update(changed, gateway_of, |name, reads| {
            let gateway = reads.get(&graph.gateways, name, Dependency::Gateway)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Dependency::Mesh)?;
            let routes = gateway.routes.iter();
            let targets: BTreeSet<&ServiceName> = routes.map(|route| &route.target).collect();
            let targets: Vec<_> = targets
                .into_iter()
                .filter_map(|target| {
                    let reach = reads.get(
                        self.reachable.outputs(),
                        target,
                        Dependency::ReachableClusters,
                    )?;
                    let hosts = reads.get(
                        self.gateway_routes.outputs(),
                        target,
                        Dependency::GatewayServiceRoutes,
                    )?;
                    Some((reach, hosts))
                })
                .collect();
            Some(listener::gateway_resources(&gateway, &mesh, &targets))
        }) {
            self.derived
                .apply(&change, |gateway| &gateway.resources, out);
            let view = change.after.map(|gateway| Arc::clone(&gateway.view));
            self.derived.apply_view(&change.key, view, out);
        }
    }
}

/// The load assignments of nodes. As long as nothing is known there is nothing to say: a proxy keeps what it has.
fn update_assignments(
    stage: &mut DerivationStage<ResourceName, EncodedResources>,
    derived: &mut Derived,
    graph: &Graph,
    changed: &BTreeSet<Dependency>,
    out: &mut ResourceChanges,
) {
    for change in stage.update(changed, node_of, |name, reads| {
        let node = reads.get(&graph.nodes, name, Dependency::Node)?;
        let Some(endpoints) = reads.get(&graph.endpoints, name, Dependency::Endpoints) else {
            return Some(EncodedResources::new());
        };
        Some(endpoint::load_assignments(&node, &endpoints))
    }) {
        derived.apply(&change, |resources| resources, out);
    }
}

impl Derived {
    /// Takes over a part. A key has one owner, so what the part no longer holds is gone; a resource that is equal
    /// keeps its pointer, whatever else in its part changed.
    fn apply<K, T>(
        &mut self,
        change: &OutputChange<K, T>,
        part: impl Fn(&T) -> &EncodedResources,
        out: &mut ResourceChanges,
    ) {
        let before = change.before.as_deref().map_or(&[][..], |it| part(it));
        let after = change.after.as_deref().map_or(&[][..], |it| part(it));
        let kept = |key: &ResourceKey| after.iter().any(|(it, _)| it == key);
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

/// Notes what is not the same, by pointer, and says whether there may be anything. Both are walked side by side,
/// unless they are one.
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
    let mut note = |key: &K| changed.insert(read(key.clone()));
    for (key, value) in &**now {
        let same = |it: &(&K, &Arc<T>)| Arc::ptr_eq(it.1, value) && it.0 == key;
        if before.next_if(same).is_some() {
            continue;
        }
        while let Some((gone, _)) = before.next_if(|(passed, _)| *passed < key) {
            note(gone);
        }
        if before.next_if(same).is_none() {
            before.next_if(|(found, _)| *found == key);
            note(key);
        }
    }
    for (gone, _) in before {
        note(gone);
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

/// The services that a node may call, in its order.
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

/// Both sides of a node: the one object that a view has.
fn node_direction_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::NodeIngress(name) | Dependency::NodeEgress(name) => Some(name),
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
        Dependency::Service(name) | Dependency::Targeted(name) => Some(name),
        _ => None,
    }
}

fn gateway_of(read: &Dependency) -> Option<&ResourceName> {
    match read {
        Dependency::Gateway(name) => Some(name),
        _ => None,
    }
}
