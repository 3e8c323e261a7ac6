//! The certificate in use: read from PEM, exchanged while connections are open.
//!
//! A handshake takes whichever is there when it begins; a connection keeps its own. Before the first one
//! is there, every handshake fails.
//!
//! Must not know where certificates come from.

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The certificate in use.
#[derive(Debug, Default)]
pub struct ServingCertificate(ArcSwapOption<CertifiedKey>);

impl ServingCertificate {
    /// Whether there is one. From then on there always is.
    pub fn is_loaded(&self) -> bool {
        self.0.load().is_some()
    }

    /// Takes another certificate into use, unless it does not fit its key.
    pub(super) fn replace(&self, chain: &[u8], key: &[u8]) -> anyhow::Result<()> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .context("the certificate is not PEM")?;
        anyhow::ensure!(!chain.is_empty(), "there is no certificate in the PEM");
        let key = PrivateKeyDer::from_pem_slice(key).context("the key is not PEM")?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider)
            .context("certificate and key are no pair")?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Whether this certificate is the one in use.
    #[cfg(test)]
    pub(super) fn serves(&self, chain: &[u8]) -> bool {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .map(Result::unwrap)
            .collect();
        let current = self.0.load();
        current
            .as_ref()
            .is_some_and(|current| current.cert == chain)
    }

    /// A server's TLS settings that always use the newest certificate.
    pub(super) fn server_config(self: Arc<Self>) -> anyhow::Result<ServerConfig> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
