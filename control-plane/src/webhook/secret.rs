//! The Secret in which our own certificates are kept, shared by all replicas.
//!
//! Whoever comes first creates it, whoever notices first that something is due renews it, the others read
//! it. Two that write at once are told apart by the API server: a create of what is there and an update of
//! an older version fail, and the loser reads what the winner wrote.
//!
//! Must not keep a certificate to itself: what is served is what the Secret holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Clock,
    authority::{self, CertificateMaterial, CertificatePair},
    certificates::ServingCertificate,
};
use crate::args::NamespacedName;

/// How often it is asked whether anything is due.
const LOOK: Duration = Duration::from_mins(10);
/// How soon a failure is followed by another try.
const RETRY: Duration = Duration::from_secs(1);

const BUNDLE: &str = "ca.crt";
const AUTHORITY: (&str, &str) = ("authority.crt", "authority.key");
const NEXT_AUTHORITY: (&str, &str) = ("next-authority.crt", "next-authority.key");
const SERVING: (&str, &str) = ("tls.crt", "tls.key");

/// Keeps the Secret, and what is served, as they should be.
pub(super) struct CertificateSecret {
    pub(super) client: Client,
    pub(super) reference: NamespacedName,
    pub(super) names: BTreeSet<String>,
    pub(super) clock: Clock,
    pub(super) certificates: Arc<ServingCertificate>,
    pub(super) bundle: watch::Sender<Arc<str>>,
}

impl CertificateSecret {
    pub(super) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let NamespacedName { namespace, name } = &self.reference;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let mut changes = pin!(watch_object(api.clone(), name).default_backoff());
        loop {
            let wait = match self.turn(&api).await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), secret = %self.reference, "the webhooks' certificate");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(_) = changes.next() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads, writes if something is due, and takes into use what is there then.
    async fn turn(&self, api: &Api<Secret>) -> anyhow::Result<()> {
        let secret = api
            .get_opt(&self.reference.name)
            .await
            .context("cannot be read")?;
        let found = secret.as_ref().and_then(read);
        let renewed = authority::renew(found.as_ref(), &self.names, (self.clock)())?;
        let Some(material) = renewed.as_ref().or(found.as_ref()) else {
            return Ok(());
        };
        if renewed.is_some() {
            self.write(api, secret, material).await?;
            tracing::info!(secret = %self.reference, "the webhooks' certificate is renewed");
        }
        self.take(material)
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
            // It carries its resourceVersion: another replica's write in between makes this one fail.
            api.replace(&self.reference.name, &parameters, &secret)
                .await
        }
        .context("cannot be written; another replica may just have done so")?;
        Ok(())
    }

    /// Trust first, then use.
    fn take(&self, material: &CertificateMaterial) -> anyhow::Result<()> {
        let CertificateMaterial {
            bundle, serving, ..
        } = material;
        self.bundle.send_if_modified(|current| {
            let is_modified = **current != **bundle;
            if is_modified {
                *current = Arc::from(bundle.as_str());
            }
            is_modified
        });
        self.certificates
            .replace(serving.certificate.as_bytes(), serving.key.as_bytes())
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

/// What the Secret holds, if it is all there.
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
    fn reads_what_it_writes() {
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
