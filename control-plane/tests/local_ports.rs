//! Applications that meet their Envoys on ports of loopback, on hosts without a rule that intercepts anything.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{fs, net::SocketAddr, time::Duration};

use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::{Address, HttpResponse},
    load::Load,
    process::Process,
    tools, wait,
};
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MANIFESTS: &str = include_str!("local_ports/mesh.yaml");

const PATIENCE: Duration = Duration::from_secs(30);

/// A name that no service has.
const HOST: &str = "whatever.example";

/// A caller, the application of two services, and a node that does nothing, each behind its Envoy.
struct Scene {
    config: TempDir,
    control_plane: ControlPlane,
    front: LabHost,
    back: LabHost,
    /// In the order of the hosts.
    envoys: Vec<Envoy>,
    _processes: Vec<Process>,
    _lab: Lab,
}

impl Scene {
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

    /// Serves the manifests with `from` replaced by `to`.
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
    // Renamed into its place, as what is read halfway is no manifest.
    let draft = config.path().join("mesh.draft");
    fs::write(&draft, manifests.replace("BACK", &back.ip().to_string())).unwrap();
    fs::rename(draft, config.path().join("mesh.yaml")).unwrap();
}

/// Whether nobody listens. The agent of a host takes the connection all the same, and ends it at once; what is served
/// answers a request, or echoes it.
async fn is_closed(address: &Address) -> bool {
    let mut stream = address.connect().await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    !matches!(stream.read(&mut [0]).await, Ok(1..))
}

async fn calls_and_is_called(version: EnvoyVersion) {
    let scene = Scene::new(version).await;
    let answer = scene.call(9001).await.unwrap();
    assert_eq!(answer.body, "color");
    assert_eq!(answer.headers["x-seen-host"], HOST);

    let mut stream = scene.front.loopback(9002).connect().await.unwrap();
    stream.write_all(b"echo").await.unwrap();
    let mut heard = [0; 10];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"redis\necho");

    // It passed both Envoys.
    for (envoy, stat) in [
        (0, "http.egress.downstream_rq_2xx"),
        (0, "tcp.egress.downstream_cx_total"),
        (1, "http.ingress.http.8080.downstream_rq_2xx"),
        (1, "tcp.ingress.tcp.6379.downstream_cx_total"),
    ] {
        assert_eq!(scene.envoys[envoy].stat(stat).await.unwrap(), 1, "{stat}");
    }
    // The application's own port and the caller's are nobody else's.
    let (front, back) = (&scene.front, &scene.back);
    for address in [
        front.reach((back.ip(), 18080).into()),
        back.reach((front.ip(), 9001).into()),
    ] {
        assert!(is_closed(&address).await, "{address:?}");
    }
    assert!(!is_closed(&front.reach((back.ip(), 6379).into())).await);
    // Nobody has more than what its ports need, such as the listeners of intercepted traffic.
    for (envoy, expected) in scene.envoys.iter().zip([2, 2, 0]) {
        let listeners = envoy.stat("listener_manager.total_listeners_active").await;
        assert_eq!(listeners.unwrap(), expected);
    }
}

async fn ports_change_under_load(version: EnvoyVersion) {
    let scene = Scene::new(version).await;
    let load = Load {
        target: scene.front.loopback(9001),
        host: HOST.to_owned(),
        path: "/".to_owned(),
        rate: 200,
        duration: Duration::from_secs(4),
        http2: false,
    };
    let changes = async {
        // The application moves, and beside the first port for its service there is another.
        scene.change("8080=18080", "8080=28080");
        wait::eventually("the other application", PATIENCE, async || {
            scene.call(9001).await.unwrap().body == "other"
        })
        .await;
        scene.change("color.shop=9001", "color.shop=9001, color.shop=9003");
        wait::eventually(
            "another port",
            PATIENCE,
            async || matches!(scene.call(9003).await, Ok(answer) if answer.body == "color"),
        )
        .await;
    };
    let (total, ()) = tokio::join!(load.run(|_| ()), changes);
    let total = total.unwrap();
    assert_eq!(total.failed(), 0, "{total:?}");
    assert!(total.answers.keys().eq(["color", "other"]), "{total:?}");

    // With the first port taken away, the second stays; and a port that is wrong takes nothing else with it.
    scene.change(
        "\"color.shop=9001, redis.shop=9002\"",
        "\"color.shop=9003, redis.shop=15001\"",
    );
    let first = scene.front.loopback(9001);
    wait::eventually("its end", PATIENCE, async || is_closed(&first).await).await;
    assert_eq!(scene.call(9003).await.unwrap().body, "color");
    assert!(is_closed(&scene.front.loopback(9002)).await);
    let problems = scene.control_plane.admin().get("/debug/problems").await;
    let problems = problems.unwrap();
    assert!(
        problems.contains("redis.shop=15001") && problems.contains("evermesh.dev/backend-ports"),
        "{problems}"
    );
    let refused = scene.control_plane.metric("evermesh_xds_nacks_total");
    assert_eq!(refused.await.unwrap(), 0);
}

#[tokio::test]
async fn the_oldest_calls_and_is_called() {
    calls_and_is_called(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn the_newest_calls_and_is_called() {
    calls_and_is_called(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn ports_of_the_oldest_change_under_load() {
    ports_change_under_load(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn ports_of_the_newest_change_under_load() {
    ports_change_under_load(EnvoyVersion::Newest).await;
}
