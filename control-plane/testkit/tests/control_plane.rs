//! The control plane with one Envoy: a changed file, a crash and a restart.
//!
//! Needs the binary `evermesh`: `cargo test --workspace` builds it, as does `cargo build --workspace --bins`.

use std::{fs, time::Duration};

use evermesh_testkit::{
    control_plane::{ControlPlane, ReportedChange, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    tools,
    wait::eventually,
};

const LIMIT: Duration = Duration::from_secs(30);

/// The change of a file, if all proxies concerned have responded.
async fn acked(control_plane: &ControlPlane, file: &str) -> Option<ReportedChange> {
    let mut changes = control_plane.changes().await.ok()?.into_iter();
    changes.find(|change| {
        change.acked_ms.is_some() && change.origins.iter().any(|origin| origin.contains(file))
    })
}

#[tokio::test]
async fn envoy_takes_a_change_and_reconnects_after_a_crash() {
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
    let updates = "cluster_manager.cds.update_success";
    let before = envoy.stat(updates).await.unwrap();

    let nodes = config.path().join("nodes.yaml");
    let text = fs::read_to_string(&nodes)
        .unwrap()
        .replace("reports.dns.svc", "accounts.dns.svc");
    fs::write(nodes, text).unwrap();
    eventually("the ACK", LIMIT, async || {
        acked(&control_plane, "nodes.yaml").await.is_some()
    })
    .await;
    let change = acked(&control_plane, "nodes.yaml").await.unwrap();
    assert_eq!((change.deliveries, change.rejected), (1, 0));
    assert!(envoy.stat(updates).await.unwrap() > before);

    control_plane.kill();
    let is_connected = async || envoy.stat("control_plane.connected_state").await.unwrap() == 1;
    eventually("the loss of the stream", LIMIT, async || {
        !is_connected().await
    })
    .await;
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
    eventually("the return of the proxy", LIMIT, async || {
        proxies().await == Some(1)
    })
    .await;
    assert!(is_connected().await);
    assert!(control_plane.metrics().await.unwrap().contains("evermesh_"));
}
