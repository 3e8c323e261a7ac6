//! Both releases of Envoy validate a static bootstrap and reject a broken reference in it.

use evermesh_testkit::{
    envoy::{EnvoyVersion, validate},
    static_bootstrap::{ServedResources, static_bootstrap},
};
use serde_json::{Value, json};

/// A listener with RDS routes and a cluster with EDS endpoints.
fn served(route_to: &str) -> ServedResources {
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "egress",
        "rds": {"config_source": ads, "route_config_name": "rds_egress_http_80"},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    let socket = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let virtual_host: Value = json!({
        "name": "color.demo.local",
        "domains": ["color.demo.local"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": route_to}}],
    });
    ServedResources {
        clusters: vec![
            json!({"name": "color", "type": "EDS", "eds_cluster_config": {"eds_config": ads}}),
        ],
        endpoints: vec![json!({
            "cluster_name": "color",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket("10.77.0.3", 8080)}}]}],
        })],
        listeners: vec![json!({
            "name": "lds_egress_0.0.0.0_15001",
            "address": socket("0.0.0.0", 15001),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }]}],
        })],
        routes: vec![json!({"name": "rds_egress_http_80", "virtual_hosts": [virtual_host]})],
        secrets: Vec::new(),
    }
}

#[test]
fn complete_bootstrap_is_accepted() {
    let bootstrap = static_bootstrap(&served("color")).unwrap().to_string();
    for version in EnvoyVersion::ALL {
        validate(version, &bootstrap).unwrap();
    }
}

#[test]
fn route_to_an_unknown_cluster_is_rejected() {
    let bootstrap = static_bootstrap(&served("colour")).unwrap().to_string();
    for version in EnvoyVersion::ALL {
        let error = format!("{:#}", validate(version, &bootstrap).unwrap_err());
        assert!(error.contains("unknown cluster 'colour'"), "{error}");
    }
}
