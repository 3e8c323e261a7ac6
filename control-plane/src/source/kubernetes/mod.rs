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
//! - A failed watch is restarted with backoff. Its last known objects stay in force; only a complete new list removes
//!   objects.
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
    time::{Duration, Instant},
};

use evermesh_model::{Kind, ObjectRef};
use futures::{
    Stream, StreamExt, TryStreamExt,
    future::{join_all, ready},
};
use kube::{
    Api, Client,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff, watcher},
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

/// Events that become one batch if they have arrived already, as after a list.
const EVENTS_PER_BATCH: usize = 1024;

/// The label of the Secrets that are watched. All others stay in the API server.
const SECRET_LABEL: &str = "evermesh.dev/certificate=true";

/// The first and the longest pause after a failed watch.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

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
        let missing_lists = Arc::new(AtomicUsize::new(apis.len()));
        apis.into_iter()
            .map(move |api| (kind, api, Arc::clone(&missing_lists)))
    });
    let watches = watches
        .enumerate()
        .map(|(watch, (kind, api, missing_lists))| {
            let task = WatchTask {
                watch,
                kind,
                missing_lists,
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
        &options.secret_namespaces
    } else if !kind.is_namespaced() || options.namespaces.is_empty() {
        return vec![Api::all_with(client.clone(), &resource)];
    } else {
        &options.namespaces
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

/// The task of one watch.
struct WatchTask {
    /// Number of the watch, from 0.
    watch: usize,
    kind: Kind,
    /// Number of watches of this kind whose first list is not complete.
    missing_lists: Arc<AtomicUsize>,
    observed: Arc<ObservedObjects>,
    api_server: Arc<ApiServerHealth>,
    batches: Sender<ChangeBatch>,
}

impl WatchTask {
    async fn run(self, api: Api<DynamicObject>) {
        let config = match self.kind {
            Kind::Secret => watcher::Config::default().labels(SECRET_LABEL),
            _ => watcher::Config::default(),
        };
        let events = with_pauses(watcher(api, config));
        let mut events = std::pin::pin!(events.ready_chunks(EVENTS_PER_BATCH));
        let mut reflector = Reflector::new(self.kind, self.watch, Arc::clone(&self.observed));
        while let Some(events) = events.next().await {
            let noticed = Instant::now();
            let mut changes = Vec::new();
            for event in events {
                match event {
                    Ok(event) => {
                        if reflector.handle(event, &mut changes) && self.is_last_list() {
                            changes.push(SourceChange::Synced(SourceName::Kubernetes(self.kind)));
                        }
                    }
                    Err(error) => {
                        self.api_server.record_watch_failure(self.kind);
                        tracing::warn!(kind = %self.kind, error = %ErrorChain(&error), "watch failed; trying again");
                        reflector.restart_list();
                        if reflector.skip_forbidden_list(&error) && self.is_last_list() {
                            changes.push(SourceChange::Synced(SourceName::Kubernetes(self.kind)));
                        }
                    }
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

    /// Counts a completed first list. Returns whether it is the last one of its kind.
    fn is_last_list(&self) -> bool {
        self.missing_lists.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// The events of a watch, with a pause after each error.
///
/// The pause becomes longer until an event arrives. [`Event::Init`], which precedes every attempt to list the objects,
/// does not count and is left out.
fn with_pauses(
    events: impl Stream<Item = watcher::Result<Event<DynamicObject>>>,
) -> impl Stream<Item = watcher::Result<Event<DynamicObject>>> {
    let backoff = ExponentialBackoff::from(
        backon::ExponentialBuilder::default()
            .with_min_delay(BACKOFF.0)
            .with_max_delay(BACKOFF.1)
            .with_jitter()
            .without_max_times(),
    );
    let events = events.try_filter(|event| ready(!matches!(event, Event::Init)));
    events.backoff(backoff)
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
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pause_after_failed_lists_becomes_longer() {
        let attempt = || [Ok(Event::Init), Err(watcher::Error::NoResourceVersion)];
        let events = (0..10).flat_map(|_| attempt());
        let events = with_pauses(stream::iter(events));
        let started = tokio::time::Instant::now();
        let received: Vec<_> = events.collect().await;
        assert_eq!(received.len(), 10);
        // At least 0.1, 0.2, 0.4 s and so on, instead of 0.1 s each time.
        assert!(started.elapsed() > Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn event_ends_the_growth_of_the_pause() {
        let attempt = || [Ok(Event::InitDone), Err(watcher::Error::NoResourceVersion)];
        let events = (0..10).flat_map(|_| attempt());
        let started = tokio::time::Instant::now();
        with_pauses(stream::iter(events)).collect::<Vec<_>>().await;
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
