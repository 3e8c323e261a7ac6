//! The Secret with the certificates that Evermesh creates, shared by all replicas.
//!
//! Each replica reads the Secret, renews expiring parts ([`authority::renew`]), writes the Secret if anything changed,
//! and takes the contents into use. The API server serializes concurrent writes: creating a Secret that exists and
//! replacing an older `resourceVersion` fail, and the replica then reads what the other one wrote. A replica only
//! serves a certificate that the Secret holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::{StreamExt, future::ready};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    authority::{self, CertificateMaterial, CertificatePair},
    certificates::ServingCertificate,
};
use crate::{
    api_client::throttled,
    args::NamespacedName,
    certificate_health::{CertificateHealth, CertificateRole, chain_end},
    retry::RetryPauses,
    server_clock::Clock,
    throttle::LogThrottle,
};

/// Interval between checks for parts to renew.
const RENEWAL_INTERVAL: Duration = Duration::from_mins(10);
/// Requests that may follow each other at once: a list, a watch, a read and a write.
const REQUEST_BURST: u32 = 4;

const BUNDLE: &str = "ca.crt";
const AUTHORITY: (&str, &str) = ("authority.crt", "authority.key");
const NEXT_AUTHORITY: (&str, &str) = ("next-authority.crt", "next-authority.key");
const SERVING: (&str, &str) = ("tls.crt", "tls.key");

/// Keeps the Secret, the certificate in use and the CA bundle up to date.
pub(super) struct CertificateSecret {
    pub(super) client: Client,
    pub(super) reference: NamespacedName,
    pub(super) names: BTreeSet<String>,
    pub(super) clock: Clock,
    pub(super) certificates: Arc<ServingCertificate>,
    /// Whether the xDS server presents the certificate as well.
    pub(super) serves_xds: bool,
    pub(super) health: Arc<CertificateHealth>,
    pub(super) bundle: watch::Sender<Arc<str>>,
}

impl CertificateSecret {
    pub(super) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let NamespacedName { namespace, name } = &self.reference;
        let client = throttled(&self.client, REQUEST_BURST);
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let mut changes = pin!(
            watch_object(api.clone(), name)
                .backoff(RetryPauses::default())
                .filter(|change| ready(change.is_ok()))
        );
        let mut pauses = RetryPauses::default();
        let failure_log = LogThrottle::once_a_minute();
        loop {
            let wait = match self.update(&api).await {
                Ok(()) => RENEWAL_INTERVAL,
                Err(error) => {
                    if let Some(suppressed) = failure_log.pass() {
                        tracing::warn!(error = format!("{error:#}"), secret = %self.reference, suppressed, "cannot update the certificate of the webhooks");
                    }
                    pauses.after_failure()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(_) = changes.next() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads the Secret, renews and writes it if needed, and takes its contents into use.
    async fn update(&self, api: &Api<Secret>) -> anyhow::Result<()> {
        let secret = api
            .get_opt(&self.reference.name)
            .await
            .context("cannot read the Secret")?;
        let found = secret.as_ref().and_then(read);
        let renewed = authority::renew(found.as_ref(), &self.names, (self.clock)())?;
        let Some(material) = renewed.as_ref().or(found.as_ref()) else {
            return Ok(());
        };
        if renewed.is_some() {
            self.write(api, secret, material).await?;
            tracing::info!(secret = %self.reference, "renewed the certificate of the webhooks");
        }
        self.apply(material)
    }

    async fn write(
        &self,
        api: &Api<Secret>,
        current: Option<Secret>,
        material: &CertificateMaterial,
    ) -> anyhow::Result<()> {
        let parameters = PostParams::default();
        let is_new = current.is_none();
        let mut secret = current.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(self.reference.name.clone()),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        });
        secret.data = Some(data(material));
        if is_new {
            api.create(&parameters, &secret).await
        } else {
            // The resourceVersion makes this fail if another replica has written since the read.
            api.replace(&self.reference.name, &parameters, &secret)
                .await
        }
        .context("cannot write the Secret; another replica may have written it at the same time")?;
        Ok(())
    }

    /// Publishes the CA bundle before the certificate that needs it.
    fn apply(&self, material: &CertificateMaterial) -> anyhow::Result<()> {
        let CertificateMaterial {
            authority,
            bundle,
            serving,
            ..
        } = material;
        self.bundle.send_if_modified(|current| {
            let is_modified = **current != **bundle;
            if is_modified {
                *current = Arc::from(bundle.as_str());
            }
            is_modified
        });
        let chain = serving.certificate.as_bytes();
        self.certificates.replace(chain, serving.key.as_bytes())?;
        let set_end = |role, pem| self.health.set_end(role, chain_end(pem));
        set_end(CertificateRole::Webhooks, chain);
        if self.serves_xds {
            set_end(CertificateRole::Xds, chain);
        }
        set_end(
            CertificateRole::OwnAuthority,
            authority.certificate.as_bytes(),
        );
        Ok(())
    }
}

fn data(material: &CertificateMaterial) -> BTreeMap<String, ByteString> {
    let CertificateMaterial {
        authority,
        next_authority,
        bundle,
        serving,
    } = material;
    let pairs = [(AUTHORITY, Some(authority)), (SERVING, Some(serving))];
    let pairs = pairs
        .into_iter()
        .chain([(NEXT_AUTHORITY, next_authority.as_ref())]);
    pairs
        .filter_map(|(names, pair)| Some((names, pair?)))
        .flat_map(|((certificate, key), pair)| [(certificate, &pair.certificate), (key, &pair.key)])
        .chain([(BUNDLE, bundle)])
        .map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes())))
        .collect()
}

/// Reads the contents of the Secret, or `None` if a key is missing.
fn read(secret: &Secret) -> Option<CertificateMaterial> {
    let text = |name: &str| {
        let ByteString(bytes) = secret.data.as_ref()?.get(name)?;
        String::from_utf8(bytes.clone()).ok()
    };
    let pair = |(certificate, key): (&str, &str)| {
        Some(CertificatePair {
            certificate: text(certificate)?,
            key: text(key)?,
        })
    };
    Some(CertificateMaterial {
        authority: pair(AUTHORITY)?,
        next_authority: pair(NEXT_AUTHORITY),
        bundle: text(BUNDLE)?,
        serving: pair(SERVING)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn contents_survive_a_round_trip_through_the_secret() {
        let names = BTreeSet::from(["a.b.svc".to_owned()]);
        let mut material = authority::renew(None, &names, SystemTime::now())
            .unwrap()
            .unwrap();
        for next in [None, Some(material.authority.clone())] {
            material.next_authority = next;
            let secret = Secret {
                data: Some(data(&material)),
                ..Secret::default()
            };
            assert_eq!(read(&secret).as_ref(), Some(&material));
        }
        assert_eq!(read(&Secret::default()), None);
    }
}
