//! One replica of Evermesh's webhooks, in the process of the test.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use evermesh::webhook::{
    self, AdmissionMetrics, OwnAuthority, SidecarAuthority, WebhookCertificate, WebhookOptions,
};
use evermesh_ingest::{
    Inputs,
    admission::{ClusterSnapshot, IpFamily},
    object::parse,
};
use evermesh_model::{Kind, ObjectRef};
use evermesh_xds::ConnectionLimit;
use futures::{StreamExt, stream::SelectAll};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{MUTATING, UNSEEN, VALIDATING, plural};

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

/// A webhook server; it stops when dropped.
pub(crate) struct Replica {
    pub(super) address: SocketAddr,
    pub(super) snapshot: watch::Receiver<Option<ClusterSnapshot>>,
    shutdown: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Replica {
    pub(super) async fn start(client: Client, clock: &Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (sender, snapshot) = watch::channel(None);
        tokio::spawn(keep_snapshot(client.clone(), sender));
        let clock = clock.clone();
        let options = WebhookOptions {
            certificate: WebhookCertificate::OwnAuthority(OwnAuthority {
                secret: "default/evermesh-webhook".parse().unwrap(),
                service: "default/evermesh-webhook".parse().unwrap(),
                xds_service: None,
                hosts: ["127.0.0.1".to_owned()].into(),
                mutating: MUTATING.to_owned(),
                validating: VALIDATING.to_owned(),
            }),
            certificates: Arc::default(),
            certificate_health: Arc::default(),
            family: IpFamily::Ipv4,
            wait_limit: Duration::from_secs(2),
            injection: Some(evermesh_injector::InjectorSettings::new(
                "evermesh-xds.default:18000".parse().unwrap(),
                "evermesh-proxy-init:test".to_owned(),
            )),
            sidecar_authority: SidecarAuthority::Settings,
            identity: "evermesh-test".to_owned(),
            leaving: CancellationToken::new(),
            clock: Arc::new(move || clock.now()),
        };
        let running = webhook::run(
            (listener, ConnectionLimit::new(100)),
            options,
            client,
            snapshot.clone(),
            AdmissionMetrics::default(),
            shutdown.clone(),
        );
        tokio::spawn(async move { running.await.unwrap() });
        Self {
            address,
            snapshot,
            shutdown,
        }
    }

    /// The certificate that the server presents. Its authority is not checked.
    pub(crate) async fn certificate(&self) -> CertificateDer<'static> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let presented = Arc::new(Mutex::new(None));
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(CertificateRecorder(Arc::clone(&presented))));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // The recorder rejects every certificate, so the handshake fails.
        let _ = connector.connect(name, stream).await;
        presented.lock().unwrap().take().unwrap()
    }
}

/// Records the certificate of a server and then rejects it.
#[derive(Debug)]
struct CertificateRecorder(Arc<Mutex<Option<CertificateDer<'static>>>>);

impl rustls::client::danger::ServerCertVerifier for CertificateRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(end_entity.clone().into_owned());
        Err(rustls::Error::General("recorded".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("unreachable".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Keeps `snapshot` up to date, like a control plane whose watch has not reported the namespace [`UNSEEN`] yet.
async fn keep_snapshot(client: Client, snapshot: watch::Sender<Option<ClusterSnapshot>>) {
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
        let gvk = GroupVersionKind::gvk(group, version, kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural(kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        streams.push(events.map(move |event| (kind, event)).boxed());
    }
    let mut inputs = Inputs::default();
    let mut listed = 0;
    while let Some((kind, event)) = streams.next().await {
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
            snapshot.send_replace(Some(ClusterSnapshot::from(&inputs)));
        }
    }
}
