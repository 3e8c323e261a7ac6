//! Every client policy with every listener, by requests and by the counters of handshakes.

use std::collections::BTreeMap;

use evermesh_testkit::{
    envoy::{Envoy, EnvoyVersion},
    tools,
};
use http::StatusCode;

use crate::{
    certificates::{Authority, SecretVolume},
    hosts::{
        COLOR, TlsHosts, color, endpoint_slice, file_certificate, file_trust, front, listener,
        object, service, socket,
    },
    sds,
};

/// The ports of `color`, as columns of [`EXPECTED`].
const PORTS: [u16; 7] = [8000, 8001, 8002, 8003, 8004, 8005, 8006];

/// The outcome of a request with each policy to each port.
///
/// | mark | the request | the caller's connection |
/// |---|---|---|
/// | `p` | succeeds | plaintext |
/// | `t` | succeeds | TLS |
/// | `n` | fails | TLS, which the listener does not speak |
/// | `a` | fails | TLS; another authority than the trusted one signed the server's certificate |
/// | `w` | fails | TLS; the server's certificate has another name than the expected one |
/// | `r` | fails | TLS; the listener refuses the caller, whose certificate is missing or not valid |
const EXPECTED: &str = "
    port         8000 8001 8002 8003 8004 8005 8006
    none         p    t    t    t    t    r    t
    other-port   p    t    t    t    t    r    t
    enforced     n    t    t    t    w    r    t
    lenient      p    t    t    t    w    r    t
    wrong        n    a    a    a    a    a    a
    wrong-soft   p    a    a    a    a    a    a
    named        n    t    t    t    w    r    t
    misnamed     n    w    w    w    w    w    w
    renamed      n    w    w    w    t    w    w
    sds          n    t    t    t    w    r    t
    sds-wrong    n    a    a    a    a    a    a
    own-file     n    t    t    t    w    t    t
    own-sds      n    t    t    t    w    t    t
    own-stranger n    t    t    t    w    r    t
    own-wrong    n    t    t    t    w    r    t
";

/// The listeners of `color`.
fn listeners() -> String {
    let own = file_certificate("color");
    let mutual = format!(
        "{own}, validation: {{{}, subjectAlternativeNames: {{match: {{exact: [front.shop]}}}}}}",
        file_trust("color")
    );
    let sds = "certificate: {sds: {secretName: color}}";
    let other = file_certificate("other");
    color(&[
        listener(8000, "http", ""),
        listener(8001, "http", &format!("mode: STRICT, {own}")),
        listener(8002, "http", &format!("mode: PERMISSIVE, {own}")),
        listener(8003, "http", &format!("mode: STRICT, {sds}")),
        listener(8004, "http", &format!("mode: STRICT, {other}")),
        listener(8005, "http", &format!("mode: STRICT, {mutual}")),
        listener(8006, "http2", &format!("mode: STRICT, {own}")),
        listener(8007, "http", &format!("mode: DISABLED, {own}")),
    ])
}

/// `clientPolicy` of each backend of `front`.
fn policies() -> Vec<(&'static str, String)> {
    let tls = |fields: &str| format!("tls: {{{fields}}}");
    let validation = |trust: &str| format!("validation: {{{trust}}}");
    let names = |names: &str| {
        let trust = file_trust("color");
        format!("validation: {{{trust}, subjectAlternativeNames: {{match: {{exact: [{names}]}}}}}}")
    };
    let right = validation(&file_trust("color"));
    let wrong = validation(&file_trust("wrong"));
    let with_certificate = |folder: &str| tls(&format!("{}, {right}", file_certificate(folder)));
    vec![
        ("none", String::new()),
        ("other-port", tls(&format!("ports: [9999], {wrong}"))),
        ("enforced", tls(&right)),
        ("lenient", tls(&format!("enforce: false, {right}"))),
        ("wrong", tls(&format!("enforce: true, {wrong}"))),
        ("wrong-soft", tls(&format!("enforce: false, {wrong}"))),
        ("named", tls(&names(&format!("unknown.shop, {COLOR}")))),
        ("misnamed", tls(&names("unknown.shop"))),
        ("renamed", tls(&names("other.shop"))),
        (
            "sds",
            tls(&validation("trust: {sds: {secretName: authorities}}")),
        ),
        (
            "sds-wrong",
            tls(&validation("trust: {sds: {secretName: wrong-authorities}}")),
        ),
        ("own-file", with_certificate("front")),
        (
            "own-sds",
            tls(&format!(
                "certificate: {{sds: {{secretName: front}}}}, {right}"
            )),
        ),
        ("own-stranger", with_certificate("stranger")),
        ("own-wrong", with_certificate("wrong")),
    ]
}

