//! Renewal of certificates and authorities under load, as Kubernetes replaces the files of a volume.

use std::time::Duration;

use evermesh_testkit::{
    authority::TestCertificate,
    envoy::{Envoy, EnvoyVersion},
    load::Load,
    tools,
};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, sync::oneshot};

use crate::{
    certificates::{Authority, SecretVolume},
    client::{self, connect},
    common::eventually,
    hosts::{COLOR, TlsHosts, color, file_certificate, file_trust, front, listener, service},
};

/// Carries the load over one connection between the proxies.
const HTTP2_PORT: u16 = 8001;

/// Each connection of the application is a connection between the proxies, with a handshake of its own.
const TCP_PORT: u16 = 9000;

struct Renewal {
    hosts: TlsHosts,
    front: Envoy,
    of_color: SecretVolume,
    of_front: SecretVolume,
}

impl Renewal {
    /// Renews both certificates and replaces the trusted authorities by `ca`. Waits until new connections use them. Every
    /// new connection of the caller succeeds meanwhile.
    async fn replace(&self, color: &TestCertificate, front: &TestCertificate, ca: &str) {
        self.of_color.replace_certificate(color, ca);
        let address = self.hosts.direct(TCP_PORT);
        eventually("the new certificate of the listener", async || {
            self.connect().await;
            let stream = connect(&address, COLOR, ca, Some(front)).await;
            stream.is_ok_and(|it| client::presented(&it) == client::der(&color.chain))
        })
        .await;
        self.of_front.replace_certificate(front, ca);
        let serial = serial(front);
        eventually("the new certificate of the caller", async || {
            self.connect().await;
            serials(&self.front).await.contains(&serial)
        })
        .await;
        self.connect().await;
    }

    /// Opens a connection of the caller and reads the greeting of the application.
    async fn connect(&self) {
        let mut stream = self.hosts.egress(TCP_PORT).connect().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b't');
    }

    async fn handshakes(&self, protocol: &str, port: u16) -> u64 {
        let name = format!("cluster.cds_egress_shop_color_shop_{protocol}_{port}.ssl.handshake");
        self.front.stat(&name).await.unwrap()
    }
}

/// The serial number of a certificate, as Envoy shows it, without zeros at its beginning.
fn serial(certificate: &TestCertificate) -> String {
    let der = client::der(&certificate.chain);
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    format!("{:x}", parsed.serial)
}

/// The serial numbers of an Envoy's certificates.
pub(crate) async fn serials(envoy: &Envoy) -> Vec<String> {
    let page = envoy.admin().get("/certs").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let certificates = page["certificates"].as_array().unwrap().iter();
    let chains =
        certificates.flat_map(|it| it["cert_chain"].as_array().cloned().unwrap_or_default());
    chains
        .map(|it| {
            let serial = it["serial_number"].as_str().unwrap();
            serial.trim_start_matches('0').to_owned()
        })
        .collect()
}

async fn renewal_fails_no_request(version: EnvoyVersion) {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tools::scratch("tls").unwrap();
    let mount = |name: &str, subject: &str| {
        let path = folder.path().join(name);
        SecretVolume::mount_certificate(path, &old.sign(subject), old.pem())
    };
    let (of_color, of_front) = (mount("color", COLOR), mount("front", "front.shop"));
    let mutual = format!(
        "mode: STRICT, {}, validation: {{{}}}",
        file_certificate("color"),
        file_trust("color")
    );
    let policy = format!(
        "tls: {{{}, validation: {{{}}}}}",
        file_certificate("front"),
        file_trust("front")
    );
    let manifests = format!(
        "{}{}{}",
        color(&[
            listener(HTTP2_PORT, "http2", &mutual),
            listener(TCP_PORT, "tcp", &mutual),
        ]),
        front(&[("color", &policy)]),
        service("color")
    );
    let hosts = TlsHosts::start(version, folder, &manifests).await;
    let _color = hosts.color_envoy().await;
    let front = hosts.front_envoy().await;

    let load = Load {
        target: hosts.egress(HTTP2_PORT),
        host: "color.shop".to_owned(),
        path: "/".to_owned(),
        rate: 200,
        duration: Duration::from_mins(10),
        http2: false,
    };
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    let load = tokio::spawn(load.run_until(stopped, |_| ()));
    let renewal = Renewal {
        hosts,
        front,
        of_color,
        of_front,
    };
    let both = format!("{}{}", old.pem(), new.pem());
    for (authority, trusted) in [
        (&old, old.pem()),
        (&old, &both),
        (&new, &both),
        (&new, new.pem()),
    ] {
        let (color, front) = (authority.sign(COLOR), authority.sign("front.shop"));
        renewal.replace(&color, &front, trusted).await;
    }
    stop.send(()).unwrap();
    let stats = load.await.unwrap().unwrap();
    assert_eq!(renewal.handshakes("http2", HTTP2_PORT).await, 1);
    assert!(renewal.handshakes("tcp", TCP_PORT).await >= 4 * 3);
    assert!(stats.requests() > 0);
    assert_eq!(stats.failed(), 0, "{stats:?}");
    renewal.hosts.has_no_error().await;
}

#[tokio::test]
async fn renewal_of_certificates_and_authorities_fails_no_request_in_the_oldest_envoy() {
    renewal_fails_no_request(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn renewal_of_certificates_and_authorities_fails_no_request_in_the_newest_envoy() {
    renewal_fails_no_request(EnvoyVersion::Newest).await;
}
