//! The status of objects: conditions, columns of `kubectl get`, and events.

use std::process::Command;

use evermesh_local_cluster::canary::route;
use serde_json::Value;

use crate::{
    common::eventually,
    fixture::{GatewayFixture, MeshFixture},
    proxy::{Policy, TestProxy},
};

/// The object as the API server stores it.
async fn get(fixture: &MeshFixture, kind: &str, name: &str) -> Value {
    let object = format!("{kind}/{name}");
    fixture.api.get(&object, "shop").await.unwrap().unwrap()
}

/// A condition of an object, with `current`: whether the status is about the newest generation.
async fn condition(fixture: &MeshFixture, kind: &str, name: &str, condition_type: &str) -> Value {
    let object = get(fixture, kind, name).await;
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == condition_type);
    let mut found = found.cloned().unwrap_or_default();
    found["current"] =
        (object["status"]["observedGeneration"] == object["metadata"]["generation"]).into();
    found
}

/// Waits until a condition of the Route `color`, for its newest generation, has this status and reason; returns its
/// message.
async fn route_becomes(
    fixture: &MeshFixture,
    condition_type: &str,
    status: &str,
    reason: &str,
) -> String {
    let mut last = Value::Null;
    let event = format!("{condition_type}={status} with reason {reason}");
    eventually(&event, async || {
        last = condition(fixture, "routes.evermesh.dev", "color", condition_type).await;
        last["status"] == status && last["reason"] == reason && last["current"] == true
    })
    .await;
    last["message"].as_str().unwrap().to_owned()
}

/// Waits until the condition Programmed of the Route `color`, for its newest generation, has this status and reason and
/// a message that starts with these words.
async fn route_message_becomes(fixture: &MeshFixture, status: &str, reason: &str, words: &str) {
    eventually(words, async || {
        let message = route_becomes(fixture, "Programmed", status, reason).await;
        message.starts_with(words)
    })
    .await;
}

/// Sends a signal to the gateway's Envoy.
fn signal(fixture: &mut GatewayFixture, signal: &str) {
    let process = fixture.gateway.process().id().to_string();
    let sent = Command::new("kill").args([signal, &process]).status();
    assert!(sent.unwrap().success());
}

async fn columns_show_weights_and_programmed(fixture: &MeshFixture) {
    let arguments = ["get", "virtualservices,routes.evermesh.dev", "-n", "shop"];
    let table = fixture.api.kubectl(&arguments).await.unwrap();
    let words = |line: &str| -> Vec<String> {
        let words = line.split_whitespace();
        words.map(ToOwned::to_owned).take(4).collect()
    };
    let lines: Vec<Vec<String>> = table.lines().map(words).collect();
    let service = "virtualservice.appmesh.k8s.aws/color";
    assert!(
        lines.contains(&words("NAME HOST PROVIDER PROGRAMMED")),
        "{table}"
    );
    assert!(
        lines.contains(&words(&format!("{service} color.shop color True"))),
        "{table}"
    );
    assert!(
        lines.contains(&words("NAME ROUTER WEIGHTS PROGRAMMED")),
        "{table}"
    );
    let weights = "route.evermesh.dev/color color color-v1=100,color-v2=0 True";
    assert!(lines.contains(&words(weights)), "{table}");
}

#[tokio::test]
async fn status_follows_the_answers_of_the_proxies() {
    let mut fixture = GatewayFixture::build().await;
    let message = route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    assert_eq!(message, "1/1 proxies have accepted the object");
    route_becomes(&fixture, "RouteActive", "True", "Accepted").await;
    let arguments = [
        "wait",
        "--for=condition=VirtualNodeActive",
        "virtualnode/color-v1",
        "--namespace=shop",
        "--timeout=120s",
    ];
    fixture.api.kubectl(&arguments).await.unwrap();
    let node = get(&fixture, "virtualnode", "color-v1").await;
    let arn = "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/color-v1_shop";
    assert_eq!(node["status"]["virtualNodeARN"], arn);
    columns_show_weights_and_programmed(&fixture).await;

    silent_proxy_is_pending(&mut fixture).await;
    rejection_is_reported(&fixture).await;
    missing_node_is_reported(&fixture).await;
    transitions_are_events(&fixture).await;
    unchanged_status_is_not_written(&fixture).await;
    assert_eq!(fixture.forbidden(), [""; 0]);
}

async fn silent_proxy_is_pending(fixture: &mut GatewayFixture) {
    signal(fixture, "-STOP");
    fixture.api.apply(&route([50, 50])).await.unwrap();
    let message = route_becomes(fixture, "Programmed", "False", "Pending").await;
    assert!(
        message.starts_with("0/1 proxies have accepted the object, waiting since 20"),
        "{message}"
    );
    let weights = route_becomes(fixture, "WeightsAcked", "True", "Acked").await;
    assert_eq!(
        weights, "color-v1=100,color-v2=0",
        "the last weights that were accepted"
    );
    signal(fixture, "-CONT");
    route_becomes(fixture, "Programmed", "True", "Programmed").await;
    let weights = route_becomes(fixture, "WeightsAcked", "True", "Acked").await;
    assert_eq!(weights, "color-v1=50,color-v2=50");
}

