//! An API server with Evermesh's CRDs, whose webhooks are served on loopback by the process of the test.

mod replica;
mod waiting;

use std::fs;

use evermesh::webhook::{self, POD_PATH, Webhook};
use evermesh_model::Kind;
use evermesh_testkit::kubernetes::ApiServer;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

pub(crate) use self::replica::{Clock, Replica};
use crate::common::DEADLINE;

/// The mesh of the tests; its namespaces have the label `mesh: shop`.
pub(crate) const MESH: &str = "shop";

/// A namespace that the webhooks never learn about.
pub(crate) const UNSEEN: &str = "unseen";

const MUTATING: &str = "appmesh-controller-mutating-webhook-configuration";
const VALIDATING: &str = "appmesh-controller-validating-webhook-configuration";

pub(crate) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "mesh": name } } })
}

pub(crate) fn mesh() -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": MESH },
        "spec": { "namespaceSelector": { "matchLabels": { "mesh": "shop" } } },
    })
}

/// The plural of a kind, as in URLs of the API.
fn plural(kind: Kind) -> String {
    match kind {
        Kind::Mesh => "meshes".to_owned(),
        kind => format!("{}s", kind.as_str().to_lowercase()),
    }
}

/// An API server and the first replica of the webhooks.
pub(crate) struct Cluster {
    api: ApiServer,
    replica: Replica,
}

impl Cluster {
    /// Starts the API server and a replica, and waits until the webhooks are called.
    pub(crate) async fn start() -> Self {
        let cluster = Self::without_webhooks(&Clock::default()).await;
        cluster.install_webhooks().await;
        cluster
    }

    /// Starts the API server and a replica with this clock; the API server does not call the webhooks.
    pub(crate) async fn without_webhooks(clock: &Clock) -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_crds().await.unwrap();
        let replica = Replica::start(api.client().await.unwrap(), clock).await;
        Self { api, replica }
    }

    /// Starts another replica.
    pub(crate) async fn start_replica(&self, clock: &Clock) -> Replica {
        Replica::start(self.api.client().await.unwrap(), clock).await
    }

    /// The certificate that the first replica presents.
    pub(crate) async fn certificate(&self) -> CertificateDer<'static> {
        self.replica.certificate().await
    }

    /// Creates the webhook configurations and waits until the webhooks are called.
    pub(crate) async fn install_webhooks(&self) {
        self.configure_webhooks().await;
        self.bundles_match_secret().await;
        self.webhooks_are_called().await;
    }

    /// Creates the webhook configurations, which lead to the first replica.
    pub(crate) async fn configure_webhooks(&self) {
        for (webhook, kind, name) in [
            (Webhook::Mutate, "MutatingWebhookConfiguration", MUTATING),
            (
                Webhook::Validate,
                "ValidatingWebhookConfiguration",
                VALIDATING,
            ),
        ] {
            let mut webhooks: Vec<Value> = Kind::ALL
                .into_iter()
                .filter_map(|kind| Some((kind, webhook::path(webhook, kind)?)))
                .map(|(kind, path)| self.webhook(kind, &path))
                .collect();
            if webhook == Webhook::Mutate {
                webhooks.push(self.pod_webhook());
            }
            let configuration = json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": kind,
                "metadata": { "name": name },
                "webhooks": webhooks,
            });
            self.create(&configuration).await.unwrap();
        }
    }

    fn pod_webhook(&self) -> Value {
        json!({
            "name": "mpod.appmesh.k8s.aws",
            "clientConfig": { "url": format!("https://{}{POD_PATH}", self.replica.address) },
            "namespaceSelector": { "matchExpressions": [{
                "key": evermesh_injector::INJECTION,
                "operator": "In",
                "values": ["enabled", "disabled"],
            }] },
            "rules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
            }],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "sideEffects": "NoneOnDryRun",
            "admissionReviewVersions": ["v1"],
        })
    }

    fn webhook(&self, kind: Kind, path: &str) -> Value {
        let (group, version) = kind.api_version().split_once('/').unwrap();
        json!({
            "name": format!("{}.{group}", kind.as_str().to_lowercase()),
            "clientConfig": { "url": format!("https://{}{path}", self.replica.address) },
            "rules": [{
                "apiGroups": [group],
                "apiVersions": [version],
                "operations": ["CREATE", "UPDATE"],
                "resources": [plural(kind)],
            }],
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        })
    }
}

/// `kubectl`; an error is the message that `kubectl` printed.
impl Cluster {
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = tokio::time::timeout(DEADLINE, self.api.kubectl(arguments)).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end"));
        output.map_err(|error| format!("{error:#}"))
    }

    async fn with_file(&self, arguments: &[&str], object: &Value) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), object.to_string()).unwrap();
        let file = ["--filename", file.path().to_str().unwrap()];
        self.kubectl(&[arguments, &file].concat()).await.map(drop)
    }

    pub(crate) async fn create(&self, object: &Value) -> Result<(), String> {
        self.with_file(&["create"], object).await
    }

    pub(crate) async fn dry_run(&self, object: &Value) -> Result<(), String> {
        self.with_file(&["create", "--dry-run=server"], object)
            .await
    }

    pub(crate) async fn replace(&self, object: &Value) -> Result<(), String> {
        self.with_file(&["replace"], object).await
    }

    pub(crate) async fn apply(&self, object: &Value) -> Result<(), String> {
        self.with_file(&["apply"], object).await
    }

    /// Applies the objects in this order with one `kubectl`. An error does not stop those after it.
    pub(crate) async fn apply_all(&self, objects: &[Value]) -> Result<(), String> {
        self.with_file(
            &["apply"],
            &json!({"apiVersion": "v1", "kind": "List", "items": objects}),
        )
        .await
    }

    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: &str) -> Result<(), String> {
        let arguments = [
            "patch",
            kind,
            name,
            "--namespace=shop",
            "--type=json",
            "--patch",
            patch,
        ];
        self.kubectl(&arguments).await.map(drop)
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Value {
        let object = self.api.get(&format!("{kind}/{name}"), "shop").await;
        object.unwrap().unwrap()
    }
}
