//! [`evermesh_proto::rules`] finds what real Envoys refuse, and nothing else.
//!
//! For each kind of rule, a valid bootstrap gets a value that violates a rule of this kind, and another one that is just
//! valid. The evaluator names the field of the first; both Envoys refuse it with their message for violated rules. They
//! accept the second.

use anyhow::{Context as _, Result, bail, ensure};
use evermesh_proto::{bootstrap::Bootstrap, json::from_json, pack, rules::violations};
use evermesh_testkit::envoy::{EnvoyVersion, validate};
use serde_json::{Value, json};

/// Beginnings of the paths in the bootstrap.
const CLUSTER: &str = "static_resources/clusters/0";
const OPTIONS: &str = "static_resources/clusters/0/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CHECK: &str = "static_resources/clusters/0/health_checks/0";
const CHAIN: &str = "static_resources/listeners/0/filter_chains/0";
const MANAGER: &str = "static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const HOST: &str = "static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0";

/// A field of the bootstrap, with a value that violates a rule and one that does not.
struct RuleCase {
    /// The kind of the rule.
    kind: &'static str,
    at: String,
    refused: Value,
    accepted: Value,
}

fn case(
    kind: &'static str,
    parent: &str,
    field: &str,
    refused: Value,
    accepted: Value,
) -> RuleCase {
    RuleCase {
        kind,
        at: format!("/{parent}/{field}"),
        refused,
        accepted,
    }
}

fn texts() -> Vec<RuleCase> {
    let route = format!("{HOST}/routes/0");
    let matching = format!("{route}/match");
    vec![
        case(
            "min_len",
            &matching,
            "query_parameters/0/name",
            json!(""),
            json!("\u{e9}"),
        ),
        case(
            "max_bytes",
            &matching,
            "query_parameters/0/name",
            json!("x".repeat(1_025)),
            json!("x".repeat(1_024)),
        ),
        case(
            "header name, not strict",
            &matching,
            "headers/0/name",
            json!("a\nb"),
            json!("a-b"),
        ),
        case(
            "header value, not strict",
            &route,
            "route/prefix_rewrite",
            json!("/a\r"),
            json!("/a\u{1}\u{7f}"),
        ),
        case(
            "header name, strict",
            OPTIONS,
            "upstream_http_protocol_options/override_auto_sni_header",
            json!("a b"),
            json!(":authority"),
        ),
        case(
            "header name, strict",
            OPTIONS,
            "upstream_http_protocol_options/override_auto_sni_header",
            json!("a/b"),
            json!("a,b~"),
        ),
        case(
            "header value, strict",
            CHECK,
            "http_health_check/host",
            json!("a\u{7f}"),
            json!("a\tb \u{e9}"),
        ),
        case(
            "header value, strict",
            CHECK,
            "http_health_check/path",
            json!("/\u{1}"),
            json!("/ "),
        ),
        case(
            "in",
            MANAGER,
            "scheme_header_transformation/scheme_to_overwrite",
            json!("ftp"),
            json!("https"),
        ),
        case(
            "pattern",
            &matching,
            "path_separated_prefix",
            json!("/a/"),
            json!("/a\u{e9}"),
        ),
        case(
            "bytes max_len",
            &route,
            "request_headers_to_add/0/header/raw_value",
            json!("A".repeat(21_848)),
            json!("A".repeat(21_844)),
        ),
    ]
}

