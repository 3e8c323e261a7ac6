//! Cloud Map: the healthy instances of the services that nodes name.
//!
//! In: the set of services that are wanted, and AWS. Out: a [`CloudMapState`] whenever it changed.
//! One [`poller`] a service, however many nodes use it. An outage keeps the last known instances and says why;
//! a service that is not wanted any more is forgotten.
//!
//! Must not filter by attributes: nodes that share a service do so each in their own way.
//!
//! [`CloudMapState`]: evermesh_model::CloudMapState

mod client;
mod poller;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evermesh_model::CloudMapService;
use tokio::{
    sync::{Semaphore, mpsc::Sender, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub(crate) use self::client::CloudMapConnection;
use self::{client::DiscoveryClient, poller::Poller};
use super::ChangeBatch;

/// Calls at a time.
const CONCURRENCY: usize = 16;
/// Between the first calls of services that are wanted at once: 200 a second, a fifth of what AWS allows an account.
const SPREAD: Duration = Duration::from_millis(5);

/// How to reach Cloud Map.
#[derive(Debug, Clone)]
pub struct CloudMapOptions {
    /// A URL to call instead of AWS, exactly as it is written.
    pub endpoint: Option<String>,
    /// How often to ask for the revision of each service.
    pub interval: Duration,
    /// How often to ask for the instances even if the revision did not change: a safety net.
    pub refresh: Duration,
}

impl Default for CloudMapOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            interval: Duration::from_secs(5),
            refresh: Duration::from_mins(1),
        }
    }
}

/// Tells the state of the wanted services until `shutdown`, or until nobody wants or listens any more.
pub async fn run(
    options: CloudMapOptions,
    wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    changes: Sender<ChangeBatch>,
    shutdown: CancellationToken,
) {
    // Boxed, since what the SDK keeps while it looks for credentials is large.
    let follow = Box::pin(follow(options, wanted, changes));
    shutdown.run_until_cancelled(follow).await;
}

async fn follow(
    options: CloudMapOptions,
    mut wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    batches: Sender<ChangeBatch>,
) {
    // Whoever has no Cloud Map must not wait for AWS credentials.
    if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
        return;
    }
    let client = Arc::new(DiscoveryClient::connect(&options).await);
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::new();
    loop {
        let services = Arc::clone(&wanted.borrow_and_update());
        running.retain(|service, task: &mut AbortHandle| {
            let is_wanted = services.contains(service);
            if !is_wanted {
                debug!(%service, "the Cloud Map service is not wanted any more");
                task.abort();
            }
            is_wanted
        });
        let mut delay = Duration::ZERO;
        for service in services.iter() {
            running.entry(service.clone()).or_insert_with(|| {
                let poller = Poller::new(service.clone(), &options, &client, &permits, &batches);
                let task = tasks.spawn(poller.run(delay));
                delay += SPREAD;
                task
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            // Pollers end when nobody listens, or because they were told to.
            Some(ended) = tasks.join_next() => if ended.is_ok() { return },
        }
    }
}
