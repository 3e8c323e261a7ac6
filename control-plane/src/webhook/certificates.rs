//! The TLS certificate that the webhooks present, and the xDS server with `--xds-tls-service`.
//!
//! A TLS handshake uses the certificate that is loaded when it begins; open connections are not affected by a
//! replacement. Handshakes fail until the first certificate is loaded.

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

/// The certificate in use, which can be replaced while connections are open.
#[derive(Debug, Default)]
pub struct ServingCertificate(ArcSwapOption<CertifiedKey>);

impl ServingCertificate {
    /// Whether a certificate is loaded. Once true, it stays true.
    pub fn is_loaded(&self) -> bool {
        self.0.load().is_some()
    }

    /// Replaces the certificate with this PEM chain and key.
    ///
    /// # Errors
    /// The PEM cannot be parsed or the key does not match. The previous certificate then stays in use.
    pub(super) fn replace(&self, chain: &[u8], key: &[u8]) -> anyhow::Result<()> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .context("the certificate is not valid PEM")?;
        anyhow::ensure!(!chain.is_empty(), "the PEM holds no certificate");
        let key = PrivateKeyDer::from_pem_slice(key).context("the key is not valid PEM")?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider)
            .context("the certificate is for a different key")?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Whether this PEM chain is in use.
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

    /// TLS settings of a server that always presents the newest certificate and speaks these protocols (ALPN).
    pub(crate) fn server_config(
        self: Arc<Self>,
        protocols: &[&[u8]],
    ) -> anyhow::Result<ServerConfig> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(self);
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Ok(config)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
