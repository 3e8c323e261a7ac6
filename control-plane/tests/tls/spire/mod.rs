//! Mutual TLS with certificates of SPIRE. Its server is on the host `control`. Each Envoy gets its certificates from the
//! agent of its host, by the secret discovery service.
//!
//! Needs the programs that `scripts/spire` builds.

mod programs;

use std::{fs, time::Duration};

use evermesh_testkit::{
    envoy::{Envoy, EnvoyVersion},
    hosts::LabHost,
    load::Load,
    process::Process,
    tools,
};
use http::StatusCode;
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, sync::oneshot};

use self::programs::SpireServer;
use crate::{
    common::eventually,
    hosts::{COLOR, TCP_PORTS, TlsHosts, front, listener, object, service, socket},
    renewal::serials,
};

/// SPIFFE IDs.
const FRONT_ID: &str = "spiffe://example.org/front";
const COLOR_ID: &str = "spiffe://example.org/color";
const OTHER_ID: &str = "spiffe://example.org/other";

/// The name of the secret with the authorities of the trust domain.
const TRUST_DOMAIN: &str = "spiffe://example.org";

/// Validates the client by its SPIFFE ID.
const PORT: u16 = 8001;
/// Demands another client.
const OTHER_PORT: u16 = 8002;

/// Lifetime of certificates, in seconds, if none has to be renewed during the test.
const HOUR: u32 = 3600;

/// The tag that begins each line of the access log.
const LINE: &str = "identities:";

fn certificate(secret: &str) -> String {
    format!("certificate: {{sds: {{secretName: \"{secret}\"}}}}")
}

fn validation(trust: &str, id: &str) -> String {
    format!(
        "validation: {{trust: {{sds: {{secretName: \"{trust}\"}}}}, subjectAlternativeNames: {{match: {{exact: [\"{id}\"]}}}}}}"
    )
}

/// A listener that demands this identity of its clients.
fn strict(port: u16, protocol: &str, client: &str) -> String {
    let (own, validation) = (certificate(COLOR_ID), validation(TRUST_DOMAIN, client));
    listener(
        port,
        protocol,
        &format!("mode: STRICT, {own}, {validation}"),
    )
}

/// The node `color` with a log of the identities of both sides.
fn color(listeners: &[String]) -> String {
    let format = format!("{LINE} %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN%\\n");
    let log = format!("accessLog: {{file: {{path: /dev/stdout, format: {{text: \"{format}\"}}}}}}");
    let spec = format!(
        "{{serviceDiscovery: {{dns: {{hostname: {COLOR}}}}}, logging: {{{log}}}, listeners: [{}]}}",
        listeners.join(", ")
    );
    object("VirtualNode", "color", &spec)
}

/// Starts hosts without SPIRE. `color` has these listeners, and `front` a backend with each of these client policies.
async fn start(version: EnvoyVersion, listeners: &[String], policies: &[(&str, &str)]) -> TlsHosts {
    let folder = tools::scratch("tls").unwrap();
    let policies: Vec<_> = policies
        .iter()
        .map(|(name, fields)| (*name, format!("tls: {{{fields}}}")))
        .collect();
    let backends: Vec<_> = policies
        .iter()
        .map(|(name, tls)| (*name, tls.as_str()))
        .collect();
    let services: String = backends.iter().map(|(name, _)| service(name)).collect();
    let manifests = color(listeners) + &front(&backends) + &services;
    let hosts = TlsHosts::start(version, folder, &manifests).await;
    // The socket has the same path on each host.
    for host in [&hosts.front, &hosts.color] {
        let folder = hosts.folder().display();
        host.shell(&format!("mount -t tmpfs -o mode=755 tmpfs {folder}"))
            .unwrap();
    }
    hosts
}

/// Starts a SPIRE server, and the agents of `front` and `color`.
async fn start_spire(hosts: &TlsHosts, lifetime: u32) -> (SpireServer, [Process; 2]) {
    let server = SpireServer::start(&hosts.control).await;
    let socket = socket(hosts.folder());
    let agent = async |host: &LabHost, id: &str| server.agent(host, &socket, id, lifetime).await;
    let agents = [
        agent(&hosts.front, FRONT_ID).await,
        agent(&hosts.color, COLOR_ID).await,
    ];
    (server, agents)
}