async fn rejection_is_reported(fixture: &GatewayFixture) {
    // Evermesh accepts an expression of this size, and this Envoy has a smaller limit.
    let large = "match: {path: {regex: '/a{600}'}}";
    let rejected = route([50, 50]).replace("match: {prefix: /}", large);
    fixture.api.apply(&rejected).await.unwrap();
    let message = route_becomes(fixture, "Programmed", "False", "Rejected").await;
    assert!(message.contains("RE2 program size of 605"), "{message}");
    assert!(
        message.contains("mesh/shop/virtualGateway/gate_shop"),
        "{message}"
    );
    assert_eq!(
        fixture.response().await.len(),
        "v1".len(),
        "the last good version is in force"
    );
    fixture.api.apply(&route([50, 50])).await.unwrap();
    route_becomes(fixture, "Programmed", "True", "Programmed").await;
}

async fn missing_node_is_reported(fixture: &MeshFixture) {
    let dangling = route([50, 50]).replace("color-v2", "color-v3");
    fixture.api.apply(&dangling).await.unwrap();
    let message = route_becomes(fixture, "RouteActive", "False", "ReferenceNotFound").await;
    assert!(
        message.contains("spec.httpRoute.action.weightedTargets[1]"),
        "{message}"
    );
    route_becomes(fixture, "Programmed", "False", "ReferenceNotFound").await;
    fixture.api.apply(&route([50, 50])).await.unwrap();
    route_becomes(fixture, "RouteActive", "True", "Accepted").await;
    route_becomes(fixture, "Programmed", "True", "Programmed").await;
}

async fn transitions_are_events(fixture: &MeshFixture) {
    let arguments = [
        "events",
        "--for=routes.evermesh.dev/color",
        "--namespace=shop",
    ];
    for words in [
        ["Warning", "Rejected"],
        ["Warning", "ReferenceNotFound"],
        ["Normal", "Accepted"],
    ] {
        eventually(&format!("an event {words:?}"), async || {
            let events = fixture.api.kubectl(&arguments).await.unwrap();
            let mut lines = events.lines();
            lines.any(|line| words.iter().all(|word| line.contains(word)))
        })
        .await;
    }
}

/// The control plane writes the statuses of new nodes and sweeps over all objects, and does not write the Route's status.
async fn unchanged_status_is_not_written(fixture: &MeshFixture) {
    let create_node = async |count: u32| {
        let manifest = format!(
            "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: unrelated-{count}, namespace: shop}}
spec: {{listeners: [{{portMapping: {{port: 80, protocol: http}}}}], serviceDiscovery: {{dns: {{hostname: a}}}}}}
"
        );
        fixture.api.apply(&manifest).await.unwrap();
        let active = [
            "wait",
            "--for=condition=VirtualNodeActive",
            &format!("virtualnode/unrelated-{count}"),
            "--namespace=shop",
            "--timeout=120s",
        ];
        fixture.api.kubectl(&active).await.unwrap();
    };
    // The writer has now seen everything that happened to the Route.
    create_node(1).await;
    let before = fixture.status_writes("color");
    assert!(before > 0, "the audit log has the earlier writes");
    // The leader sweeps over all objects once a second, as often as it renews the Lease.
    fixture.lease_renewals(3).await;
    create_node(2).await;
    assert_eq!(fixture.status_writes("color"), before);
}

#[tokio::test]
async fn objects_with_the_old_controllers_finalizers_can_be_deleted() {
    let fixture = MeshFixture::build().await;
    let finalizers = r#"{"metadata":{"finalizers":["finalizers.appmesh.k8s.aws/aws-appmesh-resources","finalizers.appmesh.k8s.aws/aws-cloudmap-resources","finalizers.appmesh.k8s.aws/mesh-members","finalizers.appmesh.k8s.aws/virtualgateway-members"]}}"#;
    let objects = [
        "mesh/shop",
        "virtualgateway/gate",
        "gatewayroute/all",
        "virtualservice/color",
        "virtualrouter/color",
        "virtualnode/color-v1",
        "virtualnode/color-v2",
    ];
    for object in objects {
        let arguments = [
            "patch",
            object,
            "--namespace=shop",
            "--type=merge",
            "--patch",
            finalizers,
        ];
        fixture.api.kubectl(&arguments).await.unwrap();
    }
    for object in objects {
        let arguments = ["delete", object, "--namespace=shop", "--timeout=120s"];
        fixture.api.kubectl(&arguments).await.unwrap();
    }
    assert_eq!(fixture.forbidden(), [""; 0]);
}

