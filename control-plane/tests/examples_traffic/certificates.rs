//! Certificates for the hosts of an example, and the secret discovery service of a SPIRE agent.

use std::{fs, net::IpAddr, path::Path};

use evermesh_model::{CertificateSource, ClientTls, Graph, PeerValidation, ServerTls, TrustSource};
use evermesh_testkit::authority::{TestAuthority, TestCertificate};
use rcgen::SanType;

use crate::sds;

/// The authority of an example.
pub(crate) struct Authority(TestAuthority);

impl Authority {
    pub(crate) fn new() -> Self {
        Self(TestAuthority::new().unwrap())
    }

    fn sign(&self, names: impl IntoIterator<Item = SanType>) -> TestCertificate {
        self.0.sign(names).unwrap()
    }

    /// Writes `ca.crt`, and `tls.crt` and `tls.key` for these DNS names.
    pub(crate) fn write_for_names(&self, folder: &Path, names: &[&str]) {
        let names = names
            .iter()
            .map(|&name| SanType::DnsName(name.try_into().unwrap()));
        self.write(folder, &self.sign(names));
    }

    /// Like [`Self::write_for_names`], for an address.
    pub(crate) fn write_for_address(&self, folder: &Path, address: IpAddr) {
        self.write(folder, &self.sign([SanType::IpAddress(address)]));
    }

    fn write(&self, folder: &Path, certificate: &TestCertificate) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in [
            ("ca.crt", self.0.pem()),
            ("tls.crt", &*certificate.chain),
            ("tls.key", &*certificate.key),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    /// Serves the secrets of SDS that the nodes name, on a Unix socket. Returns whether there are any.
    pub(crate) fn serve_sds(&self, graph: &Graph, socket: &Path) -> bool {
        let mut secrets = Vec::new();
        let mut own = |source: Option<&CertificateSource>| {
            if let Some(CertificateSource::Sds(id)) = source {
                let uri = SanType::URI((&**id).try_into().unwrap());
                secrets.push((id.to_string(), sds::certificate(&self.sign([uri]))));
            }
        };
        let mut trusted = Vec::new();
        let mut peers = |validation: Option<&PeerValidation>| {
            if let Some(PeerValidation {
                trust: TrustSource::Sds(domain),
                ..
            }) = validation
            {
                trusted.push((domain.to_string(), sds::authorities(self.0.pem())));
            }
        };
        for node in graph.nodes.values() {
            for ServerTls {
                certificate,
                client_validation,
                ..
            } in node
                .listeners
                .iter()
                .filter_map(|listener| listener.tls.as_ref())
            {
                own(Some(certificate));
                peers(client_validation.as_ref());
            }
            for ClientTls {
                certificate,
                validation,
                ..
            } in node
                .backends
                .iter()
                .filter_map(|backend| backend.tls.as_deref())
            {
                own(certificate.as_ref());
                peers(Some(validation));
            }
        }
        secrets.extend(trusted);
        let secrets: Vec<_> = secrets
            .iter()
            .map(|(name, secret)| (name.as_str(), secret.clone()))
            .collect();
        let is_used = !secrets.is_empty();
        if is_used {
            sds::serve(socket, secrets);
        }
        is_used
    }
}