/// The sum of a counter of TLS over all clusters of an Envoy.
async fn of_clusters(envoy: &Envoy, counter: &str) -> u64 {
    let end = format!(".ssl.{counter}");
    let stats = envoy.stats().await.unwrap();
    let values = stats
        .iter()
        .filter(|(name, _)| name.starts_with("cluster.") && name.ends_with(&end));
    values.map(|(_, value)| value).sum()
}

async fn of_listener(envoy: &Envoy, counter: &str) -> u64 {
    let name = format!("listener.0.0.0.0_15000.ssl.{counter}");
    envoy.stat(&name).await.unwrap()
}

async fn only_the_expected_identities_connect(version: EnvoyVersion) {
    let [own, default, other] = [FRONT_ID, "default", OTHER_ID].map(certificate);
    let hosts = start(
        version,
        &[
            strict(PORT, "http", FRONT_ID),
            strict(OTHER_PORT, "http", OTHER_ID),
        ],
        &[
            (
                "named",
                &format!("{own}, {}", validation(TRUST_DOMAIN, COLOR_ID)),
            ),
            (
                "by-default-names",
                &format!("{default}, {}", validation("ROOTCA", COLOR_ID)),
            ),
            (
                "misnamed",
                &format!("{own}, {}", validation(TRUST_DOMAIN, OTHER_ID)),
            ),
            ("anonymous", &validation(TRUST_DOMAIN, COLOR_ID)),
            (
                "stranger",
                &format!("{other}, {}", validation(TRUST_DOMAIN, COLOR_ID)),
            ),
        ],
    )
    .await;
    let color = hosts.color_envoy().await;
    let front = hosts.front_envoy().await;
    let fails = async |service: &str, port| {
        let status = hosts.call(service, port).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{service} {port}");
    };
    let refuses_plaintext = async || {
        let refused = hosts.direct(PORT).get("/").await;
        refused.expect_err("plaintext to a STRICT listener");
    };

    for service in ["named", "by-default-names"] {
        fails(service, PORT).await;
    }
    refuses_plaintext().await;
    assert_eq!(of_clusters(&front, "handshake").await, 0);

    let (_server, _agents) = start_spire(&hosts, HOUR).await;
    for service in ["named", "by-default-names"] {
        eventually(service, async || {
            hosts.call(service, PORT).await == StatusCode::OK
        })
        .await;
    }
    assert_eq!(of_clusters(&front, "handshake").await, 2);
    assert_eq!(of_listener(&color, "handshake").await, 2);
    let line = format!("{LINE} {FRONT_ID} {COLOR_ID}");
    let log = async || fs::read_to_string(color.log_file()).unwrap();
    eventually("two requests in the access log", async || {
        log().await.matches(&line).count() == 2
    })
    .await;

    fails("misnamed", PORT).await;
    assert!(of_clusters(&front, "fail_verify_san").await > 0);
    assert_eq!(of_listener(&color, "fail_verify_san").await, 0);
    fails("named", OTHER_PORT).await;
    assert!(of_listener(&color, "fail_verify_san").await > 0);
    fails("anonymous", PORT).await;
    assert!(of_listener(&color, "fail_verify_no_cert").await > 0);
    fails("stranger", PORT).await;
    refuses_plaintext().await;
    assert_eq!(log().await.matches(LINE).count(), 2);
    hosts.has_no_error().await;
}

