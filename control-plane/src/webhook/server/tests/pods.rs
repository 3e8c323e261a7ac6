//! Requests about pods.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use evermesh_injector::INJECTION;

use super::*;

fn pod(labels: &Value, annotations: &Value) -> String {
    creation(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-",
            "namespace": "shop",
            "labels": labels,
            "annotations": annotations,
        },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    }))
}

/// The namespace `shop` with these labels, and a node in it.
fn with_a_node(labels: &Value) -> ClusterSnapshot {
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": "m", "uid": "u-m" },
        "spec": {},
    });
    let node = node(&json!({
        "meshRef": { "name": "m", "uid": "u-m" },
        "podSelector": { "matchLabels": { "app": "web" } },
    }));
    known([mesh, namespace(labels), node])
}

fn enabled() -> ClusterSnapshot {
    with_a_node(&json!({ INJECTION: "enabled" }))
}

fn response(body: &str) -> Value {
    let mut review: Value = serde_json::from_str(body).unwrap();
    review["response"].take()
}

#[tokio::test]
async fn without_injection_the_path_for_pods_is_not_served() {
    let (mut handler, surroundings, events) = handler(Duration::ZERO);
    handler.injection = None;
    let server = start_with(handler, surroundings, events).await;
    let material = material();
    take(&server.certificates, &material);
    let mut client = server.connect(&material.bundle).await.unwrap();
    let (status, _) = post(&mut client, POD_PATH, pod(&json!({}), &json!({}))).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn pods_are_patched_accepted_or_rejected() {
    let (server, mut client) = ready(Duration::ZERO).await;
    let web = json!({ "app": "web" });
    let disabled = json!({ INJECTION: "disabled" });
    let (_, body) = post(&mut client, POD_PATH, pod(&web, &json!({}))).await;
    assert_eq!(response(&body)["status"]["code"], 503);
    let (status, body) = post(&mut client, POD_PATH, pod(&web, &disabled)).await;
    assert_eq!(status, 200, "the pod depends on no other object");
    assert_eq!(response(&body)["allowed"], true);

    server.surroundings.send_replace(Some(enabled()));
    let (status, body) = post(&mut client, POD_PATH, pod(&web, &json!({}))).await;
    let mut answer = response(&body);
    assert_eq!((status, &answer["allowed"]), (200, &json!(true)));
    let k8s_openapi::ByteString(patch) = serde_json::from_value(answer["patch"].take()).unwrap();
    let patch: Vec<Value> = serde_json::from_slice(&patch).unwrap();
    let paths: Vec<_> = patch
        .iter()
        .map(|it| it["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "/spec/initContainers",
            "/spec/volumes",
            "/spec/volumes/-",
            "/spec/initContainers/-"
        ]
    );

    let (_, body) = post(&mut client, POD_PATH, pod(&json!({}), &json!({}))).await;
    let answer = response(&body);
    assert_eq!(answer["allowed"], false);
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("label `app` is missing"), "{message}");

    let env = json!({ "appmesh.k8s.aws/sidecarEnv": "ENVOY_LOG_LEVEL=trace" });
    let (_, body) = post(&mut client, POD_PATH, pod(&web, &env)).await;
    let warnings = response(&body)["warnings"].take();
    assert!(warnings[0].as_str().unwrap().contains("ENVOY_LOG_LEVEL"));

    for (outcome, count) in [
        ("patched", 2),
        ("denied", 1),
        ("unready", 1),
        ("allowed", 1),
    ] {
        let line = format!(
            r#"admission_requests_total{{webhook="inject",kind="Pod",operation="create",outcome="{outcome}"}} {count}"#
        );
        assert!(server.has_metric(&line), "{line}");
    }
}

