//! Local ports: applications and their Envoys meet on loopback ports, without interception.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{fs, net::SocketAddr, time::Duration};

use common::eventually;
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::{Address, HttpResponse},
    load::Load,
    process::Process,
    tools,
};
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};

const MANIFESTS: &str = include_str!("local_ports/mesh.yaml");

/// A host name that no service has.
const HOST: &str = "unknown.example";

/// A caller, the applications of three services, and a node without ports, each host with an Envoy.
struct Fixture {
    config: TempDir,
    control_plane: ControlPlane,
    front: LabHost,
    back: LabHost,
    /// The Envoys of `front`, `back` and `idle`.
    envoys: Vec<Envoy>,
    _processes: Vec<Process>,
    _lab: Lab,
}

impl Fixture {
    async fn new(version: EnvoyVersion) -> Self {
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        let front = lab.host("front").await.unwrap();
        let back = lab.host("back").await.unwrap();
        let idle = lab.host("idle").await.unwrap();
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let processes = vec![
            back.http_app("color", loopback(18080)).await.unwrap(),
            back.http_app("other", loopback(28080)).await.unwrap(),
            back.tcp_app("redis", loopback(16379)).await.unwrap(),
        ];

        let config = tools::scratch("config").unwrap();
        write(&config, &back, MANIFESTS);
        let mut control_plane = ControlPlane::start_on(&control, config.path(), &[]).unwrap();
        control_plane.ready().await.unwrap();
        let mut envoys = Vec::new();
        for host in [&front, &back, &idle] {
            let node = format!("mesh/shop/virtualNode/{}_shop", host.name());
            let bootstrap = bootstrap(&node, control_plane.xds(), false).unwrap();
            let options = EnvoyOptions::new(version, bootstrap);
            let mut envoy = Envoy::start_on(host, &options).unwrap();
            envoy.ready().await.unwrap();
            envoys.push(envoy);
        }
        Self {
            config,
            control_plane,
            front,
            back,
            envoys,
            _processes: processes,
            _lab: lab,
        }
    }

    /// Writes the manifests with `from` replaced by `to`.
    fn change(&self, from: &str, to: &str) {
        assert!(MANIFESTS.contains(from));
        write(&self.config, &self.back, &MANIFESTS.replace(from, to));
    }

    async fn call(&self, port: u16) -> anyhow::Result<HttpResponse> {
        let request = Request::get("/").header("host", HOST);
        let request = request.body(Full::default()).unwrap();
        self.front.loopback(port).send(request).await
    }
}

fn write(config: &TempDir, back: &LabHost, manifests: &str) {
    // A rename is atomic; the control plane never reads half of the file.
    let draft = config.path().join("mesh.draft");
    fs::write(&draft, manifests.replace("BACK", &back.ip().to_string())).unwrap();
    fs::rename(draft, config.path().join("mesh.yaml")).unwrap();
}

/// Whether no process listens. The agent of a host accepts the connection in any case and then closes it; a server
/// answers a request or echoes it.
async fn is_closed(address: &Address) -> bool {
    let mut stream = address.connect().await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    !matches!(stream.read(&mut [0]).await, Ok(1..))
}

async fn local_ports_lead_through_both_envoys(version: EnvoyVersion) {
    let fixture = Fixture::new(version).await;
    let answer = fixture.call(9001).await.unwrap();
    assert_eq!(answer.body, "color");
    assert_eq!(answer.headers["x-seen-host"], HOST);

    let mut stream = fixture.front.loopback(9002).connect().await.unwrap();
    stream.write_all(b"echo").await.unwrap();
    let mut received = [0; 10];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"redis\necho");

    // Both requests went through both Envoys.
    for (envoy, stat) in [
        (0, "http.egress.downstream_rq_2xx"),
        (0, "tcp.egress.downstream_cx_total"),
        (1, "http.ingress.http.8080.downstream_rq_2xx"),
        (1, "tcp.ingress.tcp.6379.downstream_cx_total"),
    ] {
        assert_eq!(fixture.envoys[envoy].stat(stat).await.unwrap(), 1, "{stat}");
    }
    // Other hosts reach neither the application's port nor the caller's local port.
    let (front, back) = (&fixture.front, &fixture.back);
    for address in [
        front.reach((back.ip(), 18080).into()),
        back.reach((front.ip(), 9001).into()),
    ] {
        assert!(is_closed(&address).await, "{address:?}");
    }
    assert!(!is_closed(&front.reach((back.ip(), 6379).into())).await);
    // Without interception Envoy has a listener for each port and no other.
    for (envoy, expected) in fixture.envoys.iter().zip([2, 2, 0]) {
        let listeners = envoy.stat("listener_manager.total_listeners_active").await;
        assert_eq!(listeners.unwrap(), expected);
    }
}

async fn local_ports_change_under_load(version: EnvoyVersion) {
    let fixture = Fixture::new(version).await;
    let load = Load {
        target: fixture.front.loopback(9001),
        host: HOST.to_owned(),
        path: "/".to_owned(),
        rate: 200,
        duration: Duration::from_mins(10),
        http2: false,
    };
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap() };
    let changes = async {
        // The application moves to another port, and then its service gets a second local port.
        fixture.change("8080=18080", "8080=28080");
        eventually("a response of the other application", async || {
            fixture.call(9001).await.unwrap().body == "other"
        })
        .await;
        fixture.change("color.shop=9001", "color.shop=9001, color.shop=9003");
        eventually(
            "a response at the second port",
            async || matches!(fixture.call(9003).await, Ok(response) if response.body == "color"),
        )
        .await;
        stop.send(()).unwrap();
    };
    let (total, ()) = tokio::join!(load.run_until(stopped, |_| ()), changes);
    let total = total.unwrap();
    assert_eq!(total.failed(), 0, "{total:?}");
    assert!(total.answers.keys().eq(["color", "other"]), "{total:?}");

    // The first port is removed and the second stays. A port that is wrong affects no other port.
    fixture.change(
        "\"color.shop=9001, redis.shop=9002\"",
        "\"color.shop=9003, redis.shop=15001\"",
    );
    let first = fixture.front.loopback(9001);
    eventually("the end of the first port", async || {
        is_closed(&first).await
    })
    .await;
    assert_eq!(fixture.call(9003).await.unwrap().body, "color");
    assert!(is_closed(&fixture.front.loopback(9002)).await);
    let problems = fixture.control_plane.admin().get("/debug/problems").await;
    let problems = problems.unwrap();
    assert!(
        problems.contains("redis.shop=15001") && problems.contains("evermesh.dev/backend-ports"),
        "{problems}"
    );
    let nacks = fixture.control_plane.metric("evermesh_xds_nacks_total");
    assert_eq!(nacks.await.unwrap(), 0);
}

#[tokio::test]
async fn oldest_envoy_serves_local_ports() {
    local_ports_lead_through_both_envoys(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_serves_local_ports() {
    local_ports_lead_through_both_envoys(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_changes_local_ports_under_load() {
    local_ports_change_under_load(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_changes_local_ports_under_load() {
    local_ports_change_under_load(EnvoyVersion::Newest).await;
}