#[tokio::test]
async fn only_the_expected_identities_connect_with_the_oldest_envoy() {
    only_the_expected_identities_connect(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn only_the_expected_identities_connect_with_the_newest_envoy() {
    only_the_expected_identities_connect(EnvoyVersion::Newest).await;
}

struct Rotation {
    hosts: TlsHosts,
    server: SpireServer,
    /// The Envoys of `front` and `color`.
    envoys: [Envoy; 2],
}

impl Rotation {
    /// The application on `front` opens a connection, which has a handshake of its own, and reads the greeting.
    async fn connect(&self) {
        let mut stream = self.hosts.egress(TCP_PORTS[0]).connect().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b't');
    }

    /// Waits until both Envoys have replaced their certificates. Every new connection succeeds meanwhile.
    async fn new_certificates(&self, event: &str) {
        for envoy in &self.envoys {
            let before = serials(envoy).await;
            eventually(event, async || {
                self.connect().await;
                let serials = serials(envoy).await;
                serials.iter().all(|it| !before.contains(it))
            })
            .await;
        }
    }

    /// Changes the authorities of the server and waits until both Envoys trust the new ones. Every new connection
    /// succeeds meanwhile.
    async fn new_authorities(&self, step: &[&str]) -> Value {
        let [front, color] = &self.envoys;
        let before = [authorities(front).await, authorities(color).await];
        let answer = self.authority(step);
        for (envoy, before) in self.envoys.iter().zip(before) {
            eventually("other authorities", async || {
                self.connect().await;
                authorities(envoy).await != before
            })
            .await;
        }
        answer
    }

    fn authority(&self, step: &[&str]) -> Value {
        self.server
            .call(&[&["localauthority", "x509"], step].concat())
    }
}

/// The secret with the authorities of the trust domain, as an Envoy shows it.
async fn authorities(envoy: &Envoy) -> Value {
    let dump = envoy.config_dump().await.unwrap();
    let configs = dump["configs"].as_array().unwrap().iter();
    let mut secrets = configs.flat_map(|it| {
        it["dynamic_active_secrets"]
            .as_array()
            .into_iter()
            .flatten()
    });
    let found = secrets.find(|it| it["name"] == TRUST_DOMAIN);
    found.unwrap()["secret"].clone()
}

async fn rotation_fails_no_request(version: EnvoyVersion) {
    let policy = format!(
        "{}, {}",
        certificate(FRONT_ID),
        validation(TRUST_DOMAIN, COLOR_ID)
    );
    let hosts = start(
        version,
        &[
            strict(PORT, "http2", FRONT_ID),
            strict(TCP_PORTS[0], "tcp", FRONT_ID),
        ],
        &[("named", &policy)],
    )
    .await;
    // An agent replaces a certificate after half of its lifetime, which begins 10 seconds early.
    let (server, _agents) = start_spire(&hosts, 30).await;
    let color = hosts.color_envoy().await;
    let front = hosts.front_envoy().await;
    eventually("a response", async || {
        hosts.call("named", PORT).await == StatusCode::OK
    })
    .await;
    let load = Load {
        target: hosts.egress(PORT),
        host: "named.shop".to_owned(),
        path: "/".to_owned(),
        rate: 200,
        duration: Duration::from_mins(10),
        http2: false,
    };
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    let load = tokio::spawn(load.run_until(stopped, |_| ()));
    let rotation = Rotation {
        hosts,
        server,
        envoys: [front, color],
    };
    rotation
        .new_certificates("certificates renewed by age")
        .await;

    let old = rotation.authority(&["show"])["active"]["authority_id"].clone();
    let new = rotation.new_authorities(&["prepare"]).await;
    let new = new["prepared_authority"]["authority_id"].as_str().unwrap();
    let old = old.as_str().unwrap();
    rotation.authority(&["activate", "-authorityID", new]);
    rotation.authority(&["taint", "-authorityID", old]);
    rotation
        .new_certificates("certificates of the new authority")
        .await;
    rotation
        .new_authorities(&["revoke", "-authorityID", old])
        .await;
    rotation.connect().await;

    stop.send(()).unwrap();
    let stats = load.await.unwrap().unwrap();
    assert!(stats.requests() > 0);
    assert_eq!(stats.failed(), 0, "{stats:?}");
    rotation.hosts.has_no_error().await;
}

#[tokio::test]
async fn rotation_of_certificates_and_authorities_fails_no_request_in_the_oldest_envoy() {
    rotation_fails_no_request(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn rotation_of_certificates_and_authorities_fails_no_request_in_the_newest_envoy() {
    rotation_fails_no_request(EnvoyVersion::Newest).await;
}
