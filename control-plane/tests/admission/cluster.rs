//! An API server with the mesh's kinds, and webhooks on loopback that run in this process.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use evermesh::webhook::{
    self, AdmissionMetrics, CertificateSource, Options, OwnAuthority, POD_PATH, Webhook,
};
use evermesh_ingest::{
    Inputs,
    admission::{IpFamily, Surroundings},
    object::parse,
};
use evermesh_model::{Kind, ObjectRef};
use evermesh_testkit::kubernetes::ApiServer;
use futures::{StreamExt, stream::SelectAll};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::watcher::{self, watcher},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// The mesh of the tests, of namespaces with the label `mesh: shop`.
pub(crate) const MESH: &str = "shop";

/// A namespace that the webhooks do not know.
pub(crate) const UNSEEN: &str = "unseen";

const MUTATING: &str = "appmesh-controller-mutating-webhook-configuration";
const VALIDATING: &str = "appmesh-controller-validating-webhook-configuration";
const LIMIT: Duration = Duration::from_secs(30);

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

/// A clock that can be set back.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<Mutex<Duration>>);

impl Clock {
    pub(crate) fn set_back(&self, by: Duration) {
        *self.0.lock().unwrap() = by;
    }

    fn now(&self) -> SystemTime {
        SystemTime::now() - *self.0.lock().unwrap()
    }
}

/// One process with webhooks.
pub(crate) struct Replica {
    address: SocketAddr,
    surroundings: watch::Receiver<Option<Surroundings>>,
    shutdown: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Replica {
    async fn start(client: Client, clock: &Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (sender, surroundings) = watch::channel(None);
        tokio::spawn(follow(client.clone(), sender));
        let clock = clock.clone();
        let options = Options {
            certificate: CertificateSource::OwnAuthority(OwnAuthority {
                secret: "default/evermesh-webhook".parse().unwrap(),
                service: "default/evermesh-webhook".parse().unwrap(),
                hosts: ["127.0.0.1".to_owned()].into(),
                mutating: MUTATING.to_owned(),
                validating: VALIDATING.to_owned(),
            }),
            certificates: Arc::default(),
            family: IpFamily::Ipv4,
            patience: Duration::from_secs(2),
            injection: Some(evermesh_injector::InjectorSettings::new(
                "evermesh-xds.default:18000".parse().unwrap(),
                "evermesh-proxy-init:test".to_owned(),
            )),
            identity: "evermesh-test".to_owned(),
            clock: Arc::new(move || clock.now()),
        };
        let running = webhook::run(
            listener,
            options,
            client,
            surroundings.clone(),
            AdmissionMetrics::default(),
            shutdown.clone(),
        );
        tokio::spawn(async move { running.await.unwrap() });
        Self {
            address,
            surroundings,
            shutdown,
        }
    }

    /// The certificate that it serves, whoever may trust it.
    pub(crate) async fn serving(&self) -> CertificateDer<'static> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let seen = Arc::new(Mutex::new(None));
        let mut config = config;
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Seen(Arc::clone(&seen))));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // It is refused once it was seen.
        let _ = connector.connect(name, stream).await;
        seen.lock().unwrap().take().unwrap()
    }
}

/// Notes the certificate of a server.
#[derive(Debug)]
struct Seen(Arc<Mutex<Option<CertificateDer<'static>>>>);

impl rustls::client::danger::ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(end_entity.clone().into_owned());
        Err(rustls::Error::General("seen".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not asked".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not asked".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Keeps the surroundings as a control plane would whose watch has yet to see the namespace [`UNSEEN`].
async fn follow(client: Client, surroundings: watch::Sender<Option<Surroundings>>) {
    const KINDS: [Kind; 4] = [
        Kind::Namespace,
        Kind::Mesh,
        Kind::VirtualNode,
        Kind::VirtualGateway,
    ];
    let mut streams = SelectAll::new();
    for kind in KINDS {
        let (group, version) = kind
            .api_version()
            .split_once('/')
            .unwrap_or(("", kind.api_version()));
        let plural = match kind {
            Kind::Mesh => "meshes".to_owned(),
            _ => format!("{}s", kind.as_str().to_lowercase()),
        };
        let gvk = GroupVersionKind::gvk(group, version, kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let events = watcher(api, watcher::Config::default()).map(move |event| (kind, event));
        streams.push(events.boxed());
    }
    let mut inputs = Inputs::default();
    let mut listed = 0;
    while let Some((kind, event)) = streams.next().await {
        if event.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                let mut value = serde_json::to_value(&object).unwrap();
                value["apiVersion"] = kind.api_version().into();
                value["kind"] = kind.as_str().into();
                if value["metadata"]["name"] == UNSEEN {
                    continue;
                }
                if let Some((reference, object)) = parse(value).object {
                    inputs.apply(reference, Some(object));
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                let namespace = object.metadata.namespace.unwrap_or_default();
                let name = object.metadata.name.unwrap();
                inputs.apply(ObjectRef::new(kind, namespace, name), None);
            }
            Ok(watcher::Event::InitDone) => listed += 1,
            Ok(watcher::Event::Init) | Err(_) => {}
        }
        if listed >= KINDS.len() {
            surroundings.send_replace(Some(Surroundings::from(&inputs)));
        }
    }
}

/// An API server and its first replica.
pub(crate) struct Cluster {
    api: ApiServer,
    replica: Replica,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let cluster = Self::without_webhooks().await;
        cluster.install_webhooks().await;
        cluster
    }

    pub(crate) async fn without_webhooks() -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_crds().await.unwrap();
        let replica = Replica::start(api.client().await.unwrap(), &Clock::default()).await;
        Self { api, replica }
    }

    pub(crate) async fn with_clock(clock: &Clock) -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_crds().await.unwrap();
        let replica = Replica::start(api.client().await.unwrap(), clock).await;
        let cluster = Self { api, replica };
        cluster.configure().await;
        cluster
    }

    pub(crate) async fn start_replica(&self, clock: &Clock) -> Replica {
        Replica::start(self.api.client().await.unwrap(), clock).await
    }

    pub(crate) async fn install_webhooks(&self) {
        self.configure().await;
        self.bundles_are_right().await;
        // The API server takes up a configuration a moment after it is there.
        self.eventually("the webhooks are not asked", async || {
            let probe = json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2",
                "kind": "VirtualNode",
                "metadata": { "name": "probe", "namespace": "default" },
                "spec": { "meshRef": { "name": "a", "uid": "b" } },
            });
            let refusal = self.dry_run(&probe).await.err();
            refusal.filter(|refusal| refusal.contains("is filled in by the control plane"))
        })
        .await;
    }

    async fn configure(&self) {
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
        let word = kind.as_str().to_lowercase();
        let plural = if kind == Kind::Mesh {
            "meshes".to_owned()
        } else {
            format!("{word}s")
        };
        json!({
            "name": format!("{word}.{group}"),
            "clientConfig": { "url": format!("https://{}{path}", self.replica.address) },
            "rules": [{
                "apiGroups": [group],
                "apiVersions": [version],
                "operations": ["CREATE", "UPDATE"],
                "resources": [plural],
            }],
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        })
    }
}

