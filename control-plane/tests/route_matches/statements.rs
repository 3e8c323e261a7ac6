//! The descriptions of matches in the CRDs, each with requests that show it.

use std::fs;

use evermesh_testkit::envoy::EnvoyVersion;
use serde_json::{Value, json};

use crate::{
    envoy::{AnsweringEnvoy, RawRequest},
    mesh::{Owner, RouteSet, Translated, host},
};

/// A sentence of a description, a match, and requests with whether the match accepts them.
struct Statement {
    sentence: &'static str,
    owner: Owner,
    /// The field that contains the match.
    field: &'static str,
    matches: Value,
    requests: Vec<(RawRequest, bool)>,
}

fn request(path: &str) -> RawRequest {
    RawRequest {
        port: 8080,
        host: String::new(),
        method: "GET",
        path: path.to_owned(),
        headers: Vec::new(),
    }
}

fn with(headers: &[(&str, &str)]) -> RawRequest {
    let headers = headers.iter();
    RawRequest {
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..request("/")
    }
}

fn method(method: &'static str) -> RawRequest {
    RawRequest {
        method,
        ..request("/")
    }
}

fn to_port(port: u16) -> RawRequest {
    RawRequest {
        port,
        ..request("/")
    }
}

/// A request to a host name; `{}` stands for the name that belongs to the set.
fn to(host: &str) -> RawRequest {
    RawRequest {
        host: host.to_owned(),
        ..request("/")
    }
}

/// A statement about a route of a router for HTTP.
fn http(
    sentence: &'static str,
    matches: Value,
    requests: impl IntoIterator<Item = (RawRequest, bool)>,
) -> Statement {
    Statement {
        sentence,
        owner: Owner::Inline,
        field: "httpRoute",
        matches,
        requests: requests.into_iter().collect(),
    }
}

/// A statement about a condition on the header `x`, with values of that header.
fn header<const N: usize>(
    sentence: &'static str,
    condition: &Value,
    values: [(Option<&str>, bool); N],
) -> Statement {
    let mut condition = condition.clone();
    condition["name"] = json!("x");
    let requests = values.map(|(value, fits)| {
        let headers: Vec<(&str, &str)> = value.map(|value| ("x", value)).into_iter().collect();
        (with(&headers), fits)
    });
    http(
        sentence,
        json!({"prefix": "/", "headers": [condition]}),
        requests,
    )
}

fn grpc(statement: Statement) -> Statement {
    Statement {
        field: "grpcRoute",
        ..statement
    }
}

fn gateway(statement: Statement) -> Statement {
    Statement {
        owner: Owner::Gateway,
        ..statement
    }
}

fn paths<const N: usize>(paths: [(&str, bool); N]) -> [(RawRequest, bool); N] {
    paths.map(|(path, fits)| (request(path), fits))
}

fn hosts<const N: usize>(hosts: [(&str, bool); N]) -> [(RawRequest, bool); N] {
    hosts.map(|(host, fits)| (to(host), fits))
}

fn of_headers() -> Vec<Statement> {
    vec![
        header(
            "Default: the header exists, with any value, also an empty one",
            &json!({}),
            [(None, false), (Some(""), true), (Some("a"), true)],
        ),
        header(
            "Without a `match`, `true` accepts requests without the header",
            &json!({"invert": true}),
            [(None, true), (Some(""), false), (Some("a"), false)],
        ),
        header(
            "Default: `false`",
            &json!({"match": {"exact": "a"}}),
            [
                (None, false),
                (Some(""), false),
                (Some("a"), true),
                (Some("A"), false),
                (Some("ab"), false),
            ],
        ),
        header(
            "Prefix of the value",
            &json!({"match": {"prefix": "ab"}}),
            [
                (None, false),
                (Some("ab"), true),
                (Some("abc"), true),
                (Some("a"), false),
                (Some("Ab"), false),
            ],
        ),
        header(
            "Suffix of the value",
            &json!({"match": {"suffix": "bc"}}),
            [
                (None, false),
                (Some("bc"), true),
                (Some("abc"), true),
                (Some("c"), false),
                (Some("bC"), false),
            ],
        ),
        header(
            "that has to match the whole value",
            &json!({"match": {"regex": "a+"}}),
            [
                (None, false),
                (Some("aa"), true),
                (Some("aab"), false),
                (Some("baa"), false),
                (Some(""), false),
            ],
        ),
        header(
            "Range for a value that is a decimal integer",
            &json!({"match": {"range": {"start": -5, "end": 10}}}),
            [
                (None, false),
                (Some("-5"), true),
                (Some("0"), true),
                (Some("+9"), true),
                (Some("007"), true),
                (Some(""), false),
                (Some("5.0"), false),
                (Some("5a"), false),
                (Some("0x5"), false),
            ],
        ),
    ]
}

