//! TLS settings for small graphs.

use std::sync::Arc;

use evermesh_model::{
    CertificateSource, ClientTls, PeerValidation, SecretName, ServerTls, TrustSource,
};

/// The number of settings that [`server`] returns.
pub const SERVERS: usize = 5;
/// The number of policies that [`policy`] returns.
pub const POLICIES: usize = 6;

fn file() -> CertificateSource {
    CertificateSource::File {
        chain: "/tls/tls.crt".into(),
        private_key: "/tls/tls.key".into(),
    }
}

fn secret(name: &str) -> SecretName {
    SecretName {
        namespace: "ns".into(),
        name: name.into(),
    }
}

fn validation(trust: TrustSource, names: &[&str]) -> PeerValidation {
    PeerValidation {
        trust,
        subject_names: names.iter().map(|name| (*name).into()).collect(),
    }
}

/// TLS of a listener: none, and settings with every mode and source.
pub fn server(number: usize) -> Option<ServerTls> {
    let (allows_plaintext, certificate, client_validation) = match number {
        0 => return None,
        1 => (false, file(), None),
        2 => {
            let trust = TrustSource::File("/tls/ca.crt".into());
            (true, file(), Some(validation(trust, &["a.ns"])))
        }
        3 => (true, CertificateSource::Sds("a".into()), None),
        _ => {
            let trust = TrustSource::Stored(vec![secret("a"), secret("b")]);
            let certificate = CertificateSource::Stored(secret("a"));
            (false, certificate, Some(validation(trust, &[])))
        }
    };
    Some(ServerTls {
        allows_plaintext,
        certificate,
        client_validation,
    })
}

/// A client policy: none, and policies with every source. Two differ only in their ports.
pub fn policy(number: usize) -> Option<Arc<ClientTls>> {
    let (enforce, ports, certificate, validation) = match number {
        0 => return None,
        1 | 2 => {
            let trust = TrustSource::File("/tls/ca.crt".into());
            let ports = (number == 1).then(|| [80, 6379].into());
            (true, ports, Some(file()), validation(trust, &[]))
        }
        3 => {
            let trust = TrustSource::File("/tls/ca.crt".into());
            (false, None, None, validation(trust, &[]))
        }
        4 => {
            let trust = TrustSource::Sds("ca".into());
            let certificate = CertificateSource::Sds("b".into());
            let names = ["spiffe://ns/a"];
            (false, None, Some(certificate), validation(trust, &names))
        }
        _ => {
            let trust = TrustSource::Stored(vec![secret("a")]);
            (true, Some([8080].into()), None, validation(trust, &[]))
        }
    };
    Some(Arc::new(ClientTls {
        enforce,
        ports,
        certificate,
        validation,
    }))
}
