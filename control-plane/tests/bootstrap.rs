//! Bootstraps of sidecars with the oldest and the newest Envoy: Envoy accepts them, and sends the token that they name,
//! over plaintext and TLS, also after the token was renewed.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;
#[path = "../../sidecar-injector/tests/fixture/mod.rs"]
mod injection;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use evermesh_injector::bootstrap::{
    AdminAddress, Authority, BootstrapOptions, ControlPlaneTls, HostPort, bootstrap, render,
};
use evermesh_model::{ProxyKind, ResourceName};
use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, EnvoyVersion, validate},
    hosts::{Lab, LabHost},
    tools,
};
use evermesh_xds::{ProxyRegistry, Store, XdsServerOptions};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::Status;

use self::{
    common::eventually,
    injection::{Case, take_bootstrap},
};

/// The different bootstraps of the injector's golden cases, as Envoy reads them.
fn golden() -> BTreeSet<String> {
    let testdata = tools::workspace()
        .unwrap()
        .join("sidecar-injector/tests/testdata");
    let mut found = BTreeSet::new();
    for case in evermesh_golden::cases(&testdata) {
        let pod = Case::read(&case.input).patched_pod();
        let Some(bootstrap) = pod.and_then(|mut pod| take_bootstrap(&mut pod)) else {
            continue;
        };
        let bootstrap = bootstrap.to_string();
        // The certificates of golden cases are not valid.
        if !bootstrap.contains("CERTIFICATE") {
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
fn envoy_accepts_the_bootstrap_of_every_golden_case() {
    for bootstrap in golden() {
        for version in EnvoyVersion::ALL {
            validate(version, &bootstrap).unwrap_or_else(|error| panic!("{error:#}: {bootstrap}"));
        }
    }
}

/// The `authorization` headers that the control plane received, in order, without repetitions.
type ReceivedTokens = Arc<Mutex<Vec<String>>>;

/// Starts a control plane that records the token of each stream and then rejects the stream.
async fn control_plane(received: &ReceivedTokens) -> SocketAddr {
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = Arc::clone(received);
    let options = XdsServerOptions::new(Arc::new(move |parts| {
        let header = parts.headers.get("authorization");
        let header = header.map_or("none", |it| it.to_str().unwrap()).to_owned();
        let mut received = received.lock().unwrap();
        if received.last() != Some(&header) {
            received.push(header);
        }
        Err(Status::unauthenticated("rejected by the test")).into()
    }));
    tokio::spawn(evermesh_xds::serve(
        listener,
        Store::new(),
        ProxyRegistry::new(None),
        options,
    ));
    address
}

/// Starts a TLS proxy for a server, with a certificate for `localhost`. Returns the proxy's address and the certificate.
async fn start_tls_proxy(server: SocketAddr) -> (SocketAddr, String) {
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
                // A client that does not trust the certificate ends the handshake.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut upstream = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
                }
            });
        }
    });
    (address, certificate.pem())
}

/// Writes the token as the kubelet does: into a new folder, to which a link is then swapped.
fn write_token(folder: &Path, version: &str, token: &str) {
    let version = folder.join(version);
    fs::create_dir(&version).unwrap();
    fs::write(version.join("token"), token).unwrap();
    std::os::unix::fs::symlink(&version, folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

async fn renewed_token_is_sent(version: EnvoyVersion, with_tls: bool) {
    let received = ReceivedTokens::default();
    let server = control_plane(&received).await;
    let (xds, authority) = if with_tls {
        let (address, pem) = start_tls_proxy(server).await;
        (address, Some(pem))
    } else {
        (server, None)
    };
    let folder = tools::scratch("token").unwrap();
    write_token(folder.path(), "..1", "first");
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
    let case = format!("{version:?}, TLS {with_tls}");
    let last = |token: &str| {
        received
            .lock()
            .unwrap()
            .last()
            .is_some_and(|last| last == token)
    };
    eventually(&case, async || last("Bearer first")).await;
    // A file that was written by hand ends with a newline.
    write_token(folder.path(), "..2", "second\n");
    eventually(&case, async || last("Bearer second")).await;
    assert_eq!(
        *received.lock().unwrap(),
        ["Bearer first", "Bearer second"],
        "{case}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_sends_the_newest_token() {
    for version in EnvoyVersion::ALL {
        for with_tls in [false, true] {
            renewed_token_is_sent(version, with_tls).await;
        }
    }
}

/// The admin port of a sidecar: all of its pages on loopback, and those for probes and Prometheus for other hosts.
async fn pages_are_separate(version: EnvoyVersion, wildcard: &str, pod: &LabHost, other: &LabHost) {
    const PORT: u16 = 9901;
    let mut bootstrap = bootstrap(&BootstrapOptions {
        admin: AdminAddress::LoopbackWithPages(HostPort {
            host: wildcard.to_owned(),
            port: PORT,
        }),
        ..BootstrapOptions::new(
            ResourceName::new("shop", ProxyKind::VirtualNode, "web_shop"),
            "127.0.0.1:1".parse().unwrap(),
        )
    });
    // Envoy becomes ready without a control plane.
    bootstrap.dynamic_resources = None;
    let options = EnvoyOptions::new(version, render(&bootstrap).unwrap());
    let mut envoy = Envoy::start_with_admin_port_on(pod, &options, PORT).unwrap();
    envoy.ready().await.unwrap();

    let pages = other.reach((pod.ip(), PORT).into());
    assert_eq!(pages.get("/ready").await.unwrap().trim(), "LIVE");
    let metrics = pages.get("/stats/prometheus").await.unwrap();
    let mut lines = metrics.lines();
    assert!(lines.any(|line| line.starts_with("envoy_server_live{") && line.ends_with(" 1")));
    for own in ["evermesh_admin", "evermesh_pages"] {
        assert!(!metrics.contains(own), "{own}");
    }
    for page in [
        "/",
        "/config_dump",
        "/server_info",
        "/stats",
        "//ready",
        "/ready/../config_dump",
        "/stats/prometheus/",
    ] {
        let error = pages.get(page).await.unwrap_err().to_string();
        assert!(error.contains("404"), "{page}: {error}");
    }
    for page in ["/quitquitquit", "/ready", "/logging?level=trace"] {
        let error = pages.post(page).await.unwrap_err().to_string();
        assert!(error.contains("404"), "{page}: {error}");
    }
    let dump = envoy.admin().get("/config_dump").await.unwrap();
    assert!(dump.contains("evermesh_admin"), "{dump}");
}

#[tokio::test]
async fn other_hosts_read_only_the_pages_for_probes_and_prometheus() {
    let mut lab = Lab::start().await.unwrap();
    let pod = lab.host("pod").await.unwrap();
    let other = lab.host("other").await.unwrap();
    for version in EnvoyVersion::ALL {
        for wildcard in ["0.0.0.0", "::"] {
            pages_are_separate(version, wildcard, &pod, &other).await;
        }
    }
}