/// With `slices`, Evermesh serves the endpoints.
async fn start(version: EnvoyVersion, slices: bool) -> TlsHosts {
    let (right, wrong) = (Authority::new(), Authority::new());
    let folder = tools::scratch("tls").unwrap();
    for (name, authority, subject) in [
        ("color", &right, COLOR),
        ("other", &right, "other.shop"),
        ("front", &right, "front.shop"),
        ("stranger", &right, "stranger.shop"),
        ("wrong", &wrong, "front.shop"),
    ] {
        let path = folder.path().join(name);
        SecretVolume::mount_certificate(path, &authority.sign(subject), authority.pem());
    }
    sds::serve(
        &socket(folder.path()),
        vec![
            ("authorities", sds::authorities(right.pem())),
            ("color", sds::certificate(&right.sign(COLOR))),
            ("front", sds::certificate(&right.sign("front.shop"))),
            ("wrong-authorities", sds::authorities(wrong.pem())),
        ],
    );
    let policies = policies();
    let backends: Vec<(&str, &str)> = policies
        .iter()
        .map(|(name, policy)| (*name, policy.as_str()))
        .collect();
    let services: String = policies.iter().map(|(name, _)| service(name)).collect();
    let slice = if slices { endpoint_slice() } else { "" };
    let manifests = format!("{}{}{services}{slice}", listeners(), front(&backends));
    TlsHosts::start(version, folder, &manifests).await
}

/// The counters of handshakes of one cluster.
#[derive(Debug, Default)]
struct Handshakes {
    succeeded: u64,
    wrong_authority: u64,
    wrong_name: u64,
}

impl Handshakes {
    fn of(stats: &BTreeMap<String, u64>, cluster: &str) -> Self {
        let stat = |name: &str| {
            let name = format!("cluster.{cluster}.ssl.{name}");
            stats.get(&name).copied().unwrap_or_default()
        };
        Self {
            succeeded: stat("handshake"),
            wrong_authority: stat("fail_verify_error"),
            wrong_name: stat("fail_verify_san"),
        }
    }

    /// Whether the counters agree with a mark of [`EXPECTED`].
    fn agree_with(&self, mark: &str) -> bool {
        let Self {
            succeeded,
            wrong_authority,
            wrong_name,
        } = self;
        let failed = [*wrong_authority > 0, *wrong_name > 0];
        match mark {
            "p" | "n" | "r" => *succeeded == 0 && failed == [false, false],
            "t" => *succeeded > 0 && failed == [false, false],
            "a" => *succeeded == 0 && failed == [true, false],
            "w" => *succeeded == 0 && failed == [false, true],
            _ => panic!("`{mark}` is not a mark"),
        }
    }
}

/// The cluster to which `front` sends requests for a service on a port.
async fn clusters(envoy: &Envoy) -> BTreeMap<(u16, String), String> {
    let routed = crate::hosts::routed_clusters(envoy).await;
    let clusters = routed.into_iter().map(|((routes, host), cluster)| {
        let port = routes.rsplit('_').next().unwrap().parse().unwrap();
        let service = host.strip_suffix(".shop").unwrap().to_owned();
        ((port, service), cluster)
    });
    clusters.collect()
}

