//! The API server goes and comes back.

use std::time::Duration;

use crate::{Scene, eventually, route};

#[tokio::test]
async fn the_api_server_may_go_and_come_back() {
    let mut scene = Scene::build().await;
    assert!(scene.answer().await.contains("v1"));
    scene.api.apply(&route([0, 100])).await.unwrap();
    eventually("the shift to v2", async || {
        scene.answer().await.contains("v2")
    })
    .await;

    let sent = scene.sent().await;
    let (stop, traffic) = scene.traffic();
    for round in 0..20 {
        for _ in 0..10 {
            scene.relay.cut();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        scene.api.kill_api_server();
        if round == 0 {
            // Long enough to be noticed and told.
            eventually("a word of the silence", async || {
                let ready = scene.control_plane.admin().get("/readyz").await.unwrap();
                ready.contains("has not answered")
            })
            .await;
        }
        scene.api.restart_api_server().await.unwrap();
    }
    eventually("the end of the silence", async || {
        let ready = scene.control_plane.admin().get("/readyz").await.unwrap();
        ready == "ok\n"
    })
    .await;
    assert!(
        scene.relay.cuts() > 200,
        "{} connections cut",
        scene.relay.cuts()
    );
    assert_eq!(scene.sent().await, sent, "nothing changed, nothing is sent");

    scene.api.apply(&route([100, 0])).await.unwrap();
    eventually("the shift back", async || {
        scene.answer().await.contains("v1")
    })
    .await;
    assert_eq!(scene.sent().await, sent + 1, "one route configuration");
    stop.send(()).unwrap();
    let tally = traffic.await.unwrap();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(tally.requests() > 1000, "{tally:?}");
    assert_eq!(
        scene
            .gateway
            .stat("listener_manager.lds.update_rejected")
            .await
            .unwrap(),
        0
    );
}