#[tokio::test]
async fn proxies_of_every_replica_count() {
    let fixture = MeshFixture::build().await;
    let other = fixture.start_replica().await;
    let _first = TestProxy::connect(fixture.control_plane.xds()).await;
    let mut weight = 0;
    let mut shift = async || {
        weight += 10;
        fixture
            .api
            .apply(&route([100 - weight, weight]))
            .await
            .unwrap();
    };
    let message_contains = async |words: &str| {
        eventually(words, async || {
            let found = condition(&fixture, "routes.evermesh.dev", "color", "Programmed").await;
            found["message"]
                .as_str()
                .unwrap_or_default()
                .contains(words)
        })
        .await;
    };
    message_contains("1/1 proxies have accepted the object").await;
    for address in [fixture.control_plane.xds(), other.xds()] {
        let proxy = TestProxy::connect(address).await;
        message_contains("2/2 proxies have accepted the object").await;

        proxy.answer(Policy::Wait);
        shift().await;
        route_becomes(&fixture, "Programmed", "False", "Pending").await;
        // The first status may be older than the report of the other replica.
        message_contains("1/2 proxies have accepted the object").await;
        route_becomes(&fixture, "Programmed", "False", "Pending").await;
        proxy.answer(Policy::Ack);
        route_becomes(&fixture, "Programmed", "True", "Programmed").await;

        proxy.answer(Policy::Nack("out of paint".to_owned()));
        shift().await;
        let message = route_becomes(&fixture, "Programmed", "False", "Rejected").await;
        assert!(message.starts_with("1 of 2 proxies"), "{message}");
        assert!(message.ends_with("out of paint"), "{message}");
        proxy.answer(Policy::Ack);
        shift().await;
        let message = route_becomes(&fixture, "Programmed", "True", "Programmed").await;
        assert!(message.starts_with("2/2 proxies"), "{message}");
        drop(proxy);
        message_contains("1/1 proxies have accepted the object").await;
    }
    assert_eq!(fixture.forbidden(), [""; 0]);
}

/// The leader does not know what the proxies of a replica have accepted that never reports.
#[tokio::test]
async fn replica_that_never_reports_keeps_routes_pending() {
    let fixture = MeshFixture::build().await;
    let _proxy = TestProxy::connect(fixture.control_plane.xds()).await;
    let accepted = "1/1 proxies have accepted the object";
    route_message_becomes(&fixture, "True", "Programmed", accepted).await;
    // A replica renews its annotation of the Lease to show that it runs.
    let renew_annotation = async |count: u32| {
        let annotation = format!("replica.evermesh.dev/lost=evermesh-lost {count}");
        let annotate = [
            "annotate",
            "--overwrite",
            "leases.coordination.k8s.io",
            "evermesh",
            "-n=appmesh-system",
            &annotation,
        ];
        fixture.api.kubectl(&annotate).await.unwrap();
        // The leader reads the Lease when it renews it.
        fixture.lease_renewals(2).await;
    };
    renew_annotation(0).await;
    fixture.api.apply(&route([0, 100])).await.unwrap();
    let pending = "1/1 proxies have accepted the object; replica evermesh-lost";
    route_message_becomes(&fixture, "False", "Pending", pending).await;
    renew_annotation(1).await;
    let message = route_becomes(&fixture, "Programmed", "False", "Pending").await;
    assert!(message.starts_with(pending), "{message}");

    // The leader removes an annotation that is not renewed, and then no longer waits for the replica.
    route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    let lease = fixture.lease().await.to_string();
    assert!(!lease.contains("evermesh-lost"), "{lease}");
    assert_eq!(fixture.forbidden(), [""; 0]);
}

/// The next leader does not know which proxies were connected to a leader that stopped.
#[tokio::test]
async fn routes_stay_pending_until_proxies_of_a_stopped_leader_return() {
    let mut fixture = MeshFixture::build().await;
    let proxy = TestProxy::connect(fixture.control_plane.xds()).await;
    let accepted = "1/1 proxies have accepted the object";
    route_message_becomes(&fixture, "True", "Programmed", accepted).await;
    fixture.control_plane.stop().await.unwrap();
    drop(proxy);
    let next = fixture.start_replica().await;
    fixture.api.apply(&route([0, 100])).await.unwrap();
    let message = route_becomes(&fixture, "Programmed", "False", "Pending").await;
    let words = "0/0 proxies have accepted the object; replica ";
    assert!(message.starts_with(words), "{message}");

    let _proxy = TestProxy::connect(next.xds()).await;
    let message = route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    assert_eq!(message, accepted);
    assert_eq!(fixture.forbidden(), [""; 0]);
}
