//! Checks that hold for the resources derived from any graph: every name that a proxy gets refers to a resource that it
//! gets too.

use std::collections::BTreeSet;

use evermesh_model::Graph;
use evermesh_proto::{
    Resource, ResourceKey, ResourceType,
    cluster::{Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType},
    endpoint::ClusterLoadAssignment,
    json,
    listener::Listener,
    route::RouteConfiguration,
    tls::Secret,
};
use evermesh_translate::{Derived, load_assignments};
use prost::Message;
use serde_json::Value;

use super::case::{is_shared, json, resources};

/// Checks that the view of each proxy contains every resource that its resources name, that `needs` lists exactly the
/// named clusters, that load assignments exist for exactly the nodes whose endpoints are known, and that a view lists
/// each load assignment that only one proxy gets.
///
/// # Panics
///
/// If one of these does not hold.
pub fn consistent(graph: &Graph, derived: &Derived) {
    let known = graph.endpoints.iter().filter_map(|(name, endpoints)| {
        let node = graph.nodes.get(name);
        node.map(|node| load_assignments(node, endpoints))
    });
    let known: BTreeSet<ResourceKey> = known.flatten().map(|(key, _)| key).collect();
    let keys = derived.resources.keys().cloned();
    let served: BTreeSet<ResourceKey> = keys
        .filter(|key| key.kind == ResourceType::Endpoint && is_shared(key))
        .collect();
    assert_eq!(served, known);
    let listed: BTreeSet<&ResourceKey> = derived.views.values().flat_map(|it| it.keys()).collect();
    let of_proxies = derived.resources.keys();
    let mut of_proxies =
        of_proxies.filter(|key| key.kind == ResourceType::Endpoint && !is_shared(key));
    let unlisted = of_proxies.find(|key| !listed.contains(key));
    assert_eq!(unlisted, None, "no view lists it");
    for (name, view) in &derived.views {
        let names = |kind| -> BTreeSet<String> {
            let keys = view.of_type(kind).iter();
            keys.map(|key| key.name.to_string()).collect()
        };
        let clusters = names(ResourceType::Cluster);
        let mut assignments = BTreeSet::new();
        let mut routes = BTreeSet::new();
        let mut secrets = BTreeSet::new();
        for (_, resource) in resources(derived, view) {
            let subject = format!("{name}: {}", resource.name);
            assert!(
                resource.needs.is_sorted(),
                "{subject}: {:?}",
                resource.needs
            );
            assert!(
                !resource.origins.is_empty() && resource.origins.is_sorted(),
                "{subject}: {:?}",
                resource.origins
            );
            let json = json(resource);
            let own_name = match resource.kind {
                ResourceType::Endpoint => "cluster_name",
                _ => "name",
            };
            assert_eq!(json[own_name], *resource.name, "{subject}");
            collect(&json, &mut |key, value| match (key, value) {
                ("route_config_name", Value::String(routes_name)) => {
                    routes.insert(routes_name.clone());
                }
                ("tls_certificate_sds_secret_configs", Value::Array(references)) => {
                    secrets.extend(references.iter().filter_map(secret_over_ads));
                }
                ("validation_context_sds_secret_config", reference) => {
                    secrets.extend(secret_over_ads(reference));
                }
                _ => {}
            });
            let needs: BTreeSet<String> = resource.needs.iter().map(ToString::to_string).collect();
            assert!(
                needs.is_subset(&clusters),
                "{subject} needs {needs:?}, and the view has {clusters:?}"
            );
            let clusters_named = clusters_named(&json);
            // The first pass of a gateway needs the clusters of the second pass too.
            if resource.name.starts_with("rds_ingress_") && name.contains("virtualGateway") {
                assert!(clusters_named.is_subset(&needs), "{subject}");
            } else {
                assert_eq!(clusters_named, needs, "{subject}");
            }
            parts_are_whole(&subject, resource);
            if resource.kind == ResourceType::Listener {
                filter_chains_are_distinct(&subject, &json);
            }
            if is_eds(resource) {
                assignments.insert(resource.name.to_string());
            }
            decodes_again(resource);
        }
        assert_eq!(assignments, names(ResourceType::Endpoint), "{name}");
        assert_eq!(routes, names(ResourceType::Route), "{name}");
        assert_eq!(secrets, names(ResourceType::Secret), "{name}");
    }
}