fn of_ranges_and_names() -> Vec<Statement> {
    vec![
        header(
            "Start of the range, inclusive",
            &json!({"match": {"range": {"start": 5, "end": 10}}}),
            [(Some("4"), false), (Some("5"), true)],
        ),
        header(
            "End of the range, exclusive",
            &json!({"match": {"range": {"start": 5, "end": 10}}}),
            [(Some("9"), true), (Some("10"), false)],
        ),
        http(
            "Name of the header, case-insensitive",
            json!({"prefix": "/", "headers": [{"name": "X-Team"}]}),
            [
                (with(&[("x-tEAM", "a")]), true),
                (with(&[("x-teams", "a")]), false),
            ],
        ),
        http(
            "Headers, 1 to 10 entries. All of them must match",
            json!({"prefix": "/", "headers": [{"name": "x"}, {"name": "y", "invert": true}]}),
            [
                (with(&[("x", "a")]), true),
                (with(&[]), false),
                (with(&[("x", "a"), ("y", "a")]), false),
            ],
        ),
    ]
}

fn of_inverted_headers() -> Vec<Statement> {
    let inverted = [
        (json!({"exact": "a"}), "a", "b"),
        (json!({"prefix": "a"}), "ab", "ba"),
        (json!({"suffix": "a"}), "ba", "ab"),
        (json!({"regex": "a+"}), "aa", "b"),
        (json!({"range": {"start": 0, "end": 9}}), "5", "x"),
    ];
    let statement = |(condition, value, other): (Value, &str, &str)| {
        let values = [
            (None, false),
            (Some(value), false),
            (Some(other), true),
            (Some(""), true),
        ];
        header(
            "With a `match`, an inverted match still needs the header",
            &json!({"invert": true, "match": condition}),
            values,
        )
    };
    inverted.into_iter().map(statement).collect()
}

/// Both versions of Envoy treat a header that occurs several times in different ways.
fn of_repeated_headers(version: EnvoyVersion) -> Vec<Statement> {
    let joined = version == EnvoyVersion::Oldest;
    let twice = || with(&[("x", "a"), ("x", "b")]);
    let of_value = |value: &str, fits| {
        http(
            "Envoy 1.36 compares the values of a header that occurs several times as one, joined by commas; Envoy 1.40 accepts any of them",
            json!({"prefix": "/", "headers": [{"name": "x", "match": {"exact": value}}]}),
            [(twice(), fits)],
        )
    };
    vec![
        of_value("a,b", joined),
        of_value("a", !joined),
        of_value("b", !joined),
    ]
}

