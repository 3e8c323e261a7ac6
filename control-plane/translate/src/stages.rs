//! The stages of a turn: which function gets what, in which order, and what came of it.
//!
//! Must not make a resource.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_model::{
    Endpoint, Graph, ServiceProvider, ResolvedRouter, ResolvedService, ResourceName, ServiceName, SharedMap,
};
use evermesh_proto::{Key, View};

use crate::{
    Changes, Derived, cluster, endpoint, listener,
    listener::{Gateway, Inbound, Outbound},
    scope::{self, Part, Scope},
    service::{self, GatewayHosts, NodeHosts, Reach},
    stage::{Change, Read, Reads, Stage},
};

/// What [`crate::derive`] remembers from one turn to the next. It only saves time: the result is that of a fresh one.
#[derive(Debug, Default)]
pub struct DeriveMemo {
    last: Graph,
    originals: Stage<Arc<str>, Part>,
    clusters: Stage<ResourceName, Part>,
    assignments: Stage<ResourceName, Part>,
    reach: Stage<ServiceName, Reach>,
    node_hosts: Stage<ServiceName, NodeHosts>,
    gateway_hosts: Stage<ServiceName, GatewayHosts>,
    inbound: Stage<ResourceName, Inbound>,
    outbound: Stage<ResourceName, Outbound>,
    routes: Stage<ResourceName, Part>,
    views: Stage<ResourceName, View>,
    gateways: Stage<ResourceName, Gateway>,
    /// The services that gateways lead to.
    targeted: BTreeSet<ServiceName>,
    derived: Derived,
}

impl DeriveMemo {
    /// What the last turn made.
    pub const fn derived(&self) -> &Derived {
        &self.derived
    }

    pub(crate) fn turn(&mut self, graph: &Graph) -> Changes {
        let mut changed = self.inputs(graph);
        let mut out = Changes::default();
        self.services(graph, &mut changed);
        self.nodes(graph, &mut changed, &mut out);
        self.gateways(graph, &changed, &mut out);
        out
    }

    /// The last graph again, with other endpoints of one node.
    pub(crate) fn endpoints(
        &mut self,
        node: &ResourceName,
        endpoints: Arc<Vec<Endpoint>>,
    ) -> Changes {
        let mut out = Changes::default();
        Arc::make_mut(&mut self.last.endpoints).insert(node.clone(), endpoints);
        assignments(
            &mut self.assignments,
            &mut self.derived,
            &self.last,
            &[Read::Endpoints(node.clone())].into(),
            &mut out,
        );
        out
    }

    /// The objects that are not those of the last turn, by pointer.
    fn inputs(&mut self, graph: &Graph) -> BTreeSet<Read> {
        let mut changed = BTreeSet::new();
        let last = std::mem::replace(&mut self.last, graph.clone());
        compare(&last.meshes, &graph.meshes, Read::Mesh, &mut changed);
        compare(&last.nodes, &graph.nodes, Read::Node, &mut changed);
        compare(&last.services, &graph.services, Read::Service, &mut changed);
        compare(&last.routers, &graph.routers, Read::Router, &mut changed);
        compare(
            &last.endpoints,
            &graph.endpoints,
            Read::Endpoints,
            &mut changed,
        );
        if compare(&last.gateways, &graph.gateways, Read::Gateway, &mut changed) {
            let routes = graph.gateways.values().flat_map(|gateway| &gateway.routes);
            let targeted = routes.map(|route| route.target.clone()).collect();
            let other = self.targeted.symmetric_difference(&targeted).cloned();
            changed.extend(other.map(Read::Targeted));
            self.targeted = targeted;
        }
        changed
    }

