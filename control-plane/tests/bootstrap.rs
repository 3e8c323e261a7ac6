//! The bootstraps of sidecars, on the oldest and the newest Envoy: that they are taken, and that a token on disk reaches
//! the control plane, in plain text and by TLS, also the next one.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use evermesh_injector::bootstrap::{
    Authority, BootstrapOptions, ControlPlaneTls, HostPort, bootstrap, render,
};
use evermesh_model::{ProxyKind, ResourceName};
use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, Version, validate},
    tools, wait,
};
use evermesh_xds::{Options, Registry, Store};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(30);

/// The different bootstraps of the golden cases, as the kubelet passes them on.
fn golden() -> BTreeSet<String> {
    let root = tools::workspace()
        .unwrap()
        .join("sidecar-injector/tests/testdata");
    let mut found = BTreeSet::new();
    for case in fs::read_dir(root)
        .unwrap()
        .flat_map(|it| fs::read_dir(it.unwrap().path()).unwrap())
    {
        let text = fs::read_to_string(case.unwrap().path().join("out.snap")).unwrap();
        let (_, out) = text[4..].split_once("\n---\n").unwrap();
        let out: Value = serde_saphyr::from_str(out).unwrap();
        let bootstrap = out["bootstrap"].to_string();
        // Certificates that are none are for eyes only.
        if out["bootstrap"].is_object() && !bootstrap.contains("CERTIFICATE") {
            found.insert(
                ["STATSD_ADDRESS", "DATADOG_TRACER_ADDRESS"]
                    .iter()
                    .fold(bootstrap, |text, name| {
                        text.replace(&format!("$({name})"), "10.0.0.1")
                    }),
            );
        }
    }
    assert!(found.len() > 15, "{}", found.len());
    found
}

#[test]
fn envoy_takes_the_bootstrap_of_every_golden_case() {
    for bootstrap in golden() {
        for version in Version::ALL {
            validate(version, &bootstrap).unwrap_or_else(|error| panic!("{error:#}: {bootstrap}"));
        }
    }
}

/// What the control plane is shown, in order, without repetitions.
type Shown = Arc<Mutex<Vec<String>>>;

/// A control plane that notes who calls and turns everybody away.
async fn control_plane(shown: &Shown) -> SocketAddr {
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = Arc::clone(shown);
    let options = Options::new(Arc::new(move |_, parts| {
        let header = parts.headers.get("authorization");
        let header = header.map_or("none", |it| it.to_str().unwrap()).to_owned();
        let mut shown = shown.lock().unwrap();
        if shown.last() != Some(&header) {
            shown.push(header);
        }
        Err(Status::unauthenticated("go away")).into()
    }));
    tokio::spawn(evermesh_xds::serve(
        listener,
        Store::new(),
        Registry::new(None),
        options,
    ));
    address
}

/// TLS before an address; the certificate is for `localhost`. Returns its own address and the certificate.
async fn tls(before: SocketAddr) -> (SocketAddr, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust it hangs up.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut behind = TcpStream::connect(before).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                }
            });
        }
    });
    (address, certificate.pem())
}

/// As the kubelet does: a new folder, and a link that is swapped.
fn write(folder: &Path, version: &str, token: &str) {
    let place = folder.join(version);
    fs::create_dir(&place).unwrap();
    fs::write(place.join("token"), token).unwrap();
    std::os::unix::fs::symlink(&place, folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

async fn shows_tokens(version: Version, by_tls: bool) {
    let shown = Shown::default();
    let behind = control_plane(&shown).await;
    let (xds, authority) = if by_tls {
        let (address, pem) = tls(behind).await;
        (address, Some(pem))
    } else {
        (behind, None)
    };
    let folder = tools::scratch("token").unwrap();
    write(folder.path(), "..1", "first");
    let token = folder.path().join("token");
    std::os::unix::fs::symlink("..data/token", &token).unwrap();
    let options = BootstrapOptions {
        tls: authority.map(|pem| ControlPlaneTls {
            authority: Authority::Inline(pem),
            identity: None,
        }),
        token: Some(token.display().to_string()),
        ..BootstrapOptions::new(
            ResourceName::new("shop", ProxyKind::VirtualNode, "web_shop"),
            HostPort {
                host: "localhost".to_owned(),
                port: xds.port(),
            },
        )
    };
    let bootstrap = render(&bootstrap(&options)).unwrap();
    let _envoy = Envoy::start(&EnvoyOptions::new(version, bootstrap)).unwrap();
    let what = format!("{version:?}, TLS {by_tls}");
    let last = |token: &str| {
        shown
            .lock()
            .unwrap()
            .last()
            .is_some_and(|last| last == token)
    };
    wait::eventually(&what, PATIENCE, async || last("Bearer first")).await;
    // With the line's end that a hand would write.
    write(folder.path(), "..2", "second\n");
    wait::eventually(&what, PATIENCE, async || last("Bearer second")).await;
    assert_eq!(
        *shown.lock().unwrap(),
        ["Bearer first", "Bearer second"],
        "{what}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_is_shown_the_newest_token() {
    for version in Version::ALL {
        for by_tls in [false, true] {
            shows_tokens(version, by_tls).await;
        }
    }
}