fn of_requests() -> Vec<Statement> {
    vec![
        http(
            "Prefix of the path; begins with `/` and may end anywhere: `/x` matches `/x1`",
            json!({"prefix": "/x"}),
            paths([
                ("/x", true),
                ("/x1", true),
                ("/x/y?z", true),
                ("/X", false),
                ("/y/x", false),
            ]),
        ),
        http(
            "The prefix `/` matches every path",
            json!({"prefix": "/"}),
            paths([("/", true), ("/x?y", true)]),
        ),
        http(
            "The path, in the same case",
            json!({"path": {"exact": "/x"}}),
            paths([
                ("/x", true),
                ("/x?y=1", true),
                ("/x?", true),
                ("/x/", false),
                ("/X", false),
                ("/x1", false),
            ]),
        ),
        http(
            "that has to match the whole path",
            json!({"path": {"regex": "/x[0-9]"}}),
            paths([
                ("/x1", true),
                ("/x1?y", true),
                ("/x12", false),
                ("/a/x1", false),
            ]),
        ),
        http(
            "Request method. Default: any. CONNECT is never matched",
            json!({"prefix": "/", "method": "GET"}),
            [
                (method("GET"), true),
                (method("HEAD"), false),
                (method("POST"), false),
            ],
        ),
        http(
            "Request method. Default: any",
            json!({"prefix": "/"}),
            [
                (method("GET"), true),
                (method("HEAD"), true),
                (method("DELETE"), true),
            ],
        ),
        http(
            "`x-forwarded-proto` of an HTTP/1.1 request, and `http` without it",
            json!({"prefix": "/", "scheme": "http"}),
            [
                (with(&[]), true),
                (with(&[("x-forwarded-proto", "http")]), true),
                (with(&[("x-forwarded-proto", "https")]), false),
            ],
        ),
    ]
}

fn of_queries_and_ports() -> Vec<Statement> {
    vec![
        http(
            "Default: the parameter exists, with any value, also an empty one",
            json!({"prefix": "/", "queryParameters": [{"name": "q"}]}),
            paths([
                ("/?q=1", true),
                ("/?q=", true),
                ("/?q", true),
                ("/?a=1&q=2", true),
                ("/?Q=1", false),
                ("/", false),
            ]),
        ),
        http(
            "The value, in the same case",
            json!({"prefix": "/", "queryParameters": [{"name": "q", "match": {"exact": "a"}}]}),
            paths([
                ("/?q=a", true),
                ("/?q=A", false),
                ("/?q=", false),
                ("/?q", false),
                ("/?q=ab", false),
                ("/", false),
            ]),
        ),
        http(
            "Of a parameter that occurs several times, the first value counts",
            json!({"prefix": "/", "queryParameters": [{"name": "q", "match": {"exact": "a"}}]}),
            paths([("/?q=a&q=b", true), ("/?q=b&q=a", false)]),
        ),
        http(
            "Query parameters, 1 to 10 entries. All of them must match",
            json!({"prefix": "/", "queryParameters": [{"name": "q"}, {"name": "r"}]}),
            paths([("/?q&r", true), ("/?q", false), ("/?r", false)]),
        ),
        http(
            "Name of the query parameter, case-sensitive",
            json!({"prefix": "/", "queryParameters": [{"name": "Q"}]}),
            paths([("/?Q=1", true), ("/?q=1", false)]),
        ),
        http(
            "Port of the router on which the traffic arrives. Default: any",
            json!({"prefix": "/", "port": 9090}),
            [(to_port(9090), true), (to_port(8080), false)],
        ),
        http(
            "Port of the router on which the traffic arrives. Default: any",
            json!({"prefix": "/"}),
            [(to_port(9090), true), (to_port(8080), true)],
        ),
    ]
}

fn of_grpc() -> Vec<Statement> {
    let service = json!({"serviceName": "color.Color"});
    let of_service = [
        ("/color.Color/Get", true),
        ("/color.Color/", true),
        ("/color.Color", false),
        ("/color.Colors/Get", false),
        ("/Color/Get", false),
    ];
    let metadata = json!({"metadata": [{"name": "x", "invert": true, "match": {"exact": "a"}}]});
    vec![
        grpc(http(
            "Full name of the gRPC service, such as `color.ColorService`",
            service.clone(),
            paths(of_service),
        )),
        grpc(http(
            "Method of the service",
            json!({"serviceName": "color.Color", "methodName": "Get"}),
            paths([
                ("/color.Color/Get", true),
                ("/color.Color/GetAll", false),
                ("/color.Color/", false),
            ]),
        )),
        grpc(http(
            "`{}` matches every call",
            json!({}),
            paths([("/color.Color/Get", true), ("/", true)]),
        )),
        grpc(http(
            "Metadata, 1 to 10 entries. All of them must match",
            metadata,
            [
                (with(&[]), false),
                (with(&[("x", "b")]), true),
                (with(&[("x", "a")]), false),
            ],
        )),
        gateway(grpc(http(
            "Full name of the gRPC service, such as `color.ColorService`",
            service,
            paths(of_service),
        ))),
    ]
}