fn clusters_named(json: &Value) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    collect(json, &mut |key, value| match (key, value) {
        ("cluster", Value::String(cluster)) => {
            named.insert(cluster.clone());
        }
        ("clusters", Value::Array(weighted)) => {
            let weighted = weighted.iter().map(|it| it["name"].as_str().unwrap());
            named.extend(weighted.map(ToOwned::to_owned));
        }
        _ => {}
    });
    named
}

/// Checks the parts of a resource: together they are its body, needs and no other origins; each needs the clusters that
/// it names; their names are unique.
fn parts_are_whole(subject: &str, resource: &Resource) {
    let Some((base, parts)) = resource.encoded_parts() else {
        return;
    };
    let all: Vec<_> = std::iter::once(&base).chain(&parts).collect();
    let bodies: Vec<u8> = all
        .iter()
        .flat_map(|part| part.body.iter().copied())
        .collect();
    assert_eq!(bodies, resource.body, "{subject}");
    let needs: BTreeSet<_> = all.iter().flat_map(|part| part.needs.iter()).collect();
    assert!(needs.into_iter().eq(resource.needs.iter()), "{subject}");
    let mut names = BTreeSet::new();
    for part in all {
        let subject = format!("{subject}, {}", part.name);
        assert!(names.insert(&part.name), "{subject}");
        assert!(
            part.needs.is_sorted() && part.origins.is_sorted(),
            "{subject}"
        );
        let known = |origin| resource.origins.contains(origin);
        assert!(part.origins.iter().all(known), "{subject}");
        let json = json::encoded_to_json(resource.kind.message_name(), &part.body).unwrap();
        for named in clusters_named(&json) {
            assert!(
                part.needs.iter().any(|need| **need == *named),
                "{subject}: {named}"
            );
        }
    }
}

/// Checks that no two filter chains of a listener have the same name, or match the same connections, which Envoy refuses.
fn filter_chains_are_distinct(listener: &str, json: &Value) {
    let mut names = BTreeSet::new();
    let mut matches = BTreeSet::new();
    for chain in json["filter_chains"].as_array().into_iter().flatten() {
        let name = chain["name"].to_string();
        assert!(names.insert(name), "{listener}: {}", chain["name"]);
        let mut chain_match = chain["filter_chain_match"].clone();
        let ranges = match chain_match.get_mut("prefix_ranges").map(Value::take) {
            Some(Value::Array(ranges)) => ranges,
            _ => vec![Value::Null],
        };
        for range in ranges {
            let one = format!("{chain_match} {range}");
            assert!(matches.insert(one.clone()), "{listener}: {one}");
        }
    }
}

fn is_eds(resource: &Resource) -> bool {
    resource.kind == ResourceType::Cluster
        && Cluster::decode(resource.body.clone())
            .unwrap()
            .cluster_discovery_type
            == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
}

/// The name of a secret, if Evermesh serves it.
fn secret_over_ads(reference: &Value) -> Option<String> {
    reference["sds_config"].get("ads")?;
    Some(reference["name"].as_str().unwrap().to_owned())
}

/// Checks that a body that was concatenated from encoded messages has the length of the whole message, encoded again.
fn decodes_again(resource: &Resource) {
    let body = resource.body.clone();
    let again = match resource.kind {
        ResourceType::Cluster => Cluster::decode(body).unwrap().encode_to_vec(),
        ResourceType::Endpoint => ClusterLoadAssignment::decode(body).unwrap().encode_to_vec(),
        ResourceType::Listener => Listener::decode(body).unwrap().encode_to_vec(),
        ResourceType::Route => RouteConfiguration::decode(body).unwrap().encode_to_vec(),
        ResourceType::Secret => Secret::decode(body).unwrap().encode_to_vec(),
    };
    assert_eq!(again.len(), resource.body.len(), "{}", resource.name);
}

/// Calls `each` with the name and value of every field, at any depth.
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
