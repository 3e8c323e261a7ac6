//! Renewal of certificates and authorities under load, as Kubernetes replaces the files of a volume.

use std::time::Duration;

use evermesh_testkit::{
    envoy::{Envoy, EnvoyVersion},
    load::Load,
    tools,
};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    certificates::{Authority, Certificate, SecretVolume},
    client::{self, connect},
    common::eventually,
    hosts::{COLOR, TlsHosts, color, file_certificate, file_trust, front, listener, service},
};

const PORT: u16 = 8001;

/// Requests beyond the open connections; each needs a new one.
const MORE_CONNECTIONS: u64 = 20;

struct Renewal {
    hosts: TlsHosts,
    front: Envoy,
    of_color: SecretVolume,
    of_front: SecretVolume,
}

impl Renewal {
    /// Renews both certificates and replaces the trusted authorities by `ca`. Waits until new connections use them.
    async fn replace(&self, color: &Certificate, front: &Certificate, ca: &str) {
        self.of_color.replace_certificate(color, ca);
        let address = self.hosts.direct(PORT);
        // Every handshake of a client that trusts both authorities succeeds, whatever the moment.
        eventually("the new certificate of the listener", async || {
            let stream = connect(&address, COLOR, ca, Some(front)).await;
            stream.is_ok_and(|it| client::presented(&it) == client::der(&color.chain))
        })
        .await;
        self.of_front.replace_certificate(front, ca);
        let serial = serial(front);
        eventually("the new certificate of the caller", async || {
            serials(&self.front).await.contains(&serial)
        })
        .await;
    }

    /// Checks that new connections of the caller succeed: sends more requests at once than there are connections.
    async fn connects_again(&self) {
        let of_cluster = async |name: &str| {
            let name = format!("cluster.cds_egress_shop_color_shop_http_{PORT}.{name}");
            self.front.stat(&name).await.unwrap()
        };
        let before = of_cluster("ssl.handshake").await;
        let requests = of_cluster("upstream_cx_active").await + MORE_CONNECTIONS;
        let requests = (0..requests).map(|_| {
            let address = self.hosts.egress(PORT);
            async move { crate::hosts::status(&address, "color.shop", "/?delay_ms=500").await }
        });
        for status in futures::future::join_all(requests).await {
            assert_eq!(status.unwrap(), 200);
        }
        let after = of_cluster("ssl.handshake").await;
        assert!(after > before, "no new connection");
    }
}

/// The serial number of a certificate, as Envoy shows it.
fn serial(certificate: &Certificate) -> String {
    let der = client::der(&certificate.chain);
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    parsed
        .raw_serial()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The serial numbers of an Envoy's certificates.
async fn serials(envoy: &Envoy) -> Vec<String> {
    let page = envoy.admin().get("/certs").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let certificates = page["certificates"].as_array().unwrap().iter();
    let chains =
        certificates.flat_map(|it| it["cert_chain"].as_array().cloned().unwrap_or_default());
    chains
        .map(|it| it["serial_number"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn renewed_certificates_and_authorities_fail_no_request() {
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
        color(&[listener(PORT, "http", &mutual)]),
        front(&[("color", &policy)]),
        service("color")
    );
    let hosts = TlsHosts::start(EnvoyVersion::Newest, folder, &manifests).await;
    let _color = hosts.color_envoy().await;
    let front = hosts.front_envoy().await;

    let load = Load {
        target: hosts.egress(PORT),
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
        renewal.connects_again().await;
    }
    stop.send(()).unwrap();
    let stats = load.await.unwrap().unwrap();
    assert!(stats.requests() > 0);
    assert_eq!(stats.failed(), 0, "{stats:?}");
    renewal.hosts.has_no_error().await;
}
