//! Tests over real sockets and TLS, with a client that trusts the CA bundle.

use std::{collections::BTreeSet, pin::pin, time::SystemTime};

use axum::body::Bytes;
use evermesh_ingest::{Inputs, object::parse};
use futures::poll;
use http_body_util::{BodyExt, Full};
use hyper::{Request as HttpRequest, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use prometheus_client::{encoding::text::encode, registry::Registry};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::webhook::authority::{self, CertificateMaterial};
use crate::webhook::in_flight::BODY_LIMIT;

mod connections;
mod pods;

/// Deadline for events that a test waits for.
const DEADLINE: Duration = Duration::from_secs(10);

struct Server {
    address: std::net::SocketAddr,
    surroundings: watch::Sender<Option<ClusterSnapshot>>,
    certificates: Arc<ServingCertificate>,
    metrics: AdmissionMetrics,
    /// Queue of events, with room for one.
    events: mpsc::Receiver<PodEvent>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn material() -> CertificateMaterial {
    let names = BTreeSet::from(["webhook.test".to_owned()]);
    let made = authority::renew(None, &names, SystemTime::now());
    made.unwrap().unwrap()
}

fn take(certificates: &ServingCertificate, material: &CertificateMaterial) {
    let serving = &material.serving;
    let taken = certificates.replace(serving.certificate.as_bytes(), serving.key.as_bytes());
    taken.unwrap();
}

fn injection() -> PodInjection {
    let xds = "evermesh.test:18000".parse().unwrap();
    PodInjection {
        settings: evermesh_injector::InjectorSettings::new(xds, "init:1".to_owned()),
        authority: None,
    }
}

/// A handler without a server, and the sender of its snapshots.
fn handler(
    wait_limit: Duration,
) -> (
    AdmissionHandler,
    watch::Sender<Option<ClusterSnapshot>>,
    mpsc::Receiver<PodEvent>,
) {
    let (surroundings, known) = watch::channel(None);
    let (sender, events) = mpsc::channel(1);
    let handler = AdmissionHandler {
        surroundings: known,
        family: IpFamily::Ipv4,
        wait_limit,
        injection: Some(Arc::new(injection())),
        metrics: AdmissionMetrics::default(),
        events: sender,
        in_flight: Arc::default(),
        malformed_log: Arc::default(),
        rejection_log: Arc::default(),
    };
    (handler, surroundings, events)
}

async fn start(wait_limit: Duration) -> Server {
    let (handler, surroundings, events) = handler(wait_limit);
    start_with(handler, surroundings, events).await
}

async fn start_with(
    handler: AdmissionHandler,
    surroundings: watch::Sender<Option<ClusterSnapshot>>,
    events: mpsc::Receiver<PodEvent>,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        surroundings,
        certificates: Arc::new(ServingCertificate::default()),
        metrics: handler.metrics.clone(),
        events,
        leaving: CancellationToken::new(),
        shutdown: CancellationToken::new(),
    };
    let certificates = Arc::clone(&server.certificates);
    let (leaving, shutdown) = (server.leaving.clone(), server.shutdown.clone());
    let connections = ConnectionLimit::new(100);
    tokio::spawn(serve(
        listener,
        connections,
        handler,
        certificates,
        leaving,
        shutdown,
    ));
    server
}

impl Server {
    async fn connect_tls(&self, bundle: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("webhook.test").unwrap();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    async fn connect(&self, bundle: &str) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let stream = TokioIo::new(self.connect_tls(bundle).await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Ok(sender)
    }

    fn has_metric(&self, line: &str) -> bool {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().any(|found| found == line)
    }
}

/// Starts a server with a certificate and connects to it.
async fn ready(wait_limit: Duration) -> (Server, SendRequest<Full<Bytes>>) {
    let server = start(wait_limit).await;
    let material = material();
    take(&server.certificates, &material);
    let client = server.connect(&material.bundle).await.unwrap();
    (server, client)
}

async fn post(
    client: &mut SendRequest<Full<Bytes>>,
    path: &str,
    body: impl Into<Bytes>,
) -> (u16, String) {
    let request = HttpRequest::post(path)
        .header("host", "webhook.test")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn node(spec: &Value) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "VirtualNode",
        "metadata": { "name": "blue", "namespace": "shop" },
        "spec": spec,
    })
}

fn creation(object: &Value) -> String {
    let (group, version) = object["apiVersion"]
        .as_str()
        .unwrap()
        .split_once('/')
        .unwrap_or(("", "v1"));
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0c9a8d74",
            "kind": { "group": group, "version": version, "kind": object["kind"] },
            "resource": { "group": group, "version": version, "resource": "any" },
            "name": object["metadata"]["name"],
            "namespace": object["metadata"]["namespace"],
            "operation": "CREATE",
            "userInfo": { "username": "admin" },
            "object": object,
            "oldObject": null,
            "dryRun": false,
        },
    })
    .to_string()
}

const MUTATE: &str = "/mutate-appmesh-k8s-aws-v1beta2-virtualnode";
const VALIDATE: &str = "/validate-appmesh-k8s-aws-v1beta2-virtualnode";

