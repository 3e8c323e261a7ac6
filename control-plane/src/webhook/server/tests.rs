//! Over real sockets and real TLS, by a client that trusts our bundle.

use std::collections::BTreeSet;
use std::time::SystemTime;

use evermesh_ingest::{Inputs, object::parse};
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
use tokio_rustls::TlsConnector;

use super::*;
use crate::webhook::authority::{self, CertificateMaterial};

mod connections;
mod pods;

/// A server under test.
struct Server {
    address: std::net::SocketAddr,
    surroundings: watch::Sender<Option<ClusterSnapshot>>,
    certificates: Arc<ServingCertificate>,
    metrics: AdmissionMetrics,
    /// What would be told: one event, until it is taken out.
    told: mpsc::Receiver<PodEvent>,
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

async fn start(patience: Duration) -> Server {
    let xds = "evermesh.test:18000".parse().unwrap();
    let settings = evermesh_injector::InjectorSettings::new(xds, "init:1".to_owned());
    start_with(patience, Some(settings)).await
}

async fn start_with(
    patience: Duration,
    injection: Option<evermesh_injector::InjectorSettings>,
) -> Server {
    let (surroundings, known) = watch::channel(None);
    let (events, told) = mpsc::channel(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        surroundings,
        certificates: Arc::new(ServingCertificate::default()),
        metrics: AdmissionMetrics::default(),
        told,
        shutdown: CancellationToken::new(),
    };
    let admission = Admission {
        surroundings: known,
        family: IpFamily::Ipv4,
        patience,
        injection: injection.map(Arc::new),
        metrics: server.metrics.clone(),
        events,
    };
    let certificates = Arc::clone(&server.certificates);
    tokio::spawn(serve(
        listener,
        admission,
        certificates,
        server.shutdown.clone(),
    ));
    server
}

impl Server {
    async fn connect(&self, bundle: &str) -> std::io::Result<SendRequest<Full<Bytes>>> {
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
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Ok(sender)
    }

    fn count(&self, line: &str) -> bool {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().any(|found| found == line)
    }
}

/// A server with a certificate, and a connection to it.
async fn ready(patience: Duration) -> (Server, SendRequest<Full<Bytes>>) {
    let server = start(patience).await;
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
            "userInfo": { "username": "somebody" },
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

/// The namespace `shop`.
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
async fn allows_patches_and_denies() {
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
                "message": "spec.serviceDiscovery: a node with listeners needs a serviceDiscovery, or nobody finds it: set dns or awsCloudMap (DiscoveryMissing)",
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
        assert!(server.count(&line), "{line}");
    }
}

#[tokio::test]
async fn what_is_none_of_its_business_passes() {
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
async fn refuses_what_is_no_review_of_that_kind() {
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
    let (status, _) = post(&mut client, "/mutate-appmesh-k8s-aws-v1beta2-pod", "{}").await;
    assert_eq!(status, 404);
    let (status, _) = post(&mut client, MUTATE, vec![b' '; BODY_LIMIT + 1]).await;
    assert_eq!(status, 413);
    let line = r#"admission_requests_total{webhook="mutate",kind="VirtualNode",operation="other",outcome="malformed"} 10"#;
    assert!(server.count(line));
}

#[tokio::test]
async fn does_not_guess_before_it_knows() {
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
    assert_eq!(status, 200, "a mesh needs nobody else");
    let alone = known([namespace(&json!({}))]);
    server.surroundings.send_replace(Some(alone));
    let (status, body) = post(&mut client, MUTATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200);
    assert!(
        body.contains("there is no mesh at all: create one"),
        "{body}"
    );
}

#[tokio::test]
async fn waits_for_a_mesh_that_is_on_its_way() {
    let (server, mut client) = ready(Duration::from_mins(1)).await;
    let asked =
        tokio::spawn(async move { post(&mut client, MUTATE, creation(&node(&json!({})))).await });
    server
        .surroundings
        .send_replace(Some(ClusterSnapshot::default()));
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    server.surroundings.send_replace(Some(a_mesh()));
    let (status, body) = asked.await.unwrap();
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(review["response"]["allowed"], true);
}