fn of_gateways() -> Vec<Statement> {
    let suffix = json!({"hostname": {"suffix": ".a.s0.test"}});
    let name = json!({"hostname": {"exact": "A.s0.test"}});
    vec![
        gateway(http(
            "Prefix of the path; begins with `/` and may end anywhere: `/x` matches `/x1`",
            json!({"prefix": "/x"}),
            paths([("/x", true), ("/x1", true), ("/x/y", true), ("/y", false)]),
        )),
        gateway(http(
            "The host name, in any case; 1 to 253 characters",
            name,
            hosts([
                ("a.{}", true),
                ("A.{}", true),
                ("a.{}:8080", true),
                ("b.a.{}", false),
                ("{}", false),
            ]),
        )),
        gateway(http(
            "A suffix that begins with a dot needs a label before it",
            suffix,
            hosts([
                ("b.a.{}", true),
                ("B.A.{}:9", true),
                ("c.b.a.{}", true),
                ("a.{}", false),
                ("ba.{}", false),
            ]),
        )),
        gateway(http(
            "any other suffix may be the whole name or the end of a label",
            json!({"hostname": {"suffix": "a.s0.test"}}),
            hosts([
                ("a.{}", true),
                ("ba.{}", true),
                ("b.a.{}", true),
                ("b.{}", false),
            ]),
        )),
        gateway(http(
            "Host name of the request. Default: any",
            json!({"prefix": "/"}),
            hosts([("{}", true), ("a.{}", true)]),
        )),
        gateway(http(
            "Port of the gateway on which the request arrives. Default: any",
            json!({"prefix": "/", "port": 9090}),
            [(to_port(9090), true), (to_port(8080), false)],
        )),
        gateway(http(
            "With a `match`, an inverted match still needs the header",
            json!({"prefix": "/", "headers": [{"name": "x", "invert": true, "match": {"exact": "a"}}]}),
            [
                (with(&[]), false),
                (with(&[("x", "b")]), true),
                (with(&[("x", "a")]), false),
            ],
        )),
    ]
}

/// The descriptions of all CRDs, each line break replaced by a space.
fn descriptions() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    let text: String = yaml.map(|path| fs::read_to_string(path).unwrap()).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn descriptions_say_which_requests_match() {
    let descriptions = descriptions();
    let mut wrong = Vec::new();
    for version in EnvoyVersion::ALL {
        let parts = [
            of_headers(),
            of_ranges_and_names(),
            of_inverted_headers(),
            of_repeated_headers(version),
            of_requests(),
            of_queries_and_ports(),
            of_grpc(),
            of_gateways(),
        ];
        let statements: Vec<Statement> = parts.into_iter().flatten().collect();
        for statement in &statements {
            if !descriptions.contains(statement.sentence) {
                wrong.push(format!("no description says: {}", statement.sentence));
            }
        }
        let sets: Vec<RouteSet> = statements
            .iter()
            .enumerate()
            .map(|(index, statement)| RouteSet {
                owner: statement.owner,
                routes: vec![(None, statement.field, of_set(&statement.matches, index))],
            })
            .collect();
        let translated = Translated::new(&sets);
        let mut envoy =
            AnsweringEnvoy::start(version, &translated.manager(), translated.hosts()).await;
        for (index, statement) in statements.iter().enumerate() {
            let own = host(index);
            for (request, fits) in &statement.requests {
                let mut request = request.clone();
                request.host = match request.host.as_str() {
                    "" => own.clone(),
                    host => host.replace("{}", &own),
                };
                let answers = envoy.ask(std::slice::from_ref(&request));
                if answers[0].is_some() != *fits {
                    let what = if *fits { "does not match" } else { "matches" };
                    wrong.push(format!(
                        "Envoy {}: {}: {} {what} {request:?}",
                        version.number(),
                        statement.sentence,
                        statement.matches
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The match with the host names of a set instead of those of the first one.
fn of_set(matches: &Value, index: usize) -> Value {
    let text = matches.to_string().replace("s0.test", &host(index));
    serde_json::from_str(&text).unwrap()
}
