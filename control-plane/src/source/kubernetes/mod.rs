//! The objects of a cluster, watched through its API.
//!
//! In: one watch per kind, or per kind and namespace, resumed where it broke off. Out: their objects and their
//! problems, once as a whole and then change by change.
//!
//! - A watch that fails is taken up again with backoff. What it knew stays in force meanwhile; only a complete new
//!   list says that an object is gone.
//! - An object that cannot be read keeps its last good version and is reported; the watch goes on.
//! - Status and bookkeeping of others do not pass: a change of them is no change ([`trim`] has the rule).
//!
//! Must not write to the API.

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
use futures::{StreamExt, future::join_all};
use kube::{
    Api, Client,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, ExponentialBackoff, watcher},
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

/// Events taken together when they are there already, as after a list.
const EVENTS: usize = 1024;

/// The first pause after a watch failed, and the longest. An API server that restarts is back in seconds.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What is watched.
#[derive(Debug, Clone, Default)]
pub struct KubernetesOptions {
    /// The namespaces whose objects count; all when empty. Cluster-scoped kinds are watched whole in any case.
    pub namespaces: Vec<String>,
}

/// The sources that [`run`] makes complete, one for each kind.
pub fn source_names() -> impl Iterator<Item = SourceName> {
    Kind::ALL.into_iter().map(SourceName::Kubernetes)
}

/// Tells what is in the cluster, and what changes, until `shutdown`.
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
        let lists = Arc::new(AtomicUsize::new(apis.len()));
        apis.into_iter()
            .map(move |api| (kind, api, Arc::clone(&lists)))
    });
    let watches = watches.enumerate().map(|(watch, (kind, api, lists))| {
        let follower = Follower {
            watch,
            kind,
            lists,
            observed: Arc::clone(&observed),
            api_server: Arc::clone(&api_server),
            batches: batches.clone(),
        };
        follower.follow(api)
    });
    tokio::select! {
        _ = join_all(watches) => {}
        () = shutdown.cancelled() => {}
    }
}

fn apis(client: &Client, options: &KubernetesOptions, kind: Kind) -> Vec<Api<DynamicObject>> {
    let resource = api_resource(kind);
    if !kind.is_namespaced() || options.namespaces.is_empty() {
        return vec![Api::all_with(client.clone(), &resource)];
    }
    let namespaces = options.namespaces.iter();
    namespaces
        .map(|namespace| Api::namespaced_with(client.clone(), namespace, &resource))
        .collect()
}

/// How the API names a kind.
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

/// The API of an object, in its namespace if it has one.
pub fn api_of(client: &Client, object: &ObjectRef) -> Api<DynamicObject> {
    let resource = api_resource(object.kind);
    if object.kind.is_namespaced() {
        Api::namespaced_with(client.clone(), &object.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// One watch.
struct Follower {
    /// Counts up from 0.
    watch: usize,
    kind: Kind,
    /// Watches of this kind that have not listed yet.
    lists: Arc<AtomicUsize>,
    observed: Arc<ObservedObjects>,
    api_server: Arc<ApiServerHealth>,
    batches: Sender<ChangeBatch>,
}

impl Follower {
    async fn follow(self, api: Api<DynamicObject>) {
        let backoff = ExponentialBackoff::from(
            backon::ExponentialBuilder::default()
                .with_min_delay(BACKOFF.0)
                .with_max_delay(BACKOFF.1)
                .with_jitter()
                .without_max_times(),
        );
        let events = watcher(api, watcher::Config::default()).backoff(backoff);
        let mut events = std::pin::pin!(events.ready_chunks(EVENTS));
        let mut reflector = Reflector::new(self.kind, self.watch, Arc::clone(&self.observed));
        while let Some(events) = events.next().await {
            let noticed = Instant::now();
            let mut changes = Vec::new();
            for event in events {
                match event {
                    Ok(event) => {
                        if reflector.take(event, &mut changes) && self.is_last_list() {
                            changes.push(SourceChange::Synced(SourceName::Kubernetes(self.kind)));
                        }
                    }
                    Err(error) => {
                        self.api_server.record_watch_failure(self.kind);
                        tracing::warn!(kind = %self.kind, error = %Chain(&error), "watch failed; trying again");
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

    fn is_last_list(&self) -> bool {
        self.lists.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
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
