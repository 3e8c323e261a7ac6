//! The certificate, key and client authorities of the xDS listener, from files that may change.
//!
//! The files are looked at every [`SWEEP`]. What cannot be used is reported, and the last good settings stay in use.
//!
//! Must not write anything.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::XdsArgs;

const SWEEP: Duration = Duration::from_secs(5);

/// Follows the files.
pub struct XdsTls {
    certificate: PathBuf,
    key: PathBuf,
    authorities: Option<PathBuf>,
    settings: watch::Sender<Arc<ServerConfig>>,
    /// What is in use, or was refused.
    last: Contents,
}

/// What the files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl XdsTls {
    /// Reads the files that are asked for; none if there is to be no TLS.
    pub fn new(args: &XdsArgs) -> anyhow::Result<Option<Self>> {
        let files = args.xds_tls_cert.clone().zip(args.xds_tls_key.clone());
        let Some((certificate, key)) = files else {
            return Ok(None);
        };
        let authorities = args.xds_client_ca.clone();
        let last = Contents::read(&certificate, &key, authorities.as_ref())?;
        let settings = watch::Sender::new(last.settings()?);
        Ok(Some(Self {
            certificate,
            key,
            authorities,
            settings,
            last,
        }))
    }

    /// The newest settings.
    pub fn settings(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.settings.subscribe()
    }

    /// Follows the files until `shutdown`.
    pub async fn follow(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            if let Err(error) = self.look() {
                let error = format!("{error:#}");
                tracing::warn!(%error, "xDS has no usable certificate: the last good one stays in use");
            }
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let authorities = self.authorities.as_ref();
        let now = Contents::read(&self.certificate, &self.key, authorities)?;
        if now == self.last {
            return Ok(());
        }
        self.last = now;
        self.settings.send_replace(self.last.settings()?);
        tracing::info!(file = %self.certificate.display(), "new certificates are in use for xDS");
        Ok(())
    }
}

impl Contents {
    fn read(
        certificate: &PathBuf,
        key: &PathBuf,
        authorities: Option<&PathBuf>,
    ) -> anyhow::Result<Self> {
        let read = |flag: &str, file: &PathBuf| {
            fs::read(file).with_context(|| format!("{flag} {}", file.display()))
        };
        Ok(Self {
            certificate: read("--xds-tls-cert", certificate)?,
            key: read("--xds-tls-key", key)?,
            authorities: authorities
                .map(|file| read("--xds-client-ca", file))
                .transpose()?,
        })
    }

    fn settings(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let chain = certificates(&self.certificate).context("--xds-tls-cert")?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).context("--xds-tls-key is not PEM")?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(authorities).context("--xds-client-ca")? {
                    roots.add(authority).context("--xds-client-ca")?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().context("--xds-client-ca")?)
            }
        };
        let settings = builder.with_single_cert(chain, key);
        let mut settings = settings.context("--xds-tls-cert and --xds-tls-key are no pair")?;
        settings.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(settings))
    }
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .context("not PEM")?;
    ensure!(!certificates.is_empty(), "there is no certificate in it");
    Ok(certificates)
}
