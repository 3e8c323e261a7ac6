//! The status of objects: conditions, columns of `kubectl get`, and events.

use std::process::Command;

use evermesh_local_cluster::canary::route;
use serde_json::Value;

use crate::{
    common::eventually,
    fixture::Fixture,
    proxy::{Policy, TestProxy},
};

/// The object as the API server stores it.
async fn get(fixture: &Fixture, kind: &str, name: &str) -> Value {
    let arguments = ["get", kind, name, "--namespace", "shop", "--output", "json"];
    serde_json::from_str(&fixture.api.kubectl(&arguments).await.unwrap()).unwrap()
}

/// A condition of an object, with `current`: whether the status is about the newest generation.
async fn condition(fixture: &Fixture, kind: &str, name: &str, condition_type: &str) -> Value {
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
    fixture: &Fixture,
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

/// Sends a signal to the gateway's Envoy.
fn signal(fixture: &mut Fixture, signal: &str) {
    let process = fixture.gateway.process().id().to_string();
    let sent = Command::new("kill").args([signal, &process]).status();
    assert!(sent.unwrap().success());
}

async fn columns_show_weights_and_programmed(fixture: &Fixture) {
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
    let mut fixture = Fixture::build().await;
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

async fn silent_proxy_is_pending(fixture: &mut Fixture) {
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

async fn rejection_is_reported(fixture: &Fixture) {
    // Evermesh accepts this class of characters, which does not exist, and Envoy rejects it.
    let class = r"match: {path: {regex: '/[\p{None}]'}}";
    let rejected = route([50, 50]).replace("match: {prefix: /}", class);
    fixture.api.apply(&rejected).await.unwrap();
    let message = route_becomes(fixture, "Programmed", "False", "Rejected").await;
    assert!(
        message.contains("invalid character class range"),
        "{message}"
    );
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

async fn missing_node_is_reported(fixture: &Fixture) {
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

async fn transitions_are_events(fixture: &Fixture) {
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

/// Writes the statuses of new nodes, and sweeps over all objects once a second, without writing the Route's status.
async fn unchanged_status_is_not_written(fixture: &Fixture) {
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
    let writes = || fixture.request_count("patch", "routes/status", "color");
    let before = writes();
    assert!(before > 0, "the audit log has the earlier writes");
    // A sweep follows each renewal.
    fixture.lease_renewals(3).await;
    create_node(2).await;
    assert_eq!(writes(), before);
}

#[tokio::test]
async fn objects_with_the_old_controllers_finalizers_can_be_deleted() {
    let fixture = Fixture::build().await;
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
    let fixture = Fixture::build().await;
    route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    let other = fixture.start_replica().await;
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
    for address in [fixture.control_plane.xds(), other.xds()] {
        let gateway = "mesh/shop/virtualGateway/gate_shop";
        let proxy = TestProxy::connect(address, gateway, &fixture.route_names().await).await;
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
    let fixture = Fixture::build().await;
    route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    let lease = [
        "leases.coordination.k8s.io",
        "evermesh",
        "-n=appmesh-system",
    ];
    // A replica renews its annotation of the Lease to show that it runs.
    let renew_annotation = async |count: u32| {
        let annotation = format!("replica.evermesh.dev/lost=evermesh-lost {count}");
        let annotate = ["annotate", "--overwrite"];
        let annotate = [&annotate[..], &lease, &[&annotation]].concat();
        fixture.api.kubectl(&annotate).await.unwrap();
        // The leader reads the Lease when it renews it.
        fixture.lease_renewals(2).await;
    };
    renew_annotation(0).await;
    fixture.api.apply(&route([0, 100])).await.unwrap();
    let words = "1/1 proxies have accepted the object; replica evermesh-lost";
    eventually("a message that names the replica", async || {
        let message = route_becomes(&fixture, "Programmed", "False", "Pending").await;
        message.starts_with(words)
    })
    .await;
    renew_annotation(1).await;
    let message = route_becomes(&fixture, "Programmed", "False", "Pending").await;
    assert!(message.starts_with(words), "{message}");
    assert_eq!(fixture.response().await, "v2", "the route is served anyway");

    // The leader removes an annotation that is not renewed, and then no longer waits for the replica.
    route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    let get = [&["get"], &lease[..], &["--output=yaml"]].concat();
    let stored = fixture.api.kubectl(&get).await.unwrap();
    assert!(!stored.contains("evermesh-lost"), "{stored}");
    assert_eq!(fixture.forbidden(), [""; 0]);
}

/// The next leader does not know which proxies were connected to a leader that stopped.
#[tokio::test]
async fn routes_stay_pending_until_proxies_of_a_stopped_leader_return() {
    let mut fixture = Fixture::build().await;
    route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    fixture.control_plane.stop().await.unwrap();
    let next = fixture.start_replica().await;
    fixture.api.apply(&route([0, 100])).await.unwrap();
    let message = route_becomes(&fixture, "Programmed", "False", "Pending").await;
    let words = "0/0 proxies have accepted the object; replica ";
    assert!(message.starts_with(words), "{message}");
    assert_eq!(fixture.response().await, "v1");

    fixture.xds.switch(&[next.xds()]);
    let message = route_becomes(&fixture, "Programmed", "True", "Programmed").await;
    assert_eq!(message, "1/1 proxies have accepted the object");
    assert_eq!(fixture.response().await, "v2");
    assert_eq!(fixture.forbidden(), [""; 0]);
}
