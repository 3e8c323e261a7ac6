//! Source of objects from a Kubernetes cluster (`--kubernetes`). It only reads.
//!
//! Input: one watch per kind, or per kind and namespace with `--watch-namespace`. Output: objects and problems, first all
//! of them and then each change.
//!
//! ```text
//!  watch ──► reflector ──► trim ──► ingest::object::parse ──► ChangeBatch ──► engine
//!                └──► observed: metadata and status ──► status writer, registration
//! ```
//!
//! - A failed watch is restarted after a pause ([`RetryPauses`]). Its last known objects stay in force; only a complete
//!   new list removes objects.
//! - The watches of one kind send at most two requests a second, whatever the API server does ([`throttled`]).
//! - An invalid object keeps its last good version and is reported as a problem.
//! - A change of a status or of `managedFields` is not a change ([`trim`]).
//! - Secrets are watched only in the namespaces that `--secret-namespace` lists, and only those with a label.

mod health;
mod observed;
mod reflector;
mod trim;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use evermesh_model::{Kind, ObjectRef};
use futures::{StreamExt, future::join_all};
use kube::{
    Api, Client,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use self::reflector::Reflector;
pub use self::{
    health::{ApiServerHealth, probe},
    observed::{ObservedObject, ObservedObjects, WatchPosition},
};
use super::{ChangeBatch, SourceChange, SourceName};
use crate::{api_client::throttled, retry::RetryPauses, throttle::LogThrottle};

/// Events that become one batch if they have arrived already, as after a list.
const EVENTS_PER_BATCH: usize = 1024;

/// The label of the Secrets that are watched. All others stay in the API server.
const SECRET_LABEL: &str = "evermesh.dev/certificate=true";

#[derive(Debug, Clone, Default)]
pub struct KubernetesOptions {
    /// Namespaces to watch; empty for all. Cluster-scoped kinds are always watched.
    pub namespaces: Vec<String>,
    /// Namespaces in which Secrets with the label [`SECRET_LABEL`] are watched; empty for none.
    pub secret_namespaces: Vec<String>,
}

impl KubernetesOptions {
    /// The sources that [`run`] completes, one for each watched kind.
    pub fn source_names(&self) -> impl Iterator<Item = SourceName> {
        Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Secret || !self.secret_namespaces.is_empty())
            .map(SourceName::Kubernetes)
    }
}

/// Sends all objects of the watched namespaces and every change until `shutdown`.
pub async fn run(
    client: Client,
    options: KubernetesOptions,
    observed: Arc<ObservedObjects>,
    api_server: Arc<ApiServerHealth>,
    batches: Sender<ChangeBatch>,
    shutdown: CancellationToken,
) {
    let watches = Kind::ALL.into_iter().flat_map(|kind| {
        let apis = apis(&client, &options, kind);
        let of_kind = Arc::new(WatchesOfKind {
            kind,
            missing_lists: AtomicUsize::new(apis.len()),
            failure_log: LogThrottle::once_a_minute(),
        });
        apis.into_iter().map(move |api| (api, Arc::clone(&of_kind)))
    });
    let watches = watches.enumerate().map(|(watch, (api, of_kind))| {
        let task = WatchTask {
            watch,
            of_kind,
            observed: Arc::clone(&observed),
            api_server: Arc::clone(&api_server),
            batches: batches.clone(),
        };
        task.run(api)
    });
    tokio::select! {
        _ = join_all(watches) => {}
        () = shutdown.cancelled() => {}
    }
}

fn apis(client: &Client, options: &KubernetesOptions, kind: Kind) -> Vec<Api<DynamicObject>> {
    let resource = api_resource(kind);
    let namespaces = if kind == Kind::Secret {
        Some(&options.secret_namespaces)
    } else {
        Some(&options.namespaces).filter(|it| kind.is_namespaced() && !it.is_empty())
    };
    let watches = namespaces.map_or(1, Vec::len);
    // A list and a watch for each.
    let client = throttled(client, u32::try_from(2 * watches).unwrap_or(u32::MAX));
    let Some(namespaces) = namespaces else {
        return vec![Api::all_with(client, &resource)];
    };
    let namespaces = namespaces.iter();
    namespaces
        .map(|namespace| Api::namespaced_with(client.clone(), namespace, &resource))
        .collect()
}

/// Group, version, kind and plural of a kind, for the API client.
pub fn api_resource(kind: Kind) -> ApiResource {
    let (group, version) = kind
        .api_version()
        .split_once('/')
        .unwrap_or(("", kind.api_version()));
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(group, version, kind.as_str()),
        kind.plural(),
    )
}

/// The API client for an object, in the object's namespace if its kind is namespaced.
pub fn api_of(client: &Client, object: &ObjectRef) -> Api<DynamicObject> {
    let resource = api_resource(object.kind);
    if object.kind.is_namespaced() {
        Api::namespaced_with(client.clone(), &object.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// State that the watches of a kind share, one for each namespace.
struct WatchesOfKind {
    kind: Kind,
    /// Number of watches whose first list is not complete.
    missing_lists: AtomicUsize,
    failure_log: LogThrottle,
}

/// The task of one watch.
struct WatchTask {
    /// Number of the watch, from 0.
    watch: usize,
    of_kind: Arc<WatchesOfKind>,
    observed: Arc<ObservedObjects>,
    api_server: Arc<ApiServerHealth>,
    batches: Sender<ChangeBatch>,
}

impl WatchTask {
    async fn run(self, api: Api<DynamicObject>) {
        let kind = self.of_kind.kind;
        let config = match kind {
            Kind::Secret => watcher::Config::default().labels(SECRET_LABEL),
            _ => watcher::Config::default(),
        };
        let events = watcher(api, config).backoff(RetryPauses::default());
        let mut events = std::pin::pin!(events.ready_chunks(EVENTS_PER_BATCH));
        let mut reflector = Reflector::new(kind, self.watch, Arc::clone(&self.observed));
        while let Some(events) = events.next().await {
            let noticed = Instant::now();
            let mut changes = Vec::new();
            for event in events {
                let is_listed = match event {
                    Ok(event) => reflector.handle(event, &mut changes),
                    Err(error) => {
                        self.record_failure(&error);
                        reflector.restart_list();
                        reflector.skip_forbidden_list(&error)
                    }
                };
                if is_listed && self.is_last_list() {
                    changes.push(SourceChange::Synced(SourceName::Kubernetes(kind)));
                }
            }
            if changes.is_empty() {
                continue;
            }
            let batch = ChangeBatch {
                noticed,
                position: Some(reflector.position()),
                changes,
            };
            if self.batches.send(batch).await.is_err() {
                return;
            }
        }
    }

    fn record_failure(&self, error: &watcher::Error) {
        let kind = self.of_kind.kind;
        self.api_server.record_watch_failure(kind);
        if let Some(suppressed) = self.of_kind.failure_log.pass() {
            let error = ErrorChain(error);
            tracing::warn!(%kind, %error, suppressed, "watch failed; trying again");
        }
    }

    /// Counts a completed first list. Returns whether it is the last one of its kind.
    fn is_last_list(&self) -> bool {
        self.of_kind.missing_lists.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Displays an error with its causes on one line.
struct ErrorChain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
