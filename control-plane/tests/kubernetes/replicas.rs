//! Two replicas: both serve the same resources, only the leader writes statuses, and each can replace the other.

use std::collections::BTreeSet;

use evermesh_local_cluster::canary::route;
use evermesh_testkit::{control_plane::ControlPlane, http::Address};
use http::{Request, StatusCode, header::AUTHORIZATION};
use serde_json::Value;

use crate::{
    common::eventually,
    fixture::{GatewayFixture, MeshFixture, USER},
};

/// Longest time, in seconds, for which a leader that was killed may keep another replica from writing.
const LEASE_LIMIT: u64 = 15;

/// Contents and versions of the resources that a replica serves to the gateway.
async fn served(replica: &ControlPlane) -> Value {
    let page = "/debug/resources?proxy=mesh/shop/virtualGateway/gate_shop";
    serde_json::from_str(&replica.admin().get(page).await.unwrap()).unwrap()
}

/// Number of resources that the gateway has ACKed, by the registry of a replica.
async fn acked(replica: &ControlPlane) -> u64 {
    let proxies = replica.proxies().await.unwrap();
    let resources = proxies[0]["resources"].as_array().unwrap();
    let acked = resources.iter().filter(|it| !it["acked"].is_null());
    acked.count().try_into().unwrap()
}

/// The replicas that wrote statuses, by the ID of their token in the audit log.
fn writers(fixture: &MeshFixture) -> BTreeSet<String> {
    let events = fixture.api.audit().unwrap();
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

/// Whether the Route's status is about its newest generation.
async fn status_is_current(fixture: &MeshFixture) -> bool {
    let object = fixture.api.get("route/color", "shop").await.unwrap();
    let object = object.unwrap();
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

#[tokio::test]
async fn replicas_serve_the_same_and_one_of_them_writes() {
    let mut fixture = GatewayFixture::build().await;
    let other = fixture.start_replica().await;
    for weight in [10, 50, 90] {
        fixture
            .api
            .apply(&route([100 - weight, weight]))
            .await
            .unwrap();
        eventually("the status of the new weights", async || {
            status_is_current(&fixture).await
        })
        .await;
        eventually("the same resources at both replicas", async || {
            served(&fixture.control_plane).await == served(&other).await
        })
        .await;
        let text = served(&other).await.to_string();
        assert!(text.contains(&format!("\"weight\":{weight}")), "{text}");
    }
    assert_eq!(writers(&fixture).len(), 1);

    // The gateway reconnects to the other replica and receives nothing.
    let (stop, traffic) = fixture.traffic();
    let before = acked(&fixture.control_plane).await;
    fixture.xds.switch(&[other.xds()]);
    let count = async |name| other.metric(name).await.unwrap();
    eventually("an answer about every resource", async || {
        let resumed = count("evermesh_xds_resumed_total").await;
        resumed + count("evermesh_xds_resources_total").await >= before
    })
    .await;
    assert_eq!(count("evermesh_xds_resources_total").await, 0);
    assert_eq!(count("evermesh_xds_resumed_total").await, before);
    assert_eq!(acked(&other).await, before);
    fixture.api.apply(&route([0, 100])).await.unwrap();
    eventually("a resource from the other replica", async || {
        count("evermesh_xds_resources_total").await > 0
    })
    .await;
    eventually("the status of the new weights", async || {
        status_is_current(&fixture).await
    })
    .await;
    assert_eq!(count("evermesh_xds_resources_total").await, 1);
    assert_eq!(fixture.response().await, "v2");
    assert_eq!(
        writers(&fixture).len(),
        1,
        "the other replica serves and does not write"
    );

    // The leader is killed. The other replica takes over when it has seen no renewal for the duration of the Lease.
    let lease = fixture.lease().await;
    let duration = lease["spec"]["leaseDurationSeconds"].as_u64().unwrap();
    assert!(duration <= LEASE_LIMIT, "{lease}");
    fixture.control_plane.kill();
    // The API server may still have a connection to the killed replica's webhooks.
    eventually("the webhooks of the other replica", async || {
        fixture.api.apply(&route([100, 0])).await.is_ok()
    })
    .await;
    eventually("a status by the other replica", async || {
        status_is_current(&fixture).await
    })
    .await;
    assert_eq!(writers(&fixture).len(), 2);
    eventually("a response of v1", async || {
        fixture.response().await == "v1"
    })
    .await;

    stop.send(()).unwrap();
    let stats = traffic.await.unwrap();
    assert_eq!(stats.failed(), 0, "{stats:?}");
    assert_eq!(fixture.forbidden(), [""; 0]);
}

/// The port that is open to other replicas and to the rest of the cluster has no debug pages, and accepts reports about
/// proxies only from replicas.
#[tokio::test]
async fn public_port_hides_resources_and_rejects_forged_reports() {
    let fixture = MeshFixture::build().await;
    let first = fixture.lease().await;
    let address = &first["metadata"]["annotations"]["evermesh.dev/address"];
    let public = Address::Tcp(address.as_str().unwrap().parse().unwrap());
    public.get("/readyz").await.unwrap();
    public.get("/metrics").await.unwrap();
    let send = async |request: http::request::Builder| {
        let request = request
            .header("host", "evermesh")
            .body(http_body_util::Full::default());
        public.send(request.unwrap()).await.unwrap()
    };
    for page in ["graph", "problems", "resources", "proxies", "changes"] {
        let response = send(Request::get(format!("/debug/{page}"))).await;
        assert_eq!(response.status, StatusCode::NOT_FOUND, "{page}");
    }

    let holder = first["spec"]["holderIdentity"].as_str().unwrap();
    let other = fixture.start_replica().await;
    let mut annotation = String::new();
    eventually("another replica in the Lease", async || {
        let lease = fixture.lease().await;
        let annotations = lease["metadata"]["annotations"].as_object().unwrap();
        let replicas = annotations
            .iter()
            .filter(|(name, _)| name.starts_with("replica.evermesh.dev/"))
            .filter_map(|(_, value)| value.as_str());
        let found = replicas
            .map(ToOwned::to_owned)
            .find(|it| !it.starts_with(holder));
        annotation = found.unwrap_or_default();
        !annotation.is_empty()
    })
    .await;
    let words: Vec<&str> = annotation.split(' ').collect();
    let path = format!("/replicas/{holder}/{}", words[0]);
    let without_key = send(Request::post(&path)).await;
    assert_eq!(without_key.status, StatusCode::FORBIDDEN, "{without_key:?}");
    // The Lease shows a digest of the key, not the key.
    let bearer = format!("Bearer {}", words[1]);
    let forged = send(Request::post(&path).header(AUTHORIZATION, bearer)).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN, "{forged:?}");
    drop(other);
}
