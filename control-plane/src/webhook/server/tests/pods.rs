//! Pods.

use evermesh_ingest::{Inputs, admission::Surroundings, object::parse};

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

fn with_a_node() -> Surroundings {
    let mut inputs = Inputs::default();
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": "m", "uid": "u-m" },
        "spec": {},
    });
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": "shop", "labels": { evermesh_injector::INJECTION: "enabled" } },
    });
    let node = node(&json!({
        "meshRef": { "name": "m", "uid": "u-m" },
        "podSelector": { "matchLabels": { "app": "web" } },
    }));
    for object in [mesh, namespace, node] {
        let (reference, object) = parse(object).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    Surroundings::from(&inputs)
}

fn response(body: &str) -> Value {
    let mut review: Value = serde_json::from_str(body).unwrap();
    review["response"].take()
}

#[tokio::test]
async fn without_injection_nothing_is_said_of_pods() {
    let server = start_with(Duration::ZERO, None).await;
    let material = material();
    take(&server.certificates, &material);
    let mut client = server.connect(&material.bundle).await.unwrap();
    let (status, _) = post(&mut client, POD_PATH, pod(&json!({}), &json!({}))).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn patches_and_refuses_pods() {
    let (server, mut client) = ready(Duration::ZERO).await;
    let web = json!({ "app": "web" });
    let disabled = json!({ evermesh_injector::INJECTION: "disabled" });
    let (status, _) = post(&mut client, POD_PATH, pod(&web, &json!({}))).await;
    assert_eq!(status, 503);
    let (status, body) = post(&mut client, POD_PATH, pod(&web, &disabled)).await;
    assert_eq!(status, 200, "it depends on nobody");
    assert_eq!(response(&body)["allowed"], true);

    server.surroundings.send_replace(Some(with_a_node()));
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
            "/spec/initContainers/-"
        ]
    );

    let (_, body) = post(&mut client, POD_PATH, pod(&json!({}), &json!({}))).await;
    let answer = response(&body);
    assert_eq!(answer["allowed"], false);
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("the label `app` is missing"), "{message}");

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
        assert!(server.count(&line), "{line}");
    }
}

#[tokio::test]
async fn a_pod_waits_for_its_node() {
    let (server, mut client) = ready(Duration::from_mins(1)).await;
    let annotations = json!({ evermesh_injector::INJECTION: "enabled" });
    let request = pod(&json!({ "app": "web" }), &annotations);
    let asked = tokio::spawn(async move { post(&mut client, POD_PATH, request).await });
    server
        .surroundings
        .send_replace(Some(Surroundings::default()));
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    server.surroundings.send_replace(Some(with_a_node()));
    let (_, body) = asked.await.unwrap();
    assert_eq!(response(&body)["allowed"], true);
}
