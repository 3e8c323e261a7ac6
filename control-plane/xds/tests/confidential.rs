//! Confidential resources reach only a client that has proven its identity, over TLS or a Unix socket. For any other
//! client they do not exist, and everything else is served as usual.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod support;

use std::{net::Ipv4Addr, sync::Arc};

use evermesh_proto::{
    core,
    discovery::{DeltaDiscoveryRequest, DiscoveryRequest},
    resource::ResourceType::{Cluster, Listener, Secret},
};
use evermesh_xds::{
    IdentifiedClient, ProxyRegistry, StoreCommit, XdsServerOptions,
    XdsVariant::{Delta, Sotw},
    serve, serve_socket, without_credentials,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use support::{
    grpc::{DeltaStream, SotwStream, node, path},
    store::{TestStore, key, resource},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A store that is served over plaintext, TLS and a Unix socket, and a channel to each.
struct Servers {
    store: TestStore,
    registry: Arc<ProxyRegistry>,
    plaintext: Channel,
    tls: Channel,
    unix: Channel,
    _folder: tempfile::TempDir,
}

/// Clients whose node has the cluster `proven` have proven their identity.
fn options() -> XdsServerOptions {
    XdsServerOptions::new(without_credentials(|node: &core::Node| {
        Ok(IdentifiedClient {
            view: node.id.as_str().into(),
            is_proven: node.cluster == "proven",
            revocation: None,
        })
        .into()
    }))
}

fn certificate() -> (String, ServerConfig) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (certificate.pem(), config)
}

impl Servers {
    async fn start() -> Self {
        let store = TestStore::with(&[(Cluster, "c", "1"), (Secret, "ca", "1")]);
        put_key(&store, "1");
        let registry = ProxyRegistry::new(None);
        let state = || (Arc::clone(&store.store), Arc::clone(&registry));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plaintext = format!("http://{}", listener.local_addr().unwrap());
        let (served, seen) = state();
        tokio::spawn(serve(listener, served, seen, options()));

        let (pem, config) = certificate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = format!("https://{}", listener.local_addr().unwrap());
        let mut with_tls = options();
        with_tls.tls = Some(watch::channel(Arc::new(config)).1);
        let (served, seen) = state();
        tokio::spawn(serve(listener, served, seen, with_tls));

        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("xds.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (served, seen) = state();
        tokio::spawn(serve_socket(listener, served, seen, options()));

        let endpoint = |uri: String| Endpoint::from_shared(uri).unwrap();
        let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        Self {
            plaintext: endpoint(plaintext).connect().await.unwrap(),
            tls: endpoint(tls)
                .tls_config(trust)
                .unwrap()
                .connect()
                .await
                .unwrap(),
            unix: endpoint(format!("unix:{}", socket.display()))
                .connect()
                .await
                .unwrap(),
            store,
            registry,
            _folder: folder,
        }
    }

    /// The channels, each with whether the client alone can read what it carries.
    fn channels(&self) -> [(&Channel, bool); 3] {
        [
            (&self.plaintext, false),
            (&self.tls, true),
            (&self.unix, true),
        ]
    }

    /// The confidential resources that the only connected client does not get.
    fn withheld(&self) -> Vec<String> {
        let proxies = self.registry.proxies();
        assert_eq!(proxies.len(), 1);
        proxies[0]
            .withheld
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// Puts the confidential resource `key` into the store and the view.
fn put_key(store: &TestStore, content: &str) {
    let secret = Arc::unwrap_or_clone(resource(Secret, "key", content, &[])).into_confidential();
    let mut keys = store.view("node").unwrap().keys().to_vec();
    keys.push(key(Secret, "key"));
    store.apply(StoreCommit {
        upserts: vec![(key(Secret, "key"), Arc::new(secret))],
        views: vec![(
            "node".into(),
            Some(evermesh_proto::ProxyView::new(keys).into()),
        )],
        ..StoreCommit::default()
    });
}

fn client(is_proven: bool) -> core::Node {
    core::Node {
        cluster: if is_proven { "proven" } else { "claimed" }.to_owned(),
        ..node()
    }
}

fn subscription() -> Vec<String> {
    vec!["ca".to_owned(), "key".to_owned()]
}

#[tokio::test]
async fn incremental_client_gets_a_key_only_with_proof_and_privacy() {
    let servers = Servers::start().await;
    for (channel, is_private) in servers.channels() {
        for is_proven in [false, true] {
            let is_trusted = is_private && is_proven;
            let (served, missing) = if is_trusted {
                (vec!["ca", "key"], vec![])
            } else {
                (vec!["ca"], vec!["key"])
            };
            let mut stream = DeltaStream::open(channel, path(Delta, None)).await;
            stream.send(DeltaDiscoveryRequest {
                node: Some(client(is_proven)),
                type_url: Secret.type_url().into(),
                resource_names_subscribe: subscription(),
                ..DeltaDiscoveryRequest::default()
            });
            let first = stream.receive().await;
            let names: Vec<&str> = first.resources.iter().map(|it| it.name.as_str()).collect();
            assert_eq!(names, served);
            assert_eq!(first.removed_resources, missing);
            assert_eq!(servers.withheld(), missing);
            stream.send(DeltaDiscoveryRequest {
                type_url: Secret.type_url().into(),
                response_nonce: first.nonce,
                ..DeltaDiscoveryRequest::default()
            });

            // A renewed key is not sent either, and holds nothing back.
            put_key(&servers.store, &format!("{is_private} {is_proven}"));
            servers
                .store
                .update(Secret, "ca", &format!("{is_private} {is_proven}"));
            let mut received = Vec::new();
            while !received.contains(&"ca".to_owned()) {
                let next = stream.receive().await;
                assert_eq!(next.removed_resources, [""; 0]);
                received.extend(next.resources.into_iter().map(|it| it.name));
                stream.send(DeltaDiscoveryRequest {
                    type_url: Secret.type_url().into(),
                    response_nonce: next.nonce,
                    ..DeltaDiscoveryRequest::default()
                });
            }
            received.sort();
            received.dedup();
            assert_eq!(received, served);

            stream.close();
            stream.end().await.unwrap();
        }
    }
}

#[tokio::test]
async fn state_of_the_world_client_gets_a_key_only_with_proof_and_privacy() {
    let servers = Servers::start().await;
    for (channel, is_private) in servers.channels() {
        for is_proven in [false, true] {
            let mut stream = SotwStream::open(channel, path(Sotw, Some(Secret))).await;
            stream.send(DiscoveryRequest {
                node: Some(client(is_proven)),
                resource_names: subscription(),
                ..DiscoveryRequest::default()
            });
            let count = stream.receive().await.resources.len();
            assert_eq!(count, if is_private && is_proven { 2 } else { 1 });
            stream.close();
            stream.end().await.unwrap();
        }
    }
}

#[tokio::test]
async fn withheld_key_does_not_hold_back_other_types() {
    let servers = Servers::start().await;
    let mut stream = DeltaStream::open(&servers.plaintext, path(Delta, None)).await;
    for (kind, names) in [
        (Cluster, vec![]),
        (Secret, vec!["key".to_owned()]),
        (Listener, vec![]),
    ] {
        stream.send(DeltaDiscoveryRequest {
            node: Some(client(true)),
            type_url: kind.type_url().into(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        });
    }
    servers.store.add(Listener, "l", "1");
    loop {
        let response = stream.receive().await;
        if response.resources.iter().any(|it| it.name == "l") {
            break;
        }
        stream.send(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        });
    }
}