async fn every_policy_with_every_listener(version: EnvoyVersion, slices: bool) {
    let hosts = start(version, slices).await;
    let color = hosts.color_envoy().await;
    let front = hosts.front_envoy().await;
    let mut table = EXPECTED.trim().lines();
    let header: Vec<&str> = table.next().unwrap().split_whitespace().skip(1).collect();
    assert_eq!(header, PORTS.map(|port| port.to_string()));
    let rows: Vec<Vec<&str>> = table.map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), policies().len());

    let mut wrong = Vec::new();
    for row in &rows {
        for (port, mark) in PORTS.into_iter().zip(&row[1..]) {
            let expected = match *mark {
                "p" | "t" => StatusCode::OK,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            let status = hosts.call(row[0], port).await;
            if status != expected {
                wrong.push(format!("{} {port}: {status} instead of {mark}", row[0]));
            }
        }
    }
    let stats = front.stats().await.unwrap();
    let clusters = clusters(&front).await;
    for row in &rows {
        for (port, mark) in PORTS.into_iter().zip(&row[1..]) {
            let cluster = &clusters[&(port, row[0].to_owned())];
            let handshakes = Handshakes::of(&stats, cluster);
            if !handshakes.agree_with(mark) {
                wrong.push(format!("{} {port}: {mark}, but {handshakes:?}", row[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    let of_listener = async |name: &str| {
        let name = format!("listener.0.0.0.0_15000.ssl.{name}");
        color.stat(&name).await.unwrap()
    };
    for counter in [
        "handshake",
        "fail_verify_no_cert",
        "fail_verify_san",
        "fail_verify_error",
    ] {
        assert!(of_listener(counter).await > 0, "{counter} of the listener");
    }
    assert_eq!(hosts.call("none", 8007).await, StatusCode::OK);
    assert_eq!(
        hosts.call("enforced", 8007).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    hosts.has_no_error().await;
}

#[tokio::test]
async fn oldest_envoy_follows_every_policy_with_endpoints_of_evermesh() {
    every_policy_with_every_listener(EnvoyVersion::Oldest, true).await;
}

#[tokio::test]
async fn newest_envoy_follows_every_policy_with_endpoints_of_dns() {
    every_policy_with_every_listener(EnvoyVersion::Newest, false).await;
}

/// A caller with `backendDefaults`, and with a backend that has a policy of its own.
#[tokio::test]
async fn own_policy_of_a_backend_replaces_the_default() {
    let (right, wrong) = (Authority::new(), Authority::new());
    let folder = tools::scratch("tls").unwrap();
    for (name, authority) in [("color", &right), ("wrong", &wrong)] {
        let path = folder.path().join(name);
        SecretVolume::mount_certificate(path, &authority.sign(COLOR), authority.pem());
    }
    let own = format!("mode: STRICT, {}", file_certificate("color"));
    let policy = |folder: &str| {
        let trust = file_trust(folder);
        format!("clientPolicy: {{tls: {{validation: {{{trust}}}}}}}")
    };
    let (default, replaced) = (policy("wrong"), policy("color"));
    let front = object(
        "VirtualNode",
        "front",
        &format!(
            "{{backendDefaults: {{{default}}}, backends: [{{virtualService: {{virtualServiceRef: {{name: a}}}}}}, {{virtualService: {{virtualServiceRef: {{name: b}}, {replaced}}}}}, {{virtualService: {{virtualServiceRef: {{name: c}}, clientPolicy: {{}}}}}}]}}"
        ),
    );
    let services: String = ["a", "b", "c"].map(service).concat();
    let manifests = format!(
        "{}{front}{services}",
        color(&[listener(8001, "http", &own)])
    );
    let hosts = TlsHosts::start(EnvoyVersion::Newest, folder, &manifests).await;
    let _color = hosts.color_envoy().await;
    let _front = hosts.front_envoy().await;
    for (service, expected) in [
        ("a", StatusCode::SERVICE_UNAVAILABLE),
        ("b", StatusCode::OK),
        ("c", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        assert_eq!(hosts.call(service, 8001).await, expected, "{service}");
    }
    hosts.has_no_error().await;
}
