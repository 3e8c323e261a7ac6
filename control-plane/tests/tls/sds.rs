//! A secret discovery service on a Unix socket, as a SPIRE agent provides it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use evermesh_proto::{
    ProxyView, Resource, ResourceKey, ResourceType,
    core::{DataSource, data_source::Specifier},
    tls::{CertificateValidationContext, Secret, TlsCertificate, secret::Type},
};
use evermesh_testkit::authority::TestCertificate;
use evermesh_xds::{
    ProxyRegistry, Store, StoreCommit, XdsServerOptions, serve_socket, without_credentials,
};
use tokio::net::UnixListener;

/// The view of every client.
const VIEW: &str = "secrets";

pub(crate) fn certificate(certificate: &TestCertificate) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(&certificate.chain)),
        private_key: Some(inline(&certificate.key)),
        ..Default::default()
    })
}

pub(crate) fn authorities(pem: &str) -> Type {
    Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(pem)),
        ..Default::default()
    })
}

fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..Default::default()
    }
}

/// Serves secrets by name, until the test ends.
pub(crate) fn serve(socket: &Path, secrets: Vec<(&str, Type)>) {
    let store = Store::new();
    let upserts: Vec<(ResourceKey, Arc<Resource>)> = secrets
        .into_iter()
        .map(|(name, contents)| {
            let key = ResourceKey {
                kind: ResourceType::Secret,
                name: name.into(),
                scope: None,
            };
            let secret = Secret {
                name: name.to_owned(),
                r#type: Some(contents),
            };
            let resource = Resource::encode(Arc::clone(&key.name), &secret);
            (key, Arc::new(resource))
        })
        .collect();
    let keys = upserts.iter().map(|(key, _)| key.clone()).collect();
    store.commit(StoreCommit {
        upserts,
        removals: Vec::new(),
        views: vec![(VIEW.into(), Some(Arc::new(ProxyView::new(keys))))],
    });
    let listener = UnixListener::bind(socket).unwrap();
    // Envoy runs as another user.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).unwrap();
    let options = XdsServerOptions::new(without_credentials(|_| Ok(VIEW.into()).into()));
    let registry = ProxyRegistry::new(None);
    tokio::spawn(async move {
        tokio::select! {
            served = serve_socket(listener, Arc::clone(&store), registry, options) => served.unwrap(),
            () = store.dispatch() => {}
        }
    });
}
