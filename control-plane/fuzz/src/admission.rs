//! Target `admission`: bodies of requests to the webhooks.
//!
//! The input is the body. It goes to the webhooks of the kind that it names, and to that of pods if it names none.

use std::sync::LazyLock;

use axum::{Router, body::Body};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use evermesh::webhook::{POD_PATH, Webhook, path, without_server};
use evermesh_ingest::admission::IpFamily;
use evermesh_model::Kind;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use crate::{
    FuzzTarget,
    annotations::{settings, snapshot},
    injected_pod::patched,
    mutation::InputFormat,
    workspace,
};

pub(crate) const TARGET: FuzzTarget = FuzzTarget {
    name: "admission",
    format: InputFormat::Json,
    run,
    seeds,
};

/// Bytes of an answer beside its patch: a message or some warnings of 4 KiB each, with control characters escaped.
const ANSWER_BYTES: usize = 256 << 10;

const SURROUNDINGS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh: shop, gateway: ingress, appmesh.k8s.aws/sidecarInjectorWebhook: enabled}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop, uid: u}
spec: {namespaceSelector: {matchLabels: {mesh: shop}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: web, namespace: shop, uid: un, creationTimestamp: '2020-01-01T00:00:00Z'}
spec:
  awsName: web_shop
  meshRef: {name: shop, uid: u}
  podSelector: {matchLabels: {app: web}}
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: web.shop}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: gate, namespace: shop, uid: ug, creationTimestamp: '2020-01-01T00:00:00Z'}
spec:
  awsName: gate_shop
  meshRef: {name: shop, uid: u}
  namespaceSelector: {matchLabels: {gateway: ingress}}
  podSelector: {matchLabels: {app: gate}}
  listeners: [{portMapping: {port: 8088, protocol: http}}]
";

/// The webhooks with each of the settings.
static WEBHOOKS: LazyLock<[Router; 2]> = LazyLock::new(|| {
    let known = snapshot(SURROUNDINGS);
    settings().map(|it| without_server(known.clone(), IpFamily::Ipv4, it))
});

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn run(input: &[u8]) {
    let review: Value = serde_json::from_slice(input).unwrap_or_default();
    let request = &review["request"];
    let named = request["kind"]["kind"].as_str();
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| Some(kind.as_str()) == named);
    let webhooks = [Webhook::Mutate, Webhook::Validate];
    let paths = webhooks
        .into_iter()
        .filter_map(|webhook| path(webhook, kind?));
    let mut paths: Vec<String> = paths.collect();
    if paths.is_empty() {
        paths.push(POD_PATH.to_owned());
    }
    for webhooks in &*WEBHOOKS {
        for path in &paths {
            let Some(response) = answer(webhooks, path, input) else {
                continue;
            };
            is_an_answer(request, &response);
            if response["patch"].is_string() {
                is_complete(webhooks, path, &review, &response);
            }
        }
    }
}

/// The response in the answer, or `None` if the request is malformed.
///
/// # Panics
/// If the answer is another error, or not an `AdmissionReview`.
fn answer(webhooks: &Router, path: &str, body: &[u8]) -> Option<Value> {
    let request = Request::post(path).body(Body::from(body.to_vec()));
    let request = request.expect("a valid path");
    let (head, body) = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let Ok(response) = webhooks.clone().oneshot(request).await;
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a complete answer");
            (head, body.to_bytes())
        })
    });
    let text = String::from_utf8_lossy(&body);
    if head.status == StatusCode::BAD_REQUEST {
        assert!(text.len() < 4096 && text.ends_with('\n'), "{text}");
        let line = text.trim_end_matches('\n');
        assert!(!line.contains(char::is_control), "{line:?}");
        return None;
    }
    assert_eq!(head.status, StatusCode::OK, "{text}");
    let mut review: Value = serde_json::from_str(&text).expect("an answer in JSON");
    assert_eq!(review["kind"], "AdmissionReview");
    Some(review["response"].take())
}

fn is_an_answer(request: &Value, response: &Value) {
    let is_short = |uid: &&str| uid.len() <= 36 && uid.chars().all(|it| it.is_ascii_graphic());
    if let Some(uid) = request["uid"].as_str().filter(is_short) {
        assert_eq!(response["uid"], uid);
    }
    let is_allowed = response["allowed"].as_bool().expect("a decision");
    let message = response["status"]["message"].as_str();
    assert_eq!(is_allowed, message.is_none(), "{response}");
    assert_ne!(message, Some(""));
    let patch_bytes = response["patch"].as_str().map_or(0, str::len);
    let bytes = response.to_string().len() - patch_bytes;
    assert!(bytes < ANSWER_BYTES, "{bytes} bytes");
}

/// Checks that the patch fits the object, and that the patched object needs no other patch.
fn is_complete(webhooks: &Router, place: &str, review: &Value, response: &Value) {
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = response["patch"].as_str().unwrap_or_default();
    let patch = BASE64_STANDARD.decode(patch).expect("a patch in Base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
    let object = &review["request"]["object"];
    let after = if place == POD_PATH {
        patched(object, &patch)
    } else {
        let mut after = object.clone();
        json_patch::patch(&mut after, &patch).unwrap_or_else(|error| panic!("{error}: {object}"));
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            assert_eq!(after.pointer(field), object.pointer(field), "{field}");
        }
        after
    };
    let mut again = review.clone();
    again["request"]["object"] = after;
    let response = answer(webhooks, place, again.to_string().as_bytes());
    let response = response.expect("an answer about the patched object");
    assert_eq!(response["patch"], Value::Null, "a second patch of {again}");
}

fn seeds() -> Vec<Vec<u8>> {
    let ingest = workspace().join("control-plane/ingest/testdata");
    let injector = workspace().join("sidecar-injector/tests/testdata");
    let cases = [ingest, injector];
    let cases = cases.iter().flat_map(evermesh_golden::cases);
    let documents = cases
        .flat_map(|case| serde_saphyr::from_multiple::<Value>(&case.input).unwrap_or_default());
    documents.filter_map(|object| review(&object)).collect()
}

/// A request to create the object, or to update it without a change if its name has an even length. `None` if no webhook
/// is for the object's kind.
fn review(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let found = Kind::find(api_version, kind)?;
    if found != Kind::Pod {
        path(Webhook::Validate, found)?;
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_update = found != Kind::Pod && name.len().is_multiple_of(2);
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": group, "version": version, "kind": kind },
            "name": name,
            "namespace": object["metadata"]["namespace"],
            "operation": if is_update { "UPDATE" } else { "CREATE" },
            "object": object,
            "oldObject": if is_update { object } else { &Value::Null },
        },
    });
    Some(review.to_string().into_bytes())
}
