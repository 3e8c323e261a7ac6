//! What must hold for every view, whatever the graph: a proxy never hears a name that leads nowhere.

use std::collections::BTreeSet;

use evermesh_model::Graph;
use evermesh_proto::{
    Resource, ResourceKey, ResourceType,
    cluster::{Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType},
    endpoint::ClusterLoadAssignment,
    listener::Listener,
    route::RouteConfiguration,
};
use evermesh_translate::{Derived, load_assignments};
use prost::Message;
use serde_json::Value;

use super::case::{json, resources};

/// Panics unless everything that the resources of each view name is in that view, what they name is what they say
/// they need, and there are load assignments for just the nodes whose endpoints are known.
pub fn consistent(graph: &Graph, derived: &Derived) {
    let known = graph.endpoints.iter().filter_map(|(name, endpoints)| {
        let node = graph.nodes.get(name);
        node.map(|node| load_assignments(node, endpoints))
    });
    let known: BTreeSet<ResourceKey> = known.flatten().map(|(key, _)| key).collect();
    let keys = derived.resources.keys().cloned();
    let served: BTreeSet<ResourceKey> = keys
        .filter(|key| key.kind == ResourceType::Endpoint)
        .collect();
    assert_eq!(served, known);
    for (name, view) in &derived.views {
        let names = |kind| -> BTreeSet<String> {
            let keys = view.of_type(kind).iter();
            keys.map(|key| key.name.to_string()).collect()
        };
        let clusters = names(ResourceType::Cluster);
        let mut assignments = BTreeSet::new();
        let mut routes = BTreeSet::new();
        for (_, resource) in resources(derived, view) {
            let place = format!("{name}: {}", resource.name);
            assert!(resource.needs.is_sorted(), "{place}: {:?}", resource.needs);
            assert!(
                !resource.origins.is_empty() && resource.origins.is_sorted(),
                "{place}: {:?}",
                resource.origins
            );
            let json = json(resource);
            let own_name = match resource.kind {
                ResourceType::Endpoint => "cluster_name",
                _ => "name",
            };
            assert_eq!(json[own_name], *resource.name, "{place}");
            let mut clusters_named = BTreeSet::new();
            collect(&json, &mut |key, value| match (key, value) {
                ("cluster", Value::String(cluster)) => {
                    clusters_named.insert(cluster.clone());
                }
                ("clusters", Value::Array(weighted)) => {
                    let weighted = weighted.iter().map(|it| it["name"].as_str().unwrap());
                    clusters_named.extend(weighted.map(ToOwned::to_owned));
                }
                ("route_config_name", Value::String(routes_name)) => {
                    routes.insert(routes_name.clone());
                }
                _ => {}
            });
            assert!(
                clusters_named.is_subset(&clusters),
                "{place}: {clusters_named:?} of {clusters:?}"
            );
            let needs: BTreeSet<String> = resource.needs.iter().map(ToString::to_string).collect();
            assert_eq!(clusters_named, needs, "{place}");
            if is_eds(resource) {
                assignments.insert(resource.name.to_string());
            }
            decodes_again(resource);
        }
        assert_eq!(assignments, names(ResourceType::Endpoint), "{name}");
        assert_eq!(routes, names(ResourceType::Route), "{name}");
    }
}

fn is_eds(resource: &Resource) -> bool {
    resource.kind == ResourceType::Cluster
        && Cluster::decode(resource.body.clone())
            .unwrap()
            .cluster_discovery_type
            == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
}

/// Concatenated messages are bytes that encoding the whole would have given.
fn decodes_again(resource: &Resource) {
    let body = resource.body.clone();
    let again = match resource.kind {
        ResourceType::Cluster => Cluster::decode(body).unwrap().encode_to_vec(),
        ResourceType::Endpoint => ClusterLoadAssignment::decode(body).unwrap().encode_to_vec(),
        ResourceType::Listener => Listener::decode(body).unwrap().encode_to_vec(),
        ResourceType::Route => RouteConfiguration::decode(body).unwrap().encode_to_vec(),
        ResourceType::Secret => panic!("no secrets yet"),
    };
    assert_eq!(again.len(), resource.body.len(), "{}", resource.name);
}

/// Every field below, with its name.
fn collect(json: &Value, each: &mut impl FnMut(&str, &Value)) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                each(key, value);
                collect(value, each);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, each)),
        _ => {}
    }
}