    /// What services mean to their callers.
    fn services(&mut self, graph: &Graph, changed: &mut BTreeSet<Read>) {
        let reach = self.reach.turn(changed, service_of, |name, reads| {
            let (service, router) = read_service(graph, name, reads)?;
            let nodes: Vec<_> = service::nodes(&service, router.as_deref())
                .into_iter()
                .filter_map(|node| reads.get(&graph.nodes, node, Read::Node))
                .collect();
            Some(service::reach(&service, router.as_deref(), &nodes))
        });
        let node_hosts = self.node_hosts.turn(changed, service_of, |name, reads| {
            let (service, router) = read_service(graph, name, reads)?;
            Some(service::node_hosts(&service, router.as_deref()))
        });
        let gateway_hosts = self.gateway_hosts.turn(changed, target_of, |name, reads| {
            if !self.targeted.contains(name) {
                return None;
            }
            let (service, router) = read_service(graph, name, reads)?;
            Some(service::gateway_hosts(&service, router.as_deref()))
        });
        changed.extend(reach.into_iter().map(|it| Read::Reach(it.key)));
        changed.extend(node_hosts.into_iter().map(|it| Read::NodeHosts(it.key)));
        changed.extend(
            gateway_hosts
                .into_iter()
                .map(|it| Read::GatewayHosts(it.key)),
        );
    }

    fn nodes(&mut self, graph: &Graph, changed: &mut BTreeSet<Read>, out: &mut Changes) {
        let derived = &mut self.derived;
        for change in self.originals.turn(changed, mesh_of, |name, reads| {
            let mesh = reads.get(&graph.meshes, name, Read::Mesh)?;
            Some(cluster::original_destinations(&mesh))
        }) {
            derived.put(&change, |part| part, out);
        }
        for change in self.clusters.turn(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Read::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Read::Mesh)?;
            Some(cluster::node_clusters(&node, &mesh))
        }) {
            derived.put(&change, |part| part, out);
        }
        assignments(&mut self.assignments, derived, graph, changed, out);
        let inbound = self.inbound.turn(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Read::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Read::Mesh)?;
            Some(listener::inbound(&node, &mesh))
        });
        let outbound = self.outbound.turn(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Read::Node)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Read::Mesh)?;
            if let Some(ports) = &node.local_ports {
                let ports = listener::local_ports(&node, ports, |service| {
                    reads.get(self.reach.outputs(), service, Read::Reach)
                });
                return Some(listener::local_outbound(&node, &mesh, &ports));
            }
            let backends: Vec<_> = backends(&node)
                .filter_map(|service| reads.get(self.reach.outputs(), &service, Read::Reach))
                .collect();
            Some(listener::outbound(&node, &mesh, &backends))
        });
        for change in inbound {
            derived.put(&change, |inbound| &inbound.part, out);
            changed.insert(Read::Inbound(change.key));
        }
        for change in outbound {
            derived.put(&change, |outbound| &outbound.part, out);
            changed.insert(Read::Outbound(change.key));
        }
        for change in self.routes.turn(changed, node_of, |name, reads| {
            let node = reads.get(&graph.nodes, name, Read::Node)?;
            if let Some(ports) = &node.local_ports {
                let ports = listener::local_ports(&node, ports, |service| {
                    read_service(graph, service, reads)
                });
                return Some(listener::local_routes(&node, &ports));
            }
            let outbound = reads.get(self.outbound.outputs(), name, Read::Outbound)?;
            let backends: Vec<_> = backends(&node)
                .filter_map(|it| reads.get(self.node_hosts.outputs(), &it, Read::NodeHosts))
                .collect();
            Some(listener::outbound_routes(&outbound, &backends))
        }) {
            derived.put(&change, |part| part, out);
        }
        for change in self.views.turn(changed, sides_of, |name, reads| {
            let inbound = reads.get(self.inbound.outputs(), name, Read::Inbound)?;
            let outbound = reads.get(self.outbound.outputs(), name, Read::Outbound)?;
            Some(scope::view(&inbound.part, &outbound.keys))
        }) {
            derived.put_view(&change.key, change.after, out);
        }
    }

    fn gateways(&mut self, graph: &Graph, changed: &BTreeSet<Read>, out: &mut Changes) {
        for change in self.gateways.turn(changed, gateway_of, |name, reads| {
            let gateway = reads.get(&graph.gateways, name, Read::Gateway)?;
            let mesh = reads.get(&graph.meshes, &name.mesh, Read::Mesh)?;
            let routes = gateway.routes.iter();
            let targets: BTreeSet<&ServiceName> = routes.map(|route| &route.target).collect();
            let targets: Vec<_> = targets
                .into_iter()
                .filter_map(|target| {
                    let reach = reads.get(self.reach.outputs(), target, Read::Reach)?;
                    let hosts =
                        reads.get(self.gateway_hosts.outputs(), target, Read::GatewayHosts)?;
                    Some((reach, hosts))
                })
                .collect();
            Some(listener::gateway(&gateway, &mesh, &targets))
        }) {
            self.derived.put(&change, |gateway| &gateway.part, out);
            let view = change.after.map(|gateway| Arc::clone(&gateway.view));
            self.derived.put_view(&change.key, view, out);
        }
    }
}

