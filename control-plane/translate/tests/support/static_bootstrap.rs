//! A view as an Envoy bootstrap without a control plane, for `envoy --mode validate`: routes stand in their
//! listeners, endpoints in their clusters. Envoy is stricter about these than on the wire: it refuses a route to an
//! unknown cluster.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_proto::{
    ResourceType, View, bootstrap,
    bootstrap::Bootstrap,
    cluster::{Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType},
    core::Node,
    endpoint::ClusterLoadAssignment,
    hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
    listener::{Filter, Listener, filter::ConfigType},
    pack,
    route::RouteConfiguration,
    unpack,
};
use evermesh_translate::Derived;
use prost::Message;

/// The bootstrap of one view.
pub fn static_bootstrap(derived: &Derived, name: &str, view: &View) -> Bootstrap {
    let routes: BTreeMap<Arc<str>, RouteConfiguration> =
        decode(derived, view, ResourceType::Route).collect();
    let assignments: BTreeMap<Arc<str>, ClusterLoadAssignment> =
        decode(derived, view, ResourceType::Endpoint).collect();
    Bootstrap {
        node: Some(Node {
            id: name.to_owned(),
            cluster: name.to_owned(),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::bootstrap::StaticResources {
            listeners: decode(derived, view, ResourceType::Listener)
                .map(|(_, listener)| with_routes(listener, &routes))
                .collect(),
            clusters: decode(derived, view, ResourceType::Cluster)
                .map(|(name, cluster)| with_endpoints(cluster, assignments.get(&name)))
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn decode<M: Message + Default>(
    derived: &Derived,
    view: &View,
    kind: ResourceType,
) -> impl Iterator<Item = (Arc<str>, M)> {
    view.of_type(kind).iter().map(|key| {
        let resource = &derived.resources[key];
        let message = M::decode(resource.body.clone()).unwrap();
        (Arc::clone(&key.name), message)
    })
}

fn with_routes(
    mut listener: Listener,
    routes: &BTreeMap<Arc<str>, RouteConfiguration>,
) -> Listener {
    let chains = listener.filter_chains.iter_mut();
    for filter in chains
        .chain(&mut listener.default_filter_chain)
        .flat_map(|chain| &mut chain.filters)
    {
        inline(filter, routes);
    }
    listener
}

fn inline(filter: &mut Filter, routes: &BTreeMap<Arc<str>, RouteConfiguration>) {
    let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else {
        panic!("every filter has its configuration");
    };
    let Ok(mut manager) = unpack::<HttpConnectionManager>(any) else {
        return;
    };
    let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else {
        panic!("routes come over RDS");
    };
    let routes = routes[rds.route_config_name.as_str()].clone();
    manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes));
    *any = pack(&manager);
}

fn with_endpoints(mut cluster: Cluster, assignment: Option<&ClusterLoadAssignment>) -> Cluster {
    if let Some(assignment) = assignment {
        cluster.cluster_discovery_type =
            Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
        cluster.eds_cluster_config = None;
        cluster.load_assignment = Some(assignment.clone());
    }
    cluster
}
