//! Outages of the API server.

use evermesh_local_cluster::canary::route;

use crate::{common::eventually, fixture::GatewayFixture};

/// Number of times that the API server is killed and started again.
const ROUNDS: usize = 8;

/// Connections to the API server that are cut before it is killed, in each round.
const CUTS: usize = 25;

#[tokio::test]
async fn outages_of_the_api_server_change_nothing() {
    let mut fixture = GatewayFixture::build().await;
    assert!(fixture.response().await.contains("v1"));
    fixture.api.apply(&route([0, 100])).await.unwrap();
    eventually("the shift to v2", async || {
        fixture.response().await.contains("v2")
    })
    .await;

    let sent = fixture.resources_sent().await;
    let (stop, traffic) = fixture.traffic();
    for round in 0..ROUNDS {
        let cuts = fixture.relay.cuts();
        eventually("cut connections", async || {
            fixture.relay.cut();
            fixture.relay.cuts() >= cuts + CUTS
        })
        .await;
        fixture.api.kill_api_server();
        if round == 0 {
            // The control plane reports an outage of more than a few seconds.
            eventually("the outage in /readyz", async || {
                let ready = fixture.control_plane.admin().get("/readyz").await.unwrap();
                ready.contains("has not answered")
            })
            .await;
        }
        fixture.api.restart_api_server().await.unwrap();
    }
    eventually("the end of the outage in /readyz", async || {
        let ready = fixture.control_plane.admin().get("/readyz").await.unwrap();
        !ready.contains("API server")
    })
    .await;
    assert_eq!(
        fixture.resources_sent().await,
        sent,
        "resources are sent only when they change"
    );

    fixture.api.apply(&route([100, 0])).await.unwrap();
    eventually("the shift back", async || {
        fixture.response().await.contains("v1")
    })
    .await;
    assert_eq!(
        fixture.resources_sent().await,
        sent + 1,
        "only the route configuration is sent"
    );
    stop.send(()).unwrap();
    let stats = traffic.await.unwrap();
    assert_eq!(stats.failed(), 0, "{stats:?}");
    assert!(stats.requests() > 1000, "{stats:?}");
    assert_eq!(
        fixture
            .gateway
            .stat("listener_manager.lds.update_rejected")
            .await
            .unwrap(),
        0
    );
}
