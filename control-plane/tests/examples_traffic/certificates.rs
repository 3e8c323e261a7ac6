//! Certificates for the hosts of an example, and the secret discovery service of a SPIRE agent.

use std::{fs, net::IpAddr, path::Path};

use evermesh_model::{CertificateSource, ClientTls, Graph, PeerValidation, ServerTls, TrustSource};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::sds;

/// The authority of an example.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its private key, both PEM.
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate with the name of its issuer counts as self-signed.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn sign(&self, names: impl IntoIterator<Item = SanType>) -> Certificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names.extend(names);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
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

    fn write(&self, folder: &Path, certificate: &Certificate) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in [
            ("ca.crt", &self.pem),
            ("tls.crt", &certificate.chain),
            ("tls.key", &certificate.key),
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
                trusted.push((domain.to_string(), sds::authorities(&self.pem)));
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
