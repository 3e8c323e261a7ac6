//! Two replicas: they serve the same, one of them writes, and either takes over from the other.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use evermesh_testkit::{control_plane::ControlPlane, http::Address};
use http::{Request, StatusCode, header::AUTHORIZATION};
use serde_json::Value;

use crate::{Scene, eventually, route, scene::USER};

/// How soon another replica writes after the one that led was killed.
const TAKES_OVER: Duration = Duration::from_secs(15);

/// What a replica serves to the gateway: contents and versions.
async fn served(replica: &ControlPlane) -> Value {
    let page = "/debug/resources?proxy=mesh/shop/virtualGateway/gate_shop";
    serde_json::from_str(&replica.admin().get(page).await.unwrap()).unwrap()
}

/// How many resources the gateway holds, by what a replica knows.
async fn held(replica: &ControlPlane) -> u64 {
    let proxies = replica.proxies().await.unwrap();
    let resources = proxies[0]["resources"].as_array().unwrap();
    let held = resources.iter().filter(|it| !it["acked"].is_null());
    held.count().try_into().unwrap()
}

/// Who wrote statuses, by the token that they showed.
fn writers(scene: &Scene) -> BTreeSet<String> {
    let events = scene.api.audit().unwrap();
    let of_status = events.iter().filter(|event| {
        event["objectRef"]["subresource"] == "status" && event["user"]["username"] == USER
    });
    of_status
        .map(|event| {
            let token = &event["user"]["extra"]["authentication.kubernetes.io/credential-id"];
            token[0].as_str().unwrap().to_owned()
        })
        .collect()
}

/// The route's status is about its newest generation.
async fn is_current(scene: &Scene) -> bool {
    let arguments = ["get", "routes.evermesh.dev", "color", "-n=shop", "-o=json"];
    let object: Value =
        serde_json::from_str(&scene.api.kubectl(&arguments).await.unwrap()).unwrap();
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

#[tokio::test]
async fn two_replicas_are_one_control_plane() {
    let mut scene = Scene::build().await;
    let other = scene.start_replica().await;
    for weight in [10, 50, 90] {
        scene
            .api
            .apply(&route([100 - weight, weight]))
            .await
            .unwrap();
        eventually("a status of the new weights", async || {
            is_current(&scene).await
        })
        .await;
        eventually("the same at both", async || {
            served(&scene.control_plane).await == served(&other).await
        })
        .await;
        let text = served(&other).await.to_string();
        assert!(text.contains(&format!("\"weight\":{weight}")), "{text}");
    }
    assert_eq!(writers(&scene).len(), 1);

    // The gateway moves to the other one, which has nothing to tell it.
    let (stop, traffic) = scene.traffic();
    let before = held(&scene.control_plane).await;
    scene.xds.switch(&[other.xds()]);
    let count = async |name| other.metric(name).await.unwrap();
    eventually("a word on every resource", async || {
        let resumed = count("evermesh_xds_resumed_total").await;
        resumed + count("evermesh_xds_resources_total").await >= before
    })
    .await;
    assert_eq!(count("evermesh_xds_resources_total").await, 0);
    assert_eq!(count("evermesh_xds_resumed_total").await, before);
    assert_eq!(held(&other).await, before);
    scene.api.apply(&route([0, 100])).await.unwrap();
    eventually("a shift by the other", async || {
        count("evermesh_xds_resources_total").await > 0
    })
    .await;
    eventually("a status of it", async || is_current(&scene).await).await;
    assert_eq!(count("evermesh_xds_resources_total").await, 1);
    assert_eq!(scene.answer().await, "v2");
    assert_eq!(writers(&scene).len(), 1, "it serves, and does not write");

    // The one that leads is killed.
    scene.control_plane.kill();
    let killed = Instant::now();
    scene.api.apply(&route([100, 0])).await.unwrap();
    eventually("a status by the other", async || is_current(&scene).await).await;
    let took = killed.elapsed();
    println!("a status {took:?} after the leader was killed");
    assert!(took < TAKES_OVER, "{took:?}");
    assert_eq!(writers(&scene).len(), 2);
    eventually("the other's answer", async || scene.answer().await == "v1").await;

    stop.send(()).unwrap();
    let tally = traffic.await.unwrap();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(scene.forbidden(), [""; 0]);
}

/// The port that other replicas and everybody else reach shows nothing that is served, and only replicas tell there what
/// proxies accepted.
#[tokio::test]
async fn nobody_else_is_a_replica() {
    let scene = Scene::build().await;
    let get = ["get", "leases", "evermesh", "-n=appmesh-system", "-o=json"];
    let lease: Value = serde_json::from_str(&scene.api.kubectl(&get).await.unwrap()).unwrap();
    let address = &lease["metadata"]["annotations"]["evermesh.dev/address"];
    let everybody = Address::Tcp(address.as_str().unwrap().parse().unwrap());
    everybody.get("/readyz").await.unwrap();
    everybody.get("/metrics").await.unwrap();
    let answer = async |request: http::request::Builder| {
        let request = request
            .header("host", "evermesh")
            .body(http_body_util::Full::default());
        everybody.send(request.unwrap()).await.unwrap()
    };
    for page in ["graph", "problems", "resources", "proxies", "changes"] {
        let shown = answer(Request::get(format!("/debug/{page}"))).await;
        assert_eq!(shown.status, StatusCode::NOT_FOUND, "{page}");
    }

    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    let other = scene.start_replica().await;
    let mut shown = String::new();
    eventually("another replica in the Lease", async || {
        let lease: Value = serde_json::from_str(&scene.api.kubectl(&get).await.unwrap()).unwrap();
        let annotations = lease["metadata"]["annotations"].as_object().unwrap();
        let replicas = annotations
            .iter()
            .filter(|(name, _)| name.starts_with("replica.evermesh.dev/"))
            .filter_map(|(_, value)| value.as_str());
        let found = replicas
            .map(ToOwned::to_owned)
            .find(|it| !it.starts_with(holder));
        shown = found.unwrap_or_default();
        !shown.is_empty()
    })
    .await;
    let words: Vec<&str> = shown.split(' ').collect();
    let path = format!("/replicas/{holder}/{}", words[0]);
    let unkeyed = answer(Request::post(&path)).await;
    assert_eq!(unkeyed.status, StatusCode::FORBIDDEN, "{unkeyed:?}");
    // What the Lease shows is not the key.
    let bearer = format!("Bearer {}", words[1]);
    let forged = answer(Request::post(&path).header(AUTHORIZATION, bearer)).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN, "{forged:?}");
    drop(other);
}
