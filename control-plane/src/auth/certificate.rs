//! Reads the proxies and workloads that a client certificate names in its URI subject alternative names.
//!
//! TLS has verified the certificate against `--xds-client-ca` before. The trust domain of a SPIFFE ID is ignored,
//! because that flag already decides which authorities are trusted.

use std::fmt;

use evermesh_ingest::identity::WorkloadIdentity;
use evermesh_model::ResourceName;
use http::request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// SPIFFE IDs of a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CertificateNames {
    /// `spiffe://DOMAIN/mesh/M/virtualNode/N`
    pub(super) proxies: Vec<ResourceName>,
    /// `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`
    pub(super) workloads: Vec<WorkloadIdentity>,
}

impl fmt::Display for CertificateNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxies = self.proxies.iter().map(ToString::to_string);
        let workloads = self.workloads.iter().map(ToString::to_string);
        let names: Vec<String> = proxies.chain(workloads).collect();
        write!(f, "the certificate names [{}]", names.join(", "))
    }
}

/// The names in the client certificate of a stream's connection; empty without a client certificate.
pub(super) fn names(parts: &request::Parts) -> CertificateNames {
    let connection = parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    let chain = connection.and_then(TlsConnectInfo::peer_certs);
    let first = chain.as_ref().and_then(|chain| chain.first());
    first.map_or_else(CertificateNames::default, |certificate| read(certificate))
}

fn read(certificate: &[u8]) -> CertificateNames {
    let mut names = CertificateNames::default();
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return names;
    };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return names;
    };
    for name in &alternatives.value.general_names {
        let GeneralName::URI(uri) = name else {
            continue;
        };
        names.add(uri);
    }
    names
}

impl CertificateNames {
    pub(super) fn is_empty(&self) -> bool {
        self.proxies.is_empty() && self.workloads.is_empty()
    }

    fn add(&mut self, uri: &str) {
        let Some((_domain, path)) = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
        else {
            return;
        };
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["ns", namespace, "sa", account] if !namespace.is_empty() && !account.is_empty() => {
                self.workloads.push(WorkloadIdentity::Account {
                    namespace: (*namespace).into(),
                    name: (*account).into(),
                });
            }
            ["mesh", ..] => self.proxies.extend(path.parse::<ResourceName>().ok()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn only_spiffe_ids_of_proxies_and_accounts_are_read() {
        let mut params = CertificateParams::new(["front.shop.svc".to_owned()]).unwrap();
        for uri in [
            "spiffe://cluster.local/ns/shop/sa/front",
            "spiffe://demo/mesh/demo/virtualNode/front_demo",
            "https://demo/mesh/demo/virtualNode/other_demo",
            "spiffe://demo/mesh/demo/virtualNode/",
            "spiffe://demo/ns/shop/sa/",
            "spiffe://demo",
        ] {
            let uri = SanType::URI(uri.try_into().unwrap());
            params.subject_alt_names.push(uri);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let expected = CertificateNames {
            proxies: vec!["mesh/demo/virtualNode/front_demo".parse().unwrap()],
            workloads: vec![WorkloadIdentity::Account {
                namespace: "shop".into(),
                name: "front".into(),
            }],
        };
        assert_eq!(read(certificate.der()), expected);
        assert_eq!(read(b"not a certificate"), CertificateNames::default());
    }
}