/// What `kubectl` does.
impl Cluster {
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let done = tokio::time::timeout(LIMIT, self.api.kubectl(arguments)).await;
        let done = done.unwrap_or_else(|_| panic!("without an end: kubectl {arguments:?}"));
        done.map_err(|error| format!("{error:#}"))
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

    pub(crate) async fn create_soon(&self, object: &Value) {
        let what = object["metadata"]["name"].to_string();
        self.eventually(&what, async || self.create(object).await.ok())
            .await;
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
        let text = self
            .kubectl(&["get", kind, name, "--namespace=shop", "--output=json"])
            .await;
        serde_json::from_str(&text.unwrap()).unwrap()
    }
}

/// What is waited for.
impl Cluster {
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let until = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(LIMIT, until).await;
        found.unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    async fn surroundings_are(&self, what: &str, is_so: impl Fn(&Surroundings) -> bool) {
        self.eventually(what, async || {
            let known = self.replica.surroundings.borrow().clone();
            known.is_some_and(|known| is_so(&known)).then_some(())
        })
        .await;
    }

    pub(crate) async fn known(&self, mesh: &str) {
        let reference = ObjectRef::new(Kind::Mesh, "", mesh);
        self.surroundings_are(mesh, |known| known.meshes.contains_key(&reference))
            .await;
    }

    pub(crate) async fn unknown(&self, mesh: &str) {
        let reference = ObjectRef::new(Kind::Mesh, "", mesh);
        self.surroundings_are(mesh, |known| !known.meshes.contains_key(&reference))
            .await;
    }

    pub(crate) async fn terminating(&self, mesh: &str) {
        let reference = ObjectRef::new(Kind::Mesh, "", mesh);
        self.surroundings_are(mesh, |known| {
            let mesh = known.meshes.get(&reference);
            mesh.is_some_and(|mesh| mesh.metadata.deletion_timestamp.is_some())
        })
        .await;
    }

    /// The data of the Secret, empty while there is none.
    pub(crate) async fn secret(&self) -> Value {
        let arguments = ["get", "secret", "evermesh-webhook", "--output=json"];
        let text = self
            .kubectl(&arguments)
            .await
            .unwrap_or_else(|_| "{}".to_owned());
        serde_json::from_str::<Value>(&text).unwrap()["data"].take()
    }

    pub(crate) async fn secret_is(&self, is_so: impl Fn(&Value) -> bool) {
        self.eventually("the Secret", async || {
            is_so(&self.secret().await).then_some(())
        })
        .await;
    }

    /// Makes the replicas look at the Secret, and at their clocks.
    pub(crate) async fn touch_secret(&self) {
        let stamp = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let annotation = format!("test/touched={stamp}");
        let touched = self
            .kubectl(&[
                "annotate",
                "--overwrite",
                "secret",
                "evermesh-webhook",
                &annotation,
            ])
            .await;
        touched.unwrap();
    }

    async fn configuration(&self, kind: &str, name: &str) -> Value {
        let text = self
            .kubectl(&["get", kind, name, "--output=json"])
            .await
            .unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn bundles_are_right(&self) {
        self.eventually("the bundles", async || {
            let bundle = self.secret().await["ca.crt"].take();
            let mut webhooks = Vec::new();
            for (kind, name) in [
                ("mutatingwebhookconfiguration", MUTATING),
                ("validatingwebhookconfiguration", VALIDATING),
            ] {
                let configuration = self.configuration(kind, name).await;
                webhooks.extend(configuration["webhooks"].as_array().unwrap().clone());
            }
            let is_right = |webhook: &Value| webhook["clientConfig"]["caBundle"] == bundle;
            (bundle.is_string() && webhooks.iter().all(is_right)).then_some(())
        })
        .await;
    }

    pub(crate) async fn spoil_bundles(&self) {
        let patch = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
        for (kind, name) in [
            ("mutatingwebhookconfiguration", MUTATING),
            ("validatingwebhookconfiguration", VALIDATING),
        ] {
            self.patch(kind, name, patch).await.unwrap();
        }
    }

    pub(crate) async fn serving(&self) -> CertificateDer<'static> {
        self.replica.serving().await
    }
}