/// The load assignments of nodes. As long as nothing is known there is nothing to say: a proxy keeps what it has.
fn assignments(
    stage: &mut Stage<ResourceName, Part>,
    derived: &mut Derived,
    graph: &Graph,
    changed: &BTreeSet<Read>,
    out: &mut Changes,
) {
    for change in stage.turn(changed, node_of, |name, reads| {
        let node = reads.get(&graph.nodes, name, Read::Node)?;
        let Some(endpoints) = reads.get(&graph.endpoints, name, Read::Endpoints) else {
            return Some(Part::new());
        };
        Some(endpoint::load_assignments(&node, &endpoints))
    }) {
        derived.put(&change, |part| part, out);
    }
}

impl Derived {
    /// Takes over a part. A key has one owner, so what the part no longer holds is gone; a resource that is equal
    /// keeps its pointer, whatever else in its part changed.
    fn put<K, T>(&mut self, change: &Change<K, T>, part: impl Fn(&T) -> &Part, out: &mut Changes) {
        let before = change.before.as_deref().map_or(&[][..], |it| part(it));
        let after = change.after.as_deref().map_or(&[][..], |it| part(it));
        let kept = |key: &Key| after.iter().any(|(it, _)| it == key);
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

    fn put_view(&mut self, proxy: &ResourceName, view: Option<Arc<View>>, out: &mut Changes) {
        let name = Scope::new(proxy).name();
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
fn compare<K: Ord + Clone, T>(
    last: &SharedMap<K, T>,
    now: &SharedMap<K, T>,
    read: fn(K) -> Read,
    changed: &mut BTreeSet<Read>,
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
    reads: &mut Reads,
) -> Option<(Arc<ResolvedService>, Option<Arc<ResolvedRouter>>)> {
    let service = reads.get(&graph.services, name, Read::Service)?;
    let router = match &service.provider {
        ServiceProvider::Router(router) => reads.get(&graph.routers, router, Read::Router),
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

fn mesh_of(read: &Read) -> Option<&Arc<str>> {
    match read {
        Read::Mesh(name) => Some(name),
        _ => None,
    }
}

fn node_of(read: &Read) -> Option<&ResourceName> {
    match read {
        Read::Node(name) => Some(name),
        _ => None,
    }
}

/// Both sides of a node: the one object that a view has.
fn sides_of(read: &Read) -> Option<&ResourceName> {
    match read {
        Read::Inbound(name) | Read::Outbound(name) => Some(name),
        _ => None,
    }
}

fn service_of(read: &Read) -> Option<&ServiceName> {
    match read {
        Read::Service(name) => Some(name),
        _ => None,
    }
}

fn target_of(read: &Read) -> Option<&ServiceName> {
    match read {
        Read::Service(name) | Read::Targeted(name) => Some(name),
        _ => None,
    }
}

fn gateway_of(read: &Read) -> Option<&ResourceName> {
    match read {
        Read::Gateway(name) => Some(name),
        _ => None,
    }
}
