//! Turns what a proxy is served into one static bootstrap, so that Envoy judges it whole.
//!
//! Over the wire a route may name a cluster that does not exist: Envoy accepts it and answers 503.
//! In a static configuration it refuses it.
//! So route configurations move into their connection managers and endpoints into their clusters.
//! Works on protobuf JSON alone; field names may be in either of its forms.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// What one proxy is served, as protobuf JSON.
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

/// Builds the bootstrap; an error names the resource that something refers to and nobody serves.
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
            name.with_context(|| format!("a resource without {field}: {resource}"))?,
            resource,
        ))
    });
    named.collect()
}

/// An EDS cluster becomes a static one with the endpoints it would have fetched.
fn inline_endpoints(cluster: &mut Value, endpoints: &BTreeMap<&str, &Value>) -> Result<()> {
    let fields = cluster.as_object_mut().context("a cluster is an object")?;
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
    let name = name.context("a cluster without a name")?.to_owned();
    let assignment = endpoints
        .get(name.as_str())
        .with_context(|| format!("no endpoints for {name}"))?;
    fields.insert("type".to_owned(), json!("STATIC"));
    fields.insert("load_assignment".to_owned(), (*assignment).clone());
    Ok(())
}

/// A connection manager, wherever it is, gets the routes it would have fetched.
fn inline_routes(value: &mut Value, routes: &BTreeMap<&str, &Value>) -> Result<()> {
    match value {
        Value::Object(fields) => {
            if let Some(source) = take(fields, "rds") {
                let name = source
                    .as_object()
                    .and_then(|source| get(source, "route_config_name"));
                let name = name
                    .and_then(Value::as_str)
                    .context("an rds without route_config_name")?;
                let route = routes
                    .get(name)
                    .with_context(|| format!("no route configuration {name}"))?;
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

/// A reference to a secret without a source is one to a static secret.
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

/// The field's value under its proto name or its camel-case JSON name.
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
    fn both_forms_of_a_name_are_read() {
        assert_eq!(camel_case("route_config_name"), "routeConfigName");
        assert_eq!(camel_case("rds"), "rds");
    }

    #[test]
    fn what_nobody_serves_is_named() {
        let cluster =
            json!({"name": "color", "type": "EDS", "edsClusterConfig": {"serviceName": "blue"}});
        let error = static_bootstrap(&ServedResources {
            clusters: vec![cluster],
            ..ServedResources::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no endpoints for blue");

        let listener = json!({"filterChains": [{"filters": [{"typedConfig": {"rds": {"routeConfigName": "r"}}}]}]});
        let error = static_bootstrap(&ServedResources {
            listeners: vec![listener],
            ..ServedResources::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no route configuration r");
    }
}
