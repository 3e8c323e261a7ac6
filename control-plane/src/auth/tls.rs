//! TLS settings of the xDS listener: with the certificate that Evermesh creates (`--xds-tls-service`), or from the files of
//! `--xds-tls-cert`, `--xds-tls-key` and `--xds-client-ca`.
//!
//! The settings follow the files. Contents that cannot be used are logged, and the last good settings stay in use.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    args::XdsArgs,
    certificate_health::{CertificateHealth, CertificateRole, authorities_end, chain_end},
    reload::{FileReloader, WatchedFiles},
    webhook::ServingCertificate,
};

/// The protocol of gRPC, as ALPN names it.
const HTTP2: &[u8] = b"h2";

/// TLS settings of the xDS listener and the reloader of their files.
pub struct XdsTls {
    settings: watch::Receiver<Arc<ServerConfig>>,
    /// Absent if Evermesh creates the certificate.
    reloader: Option<FileReloader>,
}

impl XdsTls {
    /// Uses `own`, the certificate that Evermesh creates, or the files that the flags name; `None` if no flag turns TLS on.
    ///
    /// # Errors
    /// A file cannot be read, or its contents cannot be used.
    pub fn new(
        args: &XdsArgs,
        own: &Arc<ServingCertificate>,
        health: &Arc<CertificateHealth>,
    ) -> anyhow::Result<Option<Self>> {
        if args.xds_tls_service.is_some() {
            let config = Arc::clone(own).server_config(&[HTTP2])?;
            let (_, settings) = watch::channel(Arc::new(config));
            return Ok(Some(Self {
                settings,
                reloader: None,
            }));
        }
        let files = args.xds_tls_cert.clone().zip(args.xds_tls_key.clone());
        let Some((certificate, key)) = files else {
            return Ok(None);
        };
        let mut files = vec![("--xds-tls-cert", certificate), ("--xds-tls-key", key)];
        files.extend(args.xds_client_ca.clone().map(|it| ("--xds-client-ca", it)));
        let files = WatchedFiles::new(CertificateRole::Xds, files, health);
        let contents = files.read()?;
        let sender = watch::Sender::new(server_config(&contents)?);
        record_ends(&contents, health);
        let settings = sender.subscribe();
        let health = Arc::clone(health);
        let reloader = files.reloader(Some(contents), move |contents| {
            sender.send_replace(server_config(contents)?);
            record_ends(contents, &health);
            Ok(())
        });
        Ok(Some(Self {
            settings,
            reloader: Some(reloader),
        }))
    }

    pub fn settings(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.settings.clone()
    }

    /// Reloads changed files until `shutdown`.
    pub async fn follow(self, shutdown: CancellationToken) {
        match self.reloader {
            Some(reloader) => reloader.run(shutdown).await,
            None => shutdown.cancelled().await,
        }
    }
}

fn record_ends(contents: &[Vec<u8>], health: &CertificateHealth) {
    let chain = contents.first().and_then(|it| chain_end(it));
    health.set_end(CertificateRole::Xds, chain);
    let authorities = contents.get(2).and_then(|it| authorities_end(it));
    health.set_end(CertificateRole::XdsClientAuthorities, authorities);
}

/// `contents` are the certificate chain, its key and, if clients need a certificate, the CA certificates for them.
fn server_config(contents: &[Vec<u8>]) -> anyhow::Result<Arc<ServerConfig>> {
    let [chain, key, authorities @ ..] = contents else {
        bail!("a certificate and a key are needed");
    };
    let chain = certificates(chain).context("--xds-tls-cert")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .context("--xds-tls-key: the file does not hold a PEM private key")?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match authorities.first() {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities).context("--xds-client-ca")? {
                roots.add(authority).context("--xds-client-ca")?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().context("--xds-client-ca")?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).context(
        "--xds-tls-cert and --xds-tls-key do not match: the certificate is for a different key",
    )?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .context("the file is not valid PEM")?;
    ensure!(!certificates.is_empty(), "the file holds no certificate");
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn certificate_for_a_different_key_is_rejected() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem();
        let contents = |key: &KeyPair| vec![certificate.clone().into(), key.serialize_pem().into()];
        server_config(&contents(&key)).unwrap();
        let other = KeyPair::generate().unwrap();
        let error = format!("{:#}", server_config(&contents(&other)).unwrap_err());
        assert!(error.contains("do not match"), "{error}");
    }
}
