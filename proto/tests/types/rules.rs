use evermesh_proto::{
    Any, cluster, core, listener, pack,
    pb::envoy::{
        config::core::v3::{HealthCheck, health_check},
        extensions::upstreams::http::v3::HttpProtocolOptions,
    },
    protobuf::{Duration, UInt32Value},
    route, rules,
};
use prost::Name;

/// The violations of a message, as text.
fn violations<M: Name>(message: &M) -> Vec<String> {
    let found = rules::violations(&M::full_name(), &message.encode_to_vec());
    found.iter().map(ToString::to_string).collect()
}

fn prefix_route(prefix: &str) -> route::Route {
    use route::{route::Action, route_match::PathSpecifier};
    route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.into())),
            ..Default::default()
        }),
        action: Some(Action::NonForwardingAction(
            route::NonForwardingAction::default(),
        )),
        ..Default::default()
    }
}

fn query(name: &str) -> route::QueryParameterMatcher {
    route::QueryParameterMatcher {
        name: name.into(),
        ..Default::default()
    }
}

#[test]
fn field_of_a_violation_has_the_index_of_each_list() {
    let mut bad = prefix_route("/");
    bad.r#match.as_mut().unwrap().query_parameters = vec![query("a"), query(""), query("b")];
    let host = |routes| route::VirtualHost {
        name: "h".into(),
        domains: vec!["*".into()],
        routes,
        ..Default::default()
    };
    let configuration = route::RouteConfiguration {
        virtual_hosts: vec![host(vec![]), host(vec![prefix_route("/"), bad])],
        ..Default::default()
    };
    assert_eq!(
        violations(&configuration),
        ["virtual_hosts[1].routes[1].match.query_parameters[1].name must not be empty"]
    );
}

#[test]
fn absent_fields_violate_rules() {
    assert_eq!(
        violations(&route::VirtualHost::default()),
        [
            "name must not be empty",
            "domains must have at least 1 item",
        ]
    );
    assert_eq!(
        violations(&route::RouteMatch::default()),
        ["path_specifier must be one of its fields"]
    );
    let check = HealthCheck {
        timeout: Some(Duration::default()),
        ..Default::default()
    };
    assert_eq!(
        violations(&check),
        [
            "timeout must be more than 0 ms",
            "interval must be set",
            "unhealthy_threshold must be set",
            "healthy_threshold must be set",
            "health_checker must be one of its fields",
        ]
    );
}

#[test]
fn texts_are_compared_with_the_bytes_of_the_rule() {
    let rewrite = |prefix: &str| route::RouteAction {
        prefix_rewrite: prefix.into(),
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    };
    for text in ["", "/", "/\u{e9} \t\u{7f}"] {
        assert_eq!(violations(&rewrite(text)), [""; 0], "{text:?}");
    }
    for text in ["\0", "/\n", "/\r"] {
        assert_eq!(
            violations(&rewrite(text)),
            ["prefix_rewrite must not contain NUL, CR or LF"],
            "{text:?}"
        );
    }
    assert_eq!(violations(&query(&"\u{e9}".repeat(512))), [""; 0]);
    assert_eq!(
        violations(&query(&"\u{e9}".repeat(513))),
        ["name must have at most 1024 bytes"]
    );
}

#[test]
fn strict_texts_of_headers_have_no_control_characters() {
    let check = |host: &str| health_check::HttpHealthCheck {
        host: host.into(),
        path: "/".into(),
        ..Default::default()
    };
    assert_eq!(violations(&check("a\tb \u{e9}")), [""; 0]);
    for text in ["\u{1}", "a\n", "\u{7f}"] {
        assert_eq!(
            violations(&check(text)),
            ["host must not contain control characters"],
            "{text:?}"
        );
    }
    let options = |header: &str| core::UpstreamHttpProtocolOptions {
        override_auto_sni_header: header.into(),
        ..Default::default()
    };
    for text in ["", ":authority", "x-a.b,c", "`"] {
        assert_eq!(violations(&options(text)), [""; 0], "{text:?}");
    }
    for text in [":", "a b", "a:", "\u{e9}", "a/b"] {
        assert_eq!(
            violations(&options(text)),
            ["override_auto_sni_header must be a valid header name"],
            "{text:?}"
        );
    }
}

#[test]
fn numbers_and_enums_are_compared_with_the_rule() {
    let address = |port| core::SocketAddress {
        address: "::".into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    assert_eq!(violations(&address(65_535)), [""; 0]);
    assert_eq!(
        violations(&address(65_536)),
        ["port_value must be at most 65535"]
    );
    let range = |bits| core::CidrRange {
        address_prefix: "::".into(),
        prefix_len: Some(UInt32Value { value: bits }),
    };
    assert_eq!(violations(&range(128)), [""; 0]);
    assert_eq!(violations(&range(129)), ["prefix_len must be at most 128"]);
    let ports = listener::FilterChainMatch {
        source_ports: vec![1, 65_536, 0],
        ..Default::default()
    };
    assert_eq!(
        violations(&ports),
        [
            "source_ports[1] must be at most 65535",
            "source_ports[2] must be at least 1",
        ]
    );
    let of_policy = |number| cluster::Cluster {
        name: "c".into(),
        lb_policy: number,
        ..Default::default()
    };
    assert_eq!(violations(&of_policy(0)), [""; 0]);
    assert_eq!(
        violations(&of_policy(99)),
        ["lb_policy must be a defined value of its enum"]
    );
    assert_eq!(
        violations(&of_policy(-1)),
        ["lb_policy must be a defined value of its enum"]
    );
}

#[test]
fn contents_of_any_are_checked() {
    let options = HttpProtocolOptions::default();
    let of = |options: Any| cluster::Cluster {
        name: "c".into(),
        typed_extension_protocol_options: [("http".to_owned(), options)].into(),
        ..Default::default()
    };
    assert_eq!(
        violations(&of(pack(&options))),
        [
            "typed_extension_protocol_options[0].value.upstream_protocol_options must be one of its fields"
        ]
    );
    let unknown = Any {
        type_url: "type.googleapis.com/no.such.Message".into(),
        ..Default::default()
    };
    assert_eq!(violations(&of(unknown)), [""; 0]);
}

#[test]
fn bytes_that_are_not_the_message_are_a_violation() {
    let name = cluster::Cluster::full_name();
    for body in [&[0x0a][..], &[0x0a, 0x05, b'c'], &[0x0b], &[0xff; 12]] {
        let found = rules::violations(&name, body);
        assert_eq!(found[0].rule, "must be an encoded message", "{body:?}");
    }
    // `name` as a number
    let found = rules::violations(&name, &[0x08, 0x01]);
    assert_eq!(found[0].to_string(), "name must be encoded as its type");
}

#[test]
fn message_of_an_unknown_name_has_no_rules() {
    assert_eq!(rules::violations("no.such.Message", &[0xff]), []);
}
