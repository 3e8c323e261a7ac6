//! Builds one static bootstrap from everything that a proxy is served, so that Envoy validates the whole.
//!
//! Over xDS, Envoy accepts a route to a cluster that does not exist and answers 503.
//! In a static configuration, Envoy rejects such a route.
//! The bootstrap therefore has route configurations in their connection managers and load assignments in their clusters:
//!
//! ```text
//! listener { rds: { route_config_name: r } } + route configuration r  →  listener { route_config: … }
//! cluster { type: EDS } + load assignment                             →  cluster { type: STATIC, load_assignment: … }
//! secret reference { sds_config: … }                                  →  secret reference without sds_config
//! ```
//!
//! Input and output are protobuf JSON; field names may be in snake case or camel case.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::self_signed::SelfSigned;

/// Everything that one proxy is served, as protobuf JSON.
#[derive(Clone, Debug, Default)]
pub struct ServedResources {
    /// `envoy.config.cluster.v3.Cluster`
    pub clusters: Vec<Value>,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    pub endpoints: Vec<Value>,
    /// `envoy.config.listener.v3.Listener`
    pub listeners: Vec<Value>,
    /// `envoy.config.route.v3.RouteConfiguration`
    pub routes: Vec<Value>,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    pub secrets: Vec<Value>,
}

impl ServedResources {
    /// Replaces the secrets by one for each secret to which a listener or cluster refers, with the same certificate.
    ///
    /// Envoy reads a secret when it validates a bootstrap, also one from a file or service that does not exist here.
    pub fn replace_secrets(&mut self, certificate: &SelfSigned) {
        let file = |path: String| json!({"filename": path});
        let mut secrets = Vec::new();
        for resource in self.listeners.iter().chain(&self.clusters) {
            secret_references(resource, &mut |is_trust, name| {
                let secret = if is_trust {
                    json!({"name": name, "validation_context": {"trusted_ca": file(certificate.certificate())}})
                } else {
                    json!({"name": name, "tls_certificate": {
                        "certificate_chain": file(certificate.certificate()),
                        "private_key": file(certificate.key()),
                    }})
                };
                if !secrets.contains(&secret) {
                    secrets.push(secret);
                }
            });
        }
        self.secrets = secrets;
    }
}

/// Calls `each` with whether a secret contains authorities, and its name.
fn secret_references(json: &Value, each: &mut impl FnMut(bool, &Value)) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("validation_context_sds_secret_config", secret) => each(true, &secret["name"]),
                    ("tls_certificate_sds_secret_configs", Value::Array(secrets)) => {
                        for secret in secrets {
                            each(false, &secret["name"]);
                        }
                    }
                    _ => secret_references(value, each),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secret_references(item, each)),
        _ => {}
    }
}

/// Builds the bootstrap. The error names a resource that is referred to but not served.
pub fn static_bootstrap(served: &ServedResources) -> Result<Value> {
    let endpoints = by_name(&served.endpoints, "cluster_name")?;
    let routes = by_name(&served.routes, "name")?;
    let mut clusters = served.clusters.clone();
    for cluster in &mut clusters {
        inline_endpoints(cluster, &endpoints)?;
    }
    let mut listeners = served.listeners.clone();
    for listener in &mut listeners {
        inline_routes(listener, &routes)?;
    }
    let mut bootstrap = json!({"static_resources": {"clusters": clusters, "listeners": listeners, "secrets": served.secrets}});
    make_secrets_static(&mut bootstrap);
    Ok(bootstrap)
}

fn by_name<'a>(resources: &'a [Value], field: &str) -> Result<BTreeMap<&'a str, &'a Value>> {
    let named = resources.iter().map(|resource| {
        let name = resource
            .as_object()
            .and_then(|fields| get(fields, field))
            .and_then(Value::as_str);
        Ok((
            name.with_context(|| format!("a resource has no `{field}`: {resource}"))?,
            resource,
        ))
    });
    named.collect()
}

