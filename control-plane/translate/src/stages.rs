//! The stages of a turn and what they remember.
//!
//! Must not make a resource: it only says which function gets what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{
    Endpoint, Graph, Memo, Mesh, Provider, ResourceName, Same, ServiceName, VirtualGateway,
    VirtualNode, VirtualRouter, VirtualService,
};
use evermesh_proto::View;

use crate::{
    Derived, cluster, endpoint, listener,
    listener::{Gateway, GatewayTarget, Inbound, Outbound},
    pool::Pool,
    scope::{self, Part},
    service::{self, GatewayHosts, NodeHosts, Reach},
};

type NodeInput = (Arc<VirtualNode>, Arc<Mesh>);
type ServiceInput = (Arc<VirtualService>, Option<Arc<VirtualRouter>>);
type ReachInput = (ServiceInput, Vec<Arc<VirtualNode>>);
type AssignmentInput = (Arc<VirtualNode>, Option<Arc<Vec<Endpoint>>>);
type RoutesInput = (Arc<Outbound>, Vec<Arc<NodeHosts>>);
type GatewayInput = (Arc<VirtualGateway>, Arc<Mesh>, Vec<GatewayTarget>);
type Backends = (Vec<Arc<Reach>>, Vec<Arc<NodeHosts>>);

/// What [`crate::derive`] remembers from one turn to the next. It only saves time: the result is that of a fresh one.
#[derive(Debug, Default)]
pub struct DeriveMemo {
    originals: Stage<Arc<str>, Arc<Mesh>, Part>,
    clusters: Stage<ResourceName, NodeInput, Part>,
    assignments: Stage<ResourceName, AssignmentInput, Part>,
    reach: Memo<ServiceName, ReachInput, Arc<Reach>>,
    node_hosts: Memo<ServiceName, ServiceInput, Arc<NodeHosts>>,
    gateway_hosts: Memo<ServiceName, ServiceInput, Arc<GatewayHosts>>,
    inbound: Stage<ResourceName, NodeInput, Inbound>,
    outbound: Stage<ResourceName, (NodeInput, Vec<Arc<Reach>>), Outbound>,
    routes: Stage<ResourceName, RoutesInput, Part>,
    views: Memo<ResourceName, (Arc<Inbound>, Arc<Outbound>), Arc<View>>,
    gateways: Stage<ResourceName, GatewayInput, Gateway>,
    pool: Pool,
}

impl DeriveMemo {
    pub(crate) fn turn(&mut self, graph: &Graph) -> Derived {
        let services = services(graph);
        let reach = self.reach.turn(
            services
                .iter()
                .map(|(name, input)| ((*name).clone(), (input.clone(), callees(graph, input)))),
            |_, ((service, router), nodes)| service::reach(service, router.as_deref(), nodes),
        );
        let mut views = self.nodes(graph, &services, &reach);
        self.gateways(graph, &services, &reach, &mut views);
        Derived {
            resources: self.pool.all(),
            views,
        }
    }

    /// Everything of nodes; their views.
    fn nodes(
        &mut self,
        graph: &Graph,
        services: &[(&ServiceName, ServiceInput)],
        reach: &BTreeMap<ServiceName, Arc<Reach>>,
    ) -> BTreeMap<Arc<str>, Arc<View>> {
        let hosts = self.node_hosts.turn(
            services
                .iter()
                .map(|(name, input)| ((*name).clone(), input.clone())),
            |_, (service, router)| service::node_hosts(service, router.as_deref()),
        );
        let nodes: Vec<(&ResourceName, NodeInput)> = graph
            .nodes
            .iter()
            .filter_map(|(name, node)| {
                let mesh = graph.meshes.get(&name.mesh)?;
                Some((name, (Arc::clone(node), Arc::clone(mesh))))
            })
            .collect();
        let inputs = || {
            nodes
                .iter()
                .map(|(name, input)| ((*name).clone(), input.clone()))
        };

        let meshes = graph.meshes.iter();
        self.originals.turn(
            meshes.map(|(name, mesh)| (Arc::clone(name), Arc::clone(mesh))),
            |mesh| cluster::original_destinations(mesh),
            &mut self.pool,
        );
        self.clusters.turn(
            inputs(),
            |(node, mesh)| cluster::node_clusters(node, mesh),
            &mut self.pool,
        );
        self.assignments.turn(
            nodes.iter().map(|(name, (node, _))| {
                let endpoints = graph.endpoints.get(name).cloned();
                ((*name).clone(), (Arc::clone(node), endpoints))
            }),
            // As long as nothing is known there is nothing to say: a proxy keeps what it has.
            |(node, endpoints)| match endpoints {
                Some(endpoints) => endpoint::load_assignments(node, endpoints),
                None => Vec::new(),
            },
            &mut self.pool,
        );
        let inbound = self.inbound.turn(
            inputs(),
            |(node, mesh)| listener::inbound(node, mesh),
            &mut self.pool,
        );

        let known: Vec<_> = reach.iter().zip(hosts.values()).collect();
        let backends: Vec<Backends> = nodes
            .iter()
            .map(|(name, (node, _))| {
                let backends = node.backends.iter();
                backends
                    .filter_map(|backend| {
                        let wanted = (&name.mesh, &backend.service);
                        let index = known
                            .binary_search_by_key(&wanted, |((it, _), _)| (&it.mesh, &it.hostname))
                            .ok()?;
                        let ((_, reach), hosts) = known[index];
                        Some((Arc::clone(reach), Arc::clone(hosts)))
                    })
                    .unzip()
            })
            .collect();
        let outbound = self.outbound.turn(
            inputs()
                .zip(&backends)
                .map(|((name, input), (reach, _))| (name, (input, reach.clone()))),
            |((node, mesh), backends)| listener::outbound(node, mesh, backends),
            &mut self.pool,
        );
        self.routes.turn(
            outbound
                .iter()
                .zip(backends)
                .map(|((name, outbound), (_, hosts))| {
                    (name.clone(), (Arc::clone(outbound), hosts))
                }),
            |(outbound, hosts)| listener::outbound_routes(outbound, hosts),
            &mut self.pool,
        );
        let views = self.views.turn(
            inbound
                .iter()
                .zip(outbound.values())
                .map(|((name, inbound), outbound)| {
                    (name.clone(), (Arc::clone(inbound), Arc::clone(outbound)))
                }),
            |_, (inbound, outbound)| scope::view(&inbound.part, &outbound.keys),
        );
        let names = inbound.values().map(|inbound| inbound.scope.name());
        names.zip(views.into_values()).collect()
    }