fn known(objects: impl IntoIterator<Item = Value>) -> ClusterSnapshot {
    let mut inputs = Inputs::default();
    for object in objects {
        let (reference, object) = parse(object).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    ClusterSnapshot::from(&inputs)
}

/// The namespace `shop` with these labels.
fn namespace(labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": "shop", "labels": labels },
    })
}

fn a_mesh() -> ClusterSnapshot {
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": "m", "uid": "u-m" },
        "spec": { "namespaceSelector": {} },
    });
    known([namespace(&json!({})), mesh])
}

#[tokio::test]
async fn valid_objects_are_patched_and_invalid_ones_rejected() {
    let (server, mut client) = ready(Duration::ZERO).await;
    server.surroundings.send_replace(Some(a_mesh()));

    let (status, body) = post(&mut client, MUTATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200, "{body}");
    let mut review: Value = serde_json::from_str(&body).unwrap();
    let patch = review["response"]["patch"].take();
    assert_eq!(
        review,
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {
                "uid": "0c9a8d74", "allowed": true, "patchType": "JSONPatch", "patch": null,
            },
        })
    );
    let k8s_openapi::ByteString(patch) = serde_json::from_value(patch).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&patch).unwrap(),
        json!([
            { "op": "add", "path": "/spec/awsName", "value": "blue_shop" },
            { "op": "add", "path": "/spec/meshRef", "value": { "name": "m", "uid": "u-m" } },
        ])
    );

    let (status, body) = post(&mut client, VALIDATE, creation(&node(&json!({})))).await;
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(
        review["response"],
        json!({ "uid": "0c9a8d74", "allowed": true })
    );

    let orphan =
        node(&json!({ "listeners": [{ "portMapping": { "port": 1, "protocol": "http" } }] }));
    let (status, body) = post(&mut client, VALIDATE, creation(&orphan)).await;
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(
        review["response"],
        json!({
            "uid": "0c9a8d74",
            "allowed": false,
            "status": {
                "status": "Failure",
                "reason": "Forbidden",
                "code": 403,
                "message": "spec.serviceDiscovery: a node with listeners requires serviceDiscovery, because callers could not find it; set dns or awsCloudMap (DiscoveryMissing)",
            },
        })
    );
    for (webhook, outcome) in [
        ("mutate", "patched"),
        ("validate", "allowed"),
        ("validate", "denied"),
    ] {
        let line = format!(
            r#"admission_requests_total{{webhook="{webhook}",kind="VirtualNode",operation="create",outcome="{outcome}"}} 1"#
        );
        assert!(server.has_metric(&line), "{line}");
    }
}

#[tokio::test]
async fn deletions_and_subresources_are_accepted() {
    let (server, mut client) = ready(Duration::ZERO).await;
    server
        .surroundings
        .send_replace(Some(ClusterSnapshot::default()));
    let mut deletion: Value = serde_json::from_str(&creation(&node(&json!({})))).unwrap();
    deletion["request"]["operation"] = "DELETE".into();
    deletion["request"]["object"].take();
    let mut status: Value = serde_json::from_str(&creation(&node(&json!({})))).unwrap();
    status["request"]["subResource"] = "status".into();
    for review in [deletion, status] {
        let (status, body) = post(&mut client, MUTATE, review.to_string()).await;
        let review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200);
        assert_eq!(
            review["response"],
            json!({ "uid": "0c9a8d74", "allowed": true })
        );
    }
}

#[tokio::test]
async fn invalid_reviews_are_answered_with_http_errors() {
    let (server, mut client) = ready(Duration::ZERO).await;
    let review = |change: fn(&mut Value)| {
        let mut review = serde_json::from_str(&creation(&node(&json!({})))).unwrap();
        change(&mut review);
        review.to_string()
    };
    for body in [
        String::new(),
        "null".to_owned(),
        "{}".to_owned(),
        "[".repeat(100_000),
        review(|it| it["apiVersion"] = "admission.k8s.io/v1beta1".into()),
        review(|it| it["kind"] = "ConversionReview".into()),
        review(|it| it["request"]["kind"]["kind"] = "Mesh".into()),
        review(|it| it["request"]["kind"]["version"] = "v1beta3".into()),
        review(|it| it["request"]["object"] = Value::Null),
        review(|it| it["request"]["operation"] = "UPDATE".into()),
    ] {
        let (status, text) = post(&mut client, MUTATE, body).await;
        assert_eq!(status, 400, "{text}");
    }
    let hostile = "x\n\u{1b}".repeat(1 << 18);
    for field in [
        "/apiVersion",
        "/kind",
        "/request/dryRun",
        "/request/kind/kind",
    ] {
        let mut body: Value = serde_json::from_str(&review(|it| {
            it["request"]["dryRun"] = false.into();
        }))
        .unwrap();
        *body.pointer_mut(field).unwrap() = hostile.clone().into();
        let (status, text) = post(&mut client, MUTATE, body.to_string()).await;
        assert_eq!(status, 400);
        assert!(text.len() < 1000, "{field}: {} bytes", text.len());
        let is_line = !text.trim_end().contains(['\n', '\u{1b}']);
        assert!(is_line, "{field}: {text}");
    }
    let (status, _) = post(&mut client, "/mutate-appmesh-k8s-aws-v1beta2-pod", "{}").await;
    assert_eq!(status, 404);
    let (status, _) = post(&mut client, MUTATE, vec![b' '; BODY_LIMIT + 1]).await;
    assert_eq!(status, 413);
    let line = r#"admission_requests_total{webhook="mutate",kind="VirtualNode",operation="other",outcome="malformed"} 15"#;
    assert!(server.has_metric(line));
}