/// Turns an EDS cluster into a static one with its load assignment; other clusters stay as they are.
fn inline_endpoints(cluster: &mut Value, endpoints: &BTreeMap<&str, &Value>) -> Result<()> {
    let fields = cluster
        .as_object_mut()
        .context("a cluster is not a JSON object")?;
    if get(fields, "type").and_then(Value::as_str) != Some("EDS") {
        return Ok(());
    }
    let source = take(fields, "eds_cluster_config").unwrap_or_default();
    let service = source
        .as_object()
        .and_then(|source| get(source, "service_name"))
        .and_then(Value::as_str);
    let name = service
        .filter(|name| !name.is_empty())
        .or_else(|| get(fields, "name").and_then(Value::as_str));
    let name = name.context("a cluster has no name")?.to_owned();
    let assignment = endpoints
        .get(name.as_str())
        .with_context(|| format!("no load assignment is served for `{name}`"))?;
    fields.insert("type".to_owned(), json!("STATIC"));
    fields.insert("load_assignment".to_owned(), (*assignment).clone());
    Ok(())
}

/// Replaces `rds` by the route configuration it names, in connection managers at any depth.
fn inline_routes(value: &mut Value, routes: &BTreeMap<&str, &Value>) -> Result<()> {
    match value {
        Value::Object(fields) => {
            if let Some(source) = take(fields, "rds") {
                let name = source
                    .as_object()
                    .and_then(|source| get(source, "route_config_name"));
                let name = name
                    .and_then(Value::as_str)
                    .context("`rds` has no `route_config_name`")?;
                let route = routes
                    .get(name)
                    .with_context(|| format!("no route configuration `{name}` is served"))?;
                fields.insert("route_config".to_owned(), (*route).clone());
            }
            fields
                .values_mut()
                .try_for_each(|value| inline_routes(value, routes))
        }
        Value::Array(values) => values
            .iter_mut()
            .try_for_each(|value| inline_routes(value, routes)),
        _ => Ok(()),
    }
}

/// Removes the source of each secret reference, which makes it refer to a static secret.
fn make_secrets_static(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            take(fields, "sds_config");
            fields.values_mut().for_each(make_secrets_static);
        }
        Value::Array(values) => values.iter_mut().for_each(make_secrets_static),
        _ => {}
    }
}

/// The value of a field under its proto name or its camel-case JSON name.
fn get<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).or_else(|| fields.get(&camel_case(name)))
}

fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields
        .remove(name)
        .or_else(|| fields.remove(&camel_case(name)))
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |joined, word| {
        let (initial, rest) = word.split_at(usize::from(!word.is_empty()));
        joined + &initial.to_uppercase() + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_become_camel_case() {
        assert_eq!(camel_case("route_config_name"), "routeConfigName");
        assert_eq!(camel_case("rds"), "rds");
    }

    #[test]
    fn served_resources_move_to_where_they_are_used() {
        let assignment = json!({"clusterName": "blue", "endpoints": []});
        let routes = json!({"name": "r", "virtualHosts": []});
        let bootstrap = static_bootstrap(&ServedResources {
            clusters: vec![
                json!({"name": "color", "type": "EDS", "edsClusterConfig": {"serviceName": "blue"}}),
                json!({"name": "blue", "type": "EDS", "eds_cluster_config": {}}),
                json!({"name": "self", "type": "STATIC"}),
            ],
            endpoints: vec![assignment.clone()],
            listeners: vec![
                json!({"filterChains": [{"filters": [{"typedConfig": {"rds": {"routeConfigName": "r"}}}]}]}),
            ],
            routes: vec![routes.clone()],
            secrets: vec![json!({"name": "s", "sds_config": {"ads": {}}})],
        })
        .expect("every reference is served");
        assert_eq!(
            bootstrap["static_resources"],
            json!({
                "clusters": [
                    {"name": "color", "type": "STATIC", "load_assignment": assignment},
                    {"name": "blue", "type": "STATIC", "load_assignment": assignment},
                    {"name": "self", "type": "STATIC"},
                ],
                "listeners": [{"filterChains": [{"filters": [{"typedConfig": {"route_config": routes}}]}]}],
                "secrets": [{"name": "s"}],
            })
        );
    }

    #[test]
    fn error_names_the_resource_that_is_not_served() {
        let cluster =
            json!({"name": "color", "type": "EDS", "edsClusterConfig": {"serviceName": "blue"}});
        let error = static_bootstrap(&ServedResources {
            clusters: vec![cluster],
            ..ServedResources::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no load assignment is served for `blue`");

        let listener = json!({"filterChains": [{"filters": [{"typedConfig": {"rds": {"routeConfigName": "r"}}}]}]});
        let error = static_bootstrap(&ServedResources {
            listeners: vec![listener],
            ..ServedResources::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no route configuration `r` is served");
    }
}