fn numbers() -> Vec<RuleCase> {
    let route = format!("{HOST}/routes/0");
    vec![
        case(
            "double lte",
            CLUSTER,
            "common_lb_config/healthy_panic_threshold/value",
            json!(100.5),
            json!(100),
        ),
        case(
            "double gte",
            CLUSTER,
            "common_lb_config/healthy_panic_threshold/value",
            json!(-0.5),
            json!(0),
        ),
        case(
            "uint32 lte",
            CLUSTER,
            "load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value",
            json!(65_536),
            json!(65_535),
        ),
        case(
            "uint32 gt in a wrapper",
            CLUSTER,
            "load_assignment/policy/overprovisioning_factor",
            json!(0),
            json!(1),
        ),
        case(
            "uint32 gte",
            &route,
            "direct_response/status",
            json!(199),
            json!(200),
        ),
        case(
            "uint32 lt",
            &route,
            "direct_response/status",
            json!(600),
            json!(599),
        ),
        case(
            "uint64 lte in a wrapper",
            CLUSTER,
            "ring_hash_lb_config/maximum_ring_size",
            json!(8_388_609),
            json!(8_388_608),
        ),
        case(
            "enum defined_only",
            CLUSTER,
            "lb_policy",
            json!(99),
            json!(3),
        ),
        case(
            "enum not_in",
            CHECK,
            "http_health_check/method",
            json!("CONNECT"),
            json!("GET"),
        ),
        case(
            "bool const",
            "static_resources/listeners/0",
            "listener_filters/0/filter_disabled/any_match",
            json!(false),
            json!(true),
        ),
        case(
            "uint32 items",
            CHAIN,
            "filter_chain_match/source_ports",
            json!([80, 65_536]),
            json!([80, 65_535]),
        ),
    ]
}

fn durations() -> Vec<RuleCase> {
    vec![
        case(
            "duration required",
            CHECK,
            "timeout",
            Value::Null,
            json!("1s"),
        ),
        case(
            "duration gt",
            CHECK,
            "interval",
            json!("0s"),
            json!("0.001s"),
        ),
        case(
            "duration gte",
            OPTIONS,
            "explicit_http_config/http2_protocol_options/connection_keepalive/timeout",
            json!("0.0005s"),
            json!("0.001s"),
        ),
        case(
            "duration lt",
            "",
            "stats_flush_interval",
            json!("300s"),
            json!("299s"),
        ),
    ]
}

fn presence() -> Vec<RuleCase> {
    let route = format!("{HOST}/routes/0");
    let filter = "access_log/0/filter/and_filter/filters";
    let health = json!({ "not_health_check_filter": {} });
    let header = json!({ "header": { "key": "a", "value": "b" } });
    let option = |name: String| json!({ "header": { "key": name, "value": "b" } });
    let options = |count: usize| {
        (0..count)
            .map(|it| option(format!("h{it}")))
            .collect::<Value>()
    };
    vec![
        case(
            "message required",
            &route,
            "request_headers_to_add/0",
            json!({}),
            header,
        ),
        case(
            "any required",
            MANAGER,
            "original_ip_detection_extensions",
            json!([{ "name": "a" }]),
            json!([]),
        ),
        case(
            "oneof required",
            &route,
            "match",
            json!({}),
            json!({ "prefix": "/" }),
        ),
        case("min_items 1", HOST, "domains", json!([]), json!(["a"])),
        case(
            "min_items 2",
            MANAGER,
            filter,
            json!([health]),
            json!([health, health]),
        ),
        case(
            "max_items",
            &route,
            "request_headers_to_add",
            options(1_001),
            options(1_000),
        ),
        case(
            "unique",
            &route,
            "route/internal_redirect_policy/response_headers_to_copy",
            json!(["a", "b", "a"]),
            json!(["a", "b", "A"]),
        ),
        case(
            "items",
            HOST,
            "domains",
            json!(["a", "b\n"]),
            json!(["a", "b"]),
        ),
        case(
            "map keys",
            CLUSTER,
            "metadata/filter_metadata",
            json!({ "": {} }),
            json!({ "a": {} }),
        ),
    ]
}

/// A valid bootstrap with the messages to which the cases belong.
fn bootstrap() -> Value {
    let options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": { "connection_keepalive": { "timeout": "1s", "interval": "1s" } } },
        "upstream_http_protocol_options": {},
    });
    let cluster = json!({
        "name": "c",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": "c",
            "policy": {},
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
                "address": "127.0.0.1", "port_value": 1,
            } } } }] }],
        },
        "common_lb_config": { "healthy_panic_threshold": {} },
        "health_checks": [{
            "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
            "http_health_check": { "path": "/" },
        }],
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options },
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "s",
        "access_log": [{
            "name": "a",
            "filter": { "and_filter": {} },
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/null" },
        }],
        "route_config": { "virtual_hosts": [{ "name": "h", "domains": ["*"], "routes": [{}] }] },
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let listener = json!({
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "listener_filters": [{
            "name": "inspector",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" },
        }],
        "filter_chains": [{ "filters": [{ "name": "manager", "typed_config": manager }] }],
    });
    json!({ "static_resources": { "clusters": [cluster], "listeners": [listener] } })
}