#[tokio::test]
async fn pod_waits_for_its_node_and_for_its_namespace() {
    let annotations = json!({ INJECTION: "enabled" });
    let unlabelled = with_a_node(&json!({}));
    let settings = injection();
    for (annotations, before) in [
        (&annotations, ClusterSnapshot::default()),
        (&json!({}), ClusterSnapshot::default()),
        (&json!({}), unlabelled),
    ] {
        let (handler, surroundings, _events) = handler(Duration::from_mins(1));
        surroundings.send_replace(Some(before));
        let request = pod(&json!({ "app": "web" }), annotations);
        let mut answer = pin!(handler.answer_pod(&settings, request.clone().into()));
        assert!(poll!(&mut answer).is_pending());
        surroundings.send_replace(Some(enabled()));
        let review = body_of(answer.await).await;
        assert!(review["response"]["patch"].is_string(), "{review}");
    }
}

#[tokio::test]
async fn sidecar_trusts_the_newest_authority() {
    let (mut handler, surroundings, _events) = handler(Duration::ZERO);
    surroundings.send_replace(Some(enabled()));
    let (authority, newest) = watch::channel(Arc::from("FIRST CERTIFICATE"));
    handler.injection = Some(Arc::new(PodInjection {
        authority: Some(newest),
        ..injection()
    }));
    let trusted = async || {
        let injection = handler.injection.clone().unwrap();
        let request = pod(&json!({ "app": "web" }), &json!({ INJECTION: "enabled" }));
        let answer = handler.answer_pod(&injection, request.into()).await;
        let review = body_of(answer).await;
        let patch = review["response"]["patch"].as_str().unwrap().to_owned();
        let patch = BASE64_STANDARD.decode(patch).unwrap();
        let patch = String::from_utf8(patch).unwrap();
        ["FIRST CERTIFICATE", "SECOND CERTIFICATE"].map(|it| patch.contains(it))
    };
    assert_eq!(trusted().await, [true, false]);
    authority.send_replace(Arc::from("SECOND CERTIFICATE"));
    assert_eq!(trusted().await, [false, true]);
}

#[tokio::test]
async fn pod_is_rejected_while_its_namespace_is_not_known() {
    let (mut server, mut client) = ready(Duration::ZERO).await;
    for labels in [
        None,
        Some(json!({})),
        Some(json!({ INJECTION: "Disabled" })),
    ] {
        let known = labels.map_or_else(ClusterSnapshot::default, |labels| with_a_node(&labels));
        server.surroundings.send_replace(Some(known));
        let request = pod(&json!({ "app": "web" }), &json!({}));
        let (_, body) = post(&mut client, POD_PATH, request).await;
        assert_eq!(
            response(&body),
            json!({
                "uid": "0c9a8d74",
                "allowed": false,
                "status": {
                    "status": "Failure",
                    "reason": "ServiceUnavailable",
                    "code": 503,
                    "message": "Evermesh has not read the label `appmesh.k8s.aws/sidecarInjectorWebhook` of the namespace `shop` yet; try again in a moment",
                },
            })
        );
    }
    assert!(server.events.try_recv().is_err());
    assert!(server.has_metric(r#"admission_untold_events_total{why="namespace"} 3"#));
}

/// Every client that can connect to the webhook can forge a request.
#[tokio::test]
async fn events_are_dropped_for_other_namespaces_and_when_the_queue_is_full() {
    let (mut server, mut client) = ready(Duration::ZERO).await;
    let forged = pod(&json!({}), &json!({ INJECTION: "enabled" }));
    let elsewhere = forged.replace("shop", "kube-system");
    server.surroundings.send_replace(Some(enabled()));
    for (request, has_event) in [(&elsewhere, false), (&forged, true)] {
        let (_, body) = post(&mut client, POD_PATH, request.clone()).await;
        assert_eq!(response(&body)["allowed"], false);
        assert_eq!(server.events.try_recv().is_ok(), has_event, "{request}");
    }
    for _ in 0..3 {
        post(&mut client, POD_PATH, forged.clone()).await;
    }
    let line = |why, count| format!(r#"admission_untold_events_total{{why="{why}"}} {count}"#);
    assert!(server.has_metric(&line("namespace", 1)));
    assert!(server.has_metric(&line("queue", 2)));
}
