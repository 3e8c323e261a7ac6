//! The control plane as a user runs it: a folder, an Envoy, a change, a crash.
//!
//! Needs the binary `evermesh`: `cargo test --workspace` builds it, `cargo build --bins` otherwise.

use std::{fs, time::Duration};

use evermesh_testkit::{
    control_plane::{ChangeRecord, ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    tools,
};

/// Waits until something holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not happen");
}

/// The change of a file, once the last proxy has answered.
async fn acked(control_plane: &ControlPlane, file: &str) -> Option<ChangeRecord> {
    let mut changes = control_plane.changes().await.ok()?.into_iter();
    changes.find(|change| {
        change.acked_ms.is_some() && change.origins.iter().any(|origin| origin.contains(file))
    })
}

#[tokio::test]
async fn an_envoy_follows_a_change_and_survives_a_crash() {
    let config = tools::scratch("config").unwrap();
    for file in ["mesh.yaml", "nodes.yaml", "services.yaml"] {
        let source = tools::workspace().unwrap().join("examples/dns").join(file);
        fs::copy(source, config.path().join(file)).unwrap();
    }
    let mut control_plane = ControlPlane::start(config.path(), &[]).unwrap();
    control_plane.ready().await.unwrap();
    let bootstrap =
        bootstrap("mesh/dns/virtualNode/front_dns", control_plane.xds(), false).unwrap();
    let mut envoy = Envoy::start(&EnvoyOptions::new(EnvoyVersion::Oldest, bootstrap)).unwrap();
    envoy.ready().await.unwrap();
    let clusters = "cluster_manager.cds.update_success";
    let before = envoy.stat(clusters).await.unwrap();

    let nodes = config.path().join("nodes.yaml");
    let text = fs::read_to_string(&nodes)
        .unwrap()
        .replace("reports.dns.svc", "accounts.dns.svc");
    fs::write(nodes, text).unwrap();
    eventually("the ACK", async || {
        acked(&control_plane, "nodes.yaml").await.is_some()
    })
    .await;
    let change = acked(&control_plane, "nodes.yaml").await.unwrap();
    assert_eq!((change.deliveries, change.rejected), (1, 0));
    assert!(envoy.stat(clusters).await.unwrap() > before);

    control_plane.kill();
    let connected = async || envoy.stat("control_plane.connected_state").await.unwrap() == 1;
    eventually("the loss of the stream", async || !connected().await).await;
    envoy.admin().get("/ready").await.unwrap();
    control_plane.restart().unwrap();
    control_plane.ready().await.unwrap();
    let proxies = async || {
        control_plane
            .proxies()
            .await
            .unwrap()
            .as_array()
            .map(Vec::len)
    };
    eventually("the return of the proxy", async || {
        proxies().await == Some(1)
    })
    .await;
    assert!(connected().await);
    assert!(control_plane.metrics().await.unwrap().contains("evermesh_"));
}