    /// Everything of gateways; adds their views.
    fn gateways(
        &mut self,
        graph: &Graph,
        services: &[(&ServiceName, ServiceInput)],
        reach: &BTreeMap<ServiceName, Arc<Reach>>,
        views: &mut BTreeMap<Arc<str>, Arc<View>>,
    ) {
        let targets = |gateway: &VirtualGateway| -> BTreeSet<ServiceName> {
            let routes = gateway.routes.iter();
            routes.map(|route| route.target.clone()).collect()
        };
        let targeted: BTreeSet<ServiceName> =
            graph.gateways.values().flat_map(|it| targets(it)).collect();
        let hosts = self.gateway_hosts.turn(
            services
                .iter()
                .filter(|(name, _)| targeted.contains(*name))
                .map(|(name, input)| ((*name).clone(), input.clone())),
            |_, (service, router)| service::gateway_hosts(service, router.as_deref()),
        );
        let inputs = graph.gateways.iter().filter_map(|(name, gateway)| {
            let mesh = graph.meshes.get(&name.mesh)?;
            let targets = targets(gateway)
                .iter()
                .filter_map(|target| Some((reach.get(target)?.clone(), hosts.get(target)?.clone())))
                .collect();
            Some((
                name.clone(),
                (Arc::clone(gateway), Arc::clone(mesh), targets),
            ))
        });
        let gateways = self.gateways.turn(
            inputs,
            |(gateway, mesh, targets)| listener::gateway(gateway, mesh, targets),
            &mut self.pool,
        );
        views.extend(
            gateways
                .values()
                .map(|gateway| (gateway.scope.name(), Arc::clone(&gateway.view))),
        );
    }
}

/// Every service, with its router if it has one.
fn services(graph: &Graph) -> Vec<(&ServiceName, ServiceInput)> {
    graph
        .services
        .iter()
        .map(|(name, service)| {
            let router = match &service.provider {
                Provider::Router(router) => graph.routers.get(router).cloned(),
                Provider::Node(_) | Provider::None => None,
            };
            (name, (Arc::clone(service), router))
        })
        .collect()
}

/// The nodes that a service may lead to.
fn callees(graph: &Graph, (service, router): &ServiceInput) -> Vec<Arc<VirtualNode>> {
    service::nodes(service, router.as_deref())
        .into_iter()
        .filter_map(|name| graph.nodes.get(name).cloned())
        .collect()
}

/// A memo whose outputs hold resources.
#[derive(Debug)]
struct Stage<K, I, T> {
    memo: Memo<K, I, Arc<T>>,
    last: BTreeMap<K, Arc<T>>,
}

impl<K, I, T> Default for Stage<K, I, T> {
    fn default() -> Self {
        Self {
            memo: Memo::default(),
            last: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, I: Same, T: PartialEq + AsPart> Stage<K, I, T> {
    /// One turn, whose resources go into the pool.
    fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = (K, I)>,
        mut derive: impl FnMut(&I) -> T,
        pool: &mut Pool,
    ) -> &BTreeMap<K, Arc<T>> {
        let now = self.memo.turn(inputs, |_, input| derive(input));
        pool.replace(
            self.last
                .iter()
                .map(|(key, output)| (key, output.as_part())),
            now.iter().map(|(key, output)| (key, output.as_part())),
        );
        self.last = now;
        &self.last
    }
}

/// An output that holds resources.
trait AsPart {
    fn as_part(&self) -> &Part;
}

impl AsPart for Part {
    fn as_part(&self) -> &Part {
        self
    }
}

impl AsPart for Inbound {
    fn as_part(&self) -> &Part {
        &self.part
    }
}

impl AsPart for Outbound {
    fn as_part(&self) -> &Part {
        &self.part
    }
}

impl AsPart for Gateway {
    fn as_part(&self) -> &Part {
        &self.part
    }
}
