//! Sets the `caBundle` of the webhook configurations, so that the API server trusts the certificate that Evermesh
//! creates.
//!
//! In: the CA bundle from the Secret and a watch of one webhook configuration. Out: a JSON patch of `caBundle` in each
//! webhook that calls the Service of Evermesh or a URL with one of its hosts. The patch tests the name of the webhook,
//! so that it fails if the webhooks have moved since they were read. The other fields belong to the chart.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use anyhow::Context;
use futures::{StreamExt, future::ready};
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
    },
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PatchParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::OwnAuthority;
use crate::{
    api_client::throttled, args::NamespacedName, retry::RetryPauses, throttle::LogThrottle,
};

/// Interval between checks without a change, in case the watch missed one.
const SWEEP: Duration = Duration::from_mins(10);
/// Requests that may follow each other at once: a list, a watch, a read and a patch.
const REQUEST_BURST: u32 = 4;

#[derive(Debug, Clone, Copy)]
pub(super) enum WebhookConfigurationKind {
    Mutating,
    Validating,
}

/// Keeps the CA bundles of one webhook configuration up to date.
pub(super) struct CaBundleUpdater {
    api: Api<DynamicObject>,
    name: String,
    service: NamespacedName,
    hosts: BTreeSet<String>,
    bundle: watch::Receiver<Arc<str>>,
}

impl CaBundleUpdater {
    pub(super) fn new(
        client: &Client,
        kind: WebhookConfigurationKind,
        name: &str,
        own: &OwnAuthority,
        bundle: watch::Receiver<Arc<str>>,
    ) -> Self {
        let resource = match kind {
            WebhookConfigurationKind::Mutating => {
                ApiResource::erase::<MutatingWebhookConfiguration>(&())
            }
            WebhookConfigurationKind::Validating => {
                ApiResource::erase::<ValidatingWebhookConfiguration>(&())
            }
        };
        Self {
            api: Api::all_with(throttled(client, REQUEST_BURST), &resource),
            name: name.to_owned(),
            service: own.service.clone(),
            hosts: own.hosts.clone(),
            bundle,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut changes = pin!(
            watch_object(self.api.clone(), &self.name)
                .backoff(RetryPauses::default())
                .filter(|change| ready(change.is_ok()))
        );
        let mut pauses = RetryPauses::default();
        let failure_log = LogThrottle::once_a_minute();
        loop {
            let wait = match self.update().await {
                Ok(()) => SWEEP,
                Err(error) => {
                    if let Some(suppressed) = failure_log.pass() {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            configuration = self.name,
                            suppressed,
                            "cannot update the caBundle of the webhooks"
                        );
                    }
                    pauses.after_failure()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(_) = changes.next() => {}
                Ok(()) = self.bundle.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn update(&mut self) -> anyhow::Result<()> {
        let bundle = Arc::clone(&self.bundle.borrow_and_update());
        if bundle.is_empty() {
            return Ok(());
        }
        // Without a configuration the API server does not call the webhooks.
        let configuration = self.api.get_opt(&self.name).await;
        let Some(configuration) = configuration.context("cannot read the configuration")? else {
            return Ok(());
        };
        let patch = patch(&configuration.data, &bundle, &self.service, &self.hosts);
        if patch.0.is_empty() {
            return Ok(());
        }
        let patch = kube::api::Patch::Json::<()>(patch);
        self.api
            .patch(&self.name, &PatchParams::default(), &patch)
            .await
            .context("cannot patch the configuration")?;
        tracing::info!(
            configuration = self.name,
            "updated the caBundle of the webhooks"
        );
        Ok(())
    }
}

/// The patch that sets the bundle in each webhook of Evermesh; empty if nothing changes.
fn patch(
    configuration: &Value,
    bundle: &str,
    service: &NamespacedName,
    hosts: &BTreeSet<String>,
) -> Patch {
    let bundle = json!(ByteString(bundle.as_bytes().to_vec()));
    let webhooks = configuration["webhooks"].as_array();
    let mut operations = Vec::new();
    for (index, webhook) in webhooks.into_iter().flatten().enumerate() {
        let client = &webhook["clientConfig"];
        if !is_ours(client, service, hosts) || client["caBundle"] == bundle {
            continue;
        }
        let index = index.to_string();
        operations.push(PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(["webhooks", &index, "name"]),
            value: webhook["name"].clone(),
        }));
        operations.push(PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(["webhooks", &index, "clientConfig", "caBundle"]),
            value: bundle.clone(),
        }));
    }
    Patch(operations)
}

fn is_ours(client: &Value, service: &NamespacedName, hosts: &BTreeSet<String>) -> bool {
    let called = &client["service"];
    let is_service = called["namespace"] == service.namespace && called["name"] == service.name;
    let host = client["url"].as_str().and_then(host);
    is_service || host.is_some_and(|host| hosts.contains(host))
}

/// The host of `https://HOST:PORT/PATH`, for an IPv6 address without its brackets.
fn host(url: &str) -> Option<&str> {
    let authority = url.strip_prefix("https://")?.split('/').next()?;
    match authority.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => authority.split(':').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bundle_of_own_webhooks_is_patched() {
        let ours = json!({ "service": { "namespace": "mesh", "name": "webhook", "path": "/x" } });
        let others = json!({ "service": { "namespace": "other", "name": "webhook" } });
        let by_url = json!({ "url": "https://127.0.0.1:9443/mutate", "caBundle": "b2xk" });
        let right = json!({ "url": "https://[::1]:9443/mutate", "caBundle": "bmV3" });
        let elsewhere = json!({ "url": "https://example.com/mutate" });
        let mut configuration = json!({ "webhooks": [
            { "name": "a", "clientConfig": others },
            { "name": "b", "clientConfig": ours },
            { "name": "c", "clientConfig": by_url },
            { "name": "d", "clientConfig": right },
            { "name": "e", "clientConfig": elsewhere },
        ] });
        let service: NamespacedName = "mesh/webhook".parse().unwrap();
        let hosts = BTreeSet::from(["127.0.0.1".to_owned(), "::1".to_owned()]);
        let patch = |configuration: &Value| super::patch(configuration, "new", &service, &hosts);
        let mut expected = configuration.clone();
        for index in [1, 2] {
            expected["webhooks"][index]["clientConfig"]["caBundle"] = "bmV3".into();
        }
        let operations = patch(&configuration);
        json_patch::patch(&mut configuration, &operations).unwrap();
        assert_eq!(configuration, expected);
        assert_eq!(patch(&configuration), Patch(Vec::new()));
        configuration["webhooks"].as_array_mut().unwrap().remove(0);
        assert!(
            json_patch::patch(&mut configuration, &operations).is_err(),
            "webhooks that moved are not patched by their old index"
        );
    }
}