/// The bootstrap with another value of a field. Objects and lists on the way are added.
fn with(pointer: &str, value: &Value) -> Result<Value> {
    let mut bootstrap = bootstrap();
    let mut at = &mut bootstrap;
    for step in pointer.split('/').filter(|step| !step.is_empty()) {
        at = match step.parse::<usize>() {
            Ok(index) => {
                if at.is_null() {
                    *at = json!([{}]);
                }
                at.get_mut(index).context("the list is too short")?
            }
            Err(_) => &mut at[step],
        };
    }
    *at = value.clone();
    complete(&mut bootstrap, pointer);
    Ok(bootstrap)
}

/// Adds what the messages of a case need beside the field of the case.
fn complete(bootstrap: &mut Value, pointer: &str) {
    let is_in = |text: &str| pointer.contains(text);
    let manager = format!("/{MANAGER}");
    if let Some(manager) = bootstrap.pointer_mut(&manager) {
        let host = &mut manager["route_config"]["virtual_hosts"][0];
        let route = &mut host["routes"][0];
        if !is_in("/match") {
            route["match"] = json!({ "prefix": "/" });
        } else if is_in("/match/") && !is_in("path_separated_prefix") {
            route["match"]["prefix"] = json!("/");
        }
        if is_in("/headers/0") {
            route["match"]["headers"][0]["present_match"] = json!(true);
        }
        if is_in("raw_value") {
            route["request_headers_to_add"][0]["header"]["key"] = json!("a");
        }
        if !is_in("direct_response") {
            route["route"]["cluster"] = json!("c");
        }
        if !is_in("and_filter") {
            let both =
                json!([{ "not_health_check_filter": {} }, { "not_health_check_filter": {} }]);
            manager["access_log"][0]["filter"]["and_filter"]["filters"] = both;
        }
    }
    if is_in("ring_hash") {
        bootstrap["static_resources"]["clusters"][0]["lb_policy"] = json!("RING_HASH");
    }
}

fn found(bootstrap: Value) -> Result<Vec<String>> {
    let message: Bootstrap = from_json(bootstrap)?;
    let found = violations("envoy.config.bootstrap.v3.Bootstrap", &pack(&message).value);
    Ok(found.into_iter().map(|it| it.to_string()).collect())
}

fn judge(case: &RuleCase) -> Result<()> {
    let refused = with(&case.at, &case.refused)?;
    let violated = found(refused.clone())?;
    let [violation] = &violated[..] else {
        bail!("one violation was expected: {violated:?}");
    };
    // The violation is at the field or below it. Keys of maps, and a message that is required in the field, are named else.
    let mut names = case
        .at
        .split('/')
        .filter(|step| step.parse::<usize>().is_err());
    let unnamed = names.find(|name| !name.contains('.') && !violation.contains(name));
    ensure!(unnamed.is_none(), "{unnamed:?} is not in: {violation}");
    let accepted = with(&case.at, &case.accepted)?;
    let violated = found(accepted.clone())?;
    ensure!(violated.is_empty(), "{violated:?}");
    for version in EnvoyVersion::ALL {
        let Err(error) = validate(version, &refused.to_string()) else {
            bail!("Envoy {} accepts it: {violation}", version.number());
        };
        let error = format!("{error:#}");
        ensure!(
            error.contains("constraint validation failed"),
            "{violation}: {error}"
        );
        validate(version, &accepted.to_string()).with_context(|| format!("{}", case.accepted))?;
    }
    Ok(())
}

#[test]
fn evaluator_and_envoys_agree_on_each_kind_of_rule() {
    let cases = [texts(), numbers(), durations(), presence()];
    let failures: Vec<String> = cases
        .iter()
        .flatten()
        .filter_map(|case| {
            let error = judge(case).err()?;
            Some(format!("{} ({}): {error:#}", case.kind, case.at))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