#[tokio::test]
async fn object_of_very_many_values_is_rejected_before_it_is_parsed() {
    let (server, mut client) = ready(Duration::ZERO).await;
    let objects = vec![json!({ "": 0 }); 100_001];
    let body = creation(&node(&json!({ "backends": objects })));
    for path in [MUTATE, VALIDATE] {
        let (status, text) = post(&mut client, path, body.clone()).await;
        assert_eq!(status, 200);
        let review: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(review["response"]["uid"], "0c9a8d74");
        assert_eq!(review["response"]["status"]["code"], 413);
        let message = review["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains("at most 200000"), "{message}");
    }
    let line = r#"admission_requests_total{webhook="mutate",kind="VirtualNode",operation="other",outcome="denied"} 1"#;
    assert!(server.has_metric(line));
}

#[tokio::test]
async fn objects_are_rejected_for_now_before_the_first_snapshot() {
    let (server, mut client) = ready(Duration::ZERO).await;
    let (status, body) = post(&mut client, MUTATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200);
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(review["response"]["allowed"], false);
    assert_eq!(review["response"]["status"]["code"], 503);
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": "m" },
        "spec": {},
    });
    let path = "/mutate-appmesh-k8s-aws-v1beta2-mesh";
    let (status, _) = post(&mut client, path, creation(&mesh)).await;
    assert_eq!(status, 200, "a mesh depends on no other object");
    let alone = known([namespace(&json!({}))]);
    server.surroundings.send_replace(Some(alone));
    let (status, body) = post(&mut client, MUTATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200);
    assert!(body.contains("no mesh is known"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn name_of_another_object_is_rejected_until_it_is_free() {
    let (handler, surroundings, _events) = handler(Duration::from_mins(1));
    let mut holder = node(&json!({ "awsName": "held" }));
    holder["metadata"]["name"] = "holder".into();
    let mesh = || {
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": { "name": "m" },
            "spec": { "namespaceSelector": {} },
        })
    };
    let held = known([namespace(&json!({})), mesh(), holder]);
    let body = creation(&node(&json!({ "awsName": "held" })));
    let answer = || handler.answer(Webhook::Validate, Kind::VirtualNode, body.clone().into());

    surroundings.send_replace(None);
    let review = body_of(answer().await).await;
    assert_eq!(review["response"]["status"]["code"], 503);
    surroundings.send_replace(Some(held));
    let review = body_of(answer().await).await;
    let message = review["response"]["status"]["message"].to_string();
    assert!(
        message.contains("/holder`, which is older and keeps it"),
        "{message}"
    );

    let mut waiting = pin!(answer());
    assert!(poll!(&mut waiting).is_pending());
    surroundings.send_replace(Some(known([namespace(&json!({})), mesh()])));
    let review = body_of(waiting.await).await;
    assert_eq!(review["response"]["allowed"], true);
}

async fn body_of(response: Response) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn request_waits_for_the_mesh_of_its_object() {
    let (handler, surroundings, _events) = handler(Duration::from_mins(1));
    surroundings.send_replace(Some(ClusterSnapshot::default()));
    let body = creation(&node(&json!({})));
    let answer = || handler.answer(Webhook::Mutate, Kind::VirtualNode, body.clone().into());

    let mut waiting = pin!(answer());
    assert!(poll!(&mut waiting).is_pending());
    surroundings.send_replace(Some(ClusterSnapshot::default()));
    assert!(poll!(&mut waiting).is_pending());
    surroundings.send_replace(Some(a_mesh()));
    let review = body_of(waiting.await).await;
    assert_eq!(review["response"]["allowed"], true);

    surroundings.send_replace(Some(ClusterSnapshot::default()));
    let begin = tokio::time::Instant::now();
    let review = body_of(answer().await).await;
    assert_eq!(review["response"]["allowed"], false);
    assert!(begin.elapsed() >= handler.wait_limit);
}

#[test]
fn outcomes_and_webhooks_are_these_label_values() {
    let patch = serde_json::from_value(json!([{ "op": "remove", "path": "/a" }])).unwrap();
    for (outcome, label) in [
        (AdmissionOutcome::allowed(), "allowed"),
        (AdmissionOutcome::Allowed(patch, Vec::new()), "patched"),
        (AdmissionOutcome::Denied(String::new()), "denied"),
        (AdmissionOutcome::Unready(String::new()), "unready"),
        (AdmissionOutcome::Failed, "failed"),
    ] {
        assert_eq!(outcome.as_str(), label);
    }
    assert_eq!(Webhook::Mutate.as_str(), "mutate");
    assert_eq!(Webhook::Validate.as_str(), "validate");
}
