//! Source of Cloud Map instances: polls the services that virtual nodes name in `spec.serviceDiscovery.awsCloudMap`.
//!
//! Input: the set of wanted services from the engine, and AWS. Output: a [`CloudMapState`] with the healthy instances
//! whenever it changes. One [`poller`] runs per service, however many nodes use it, and stops when no node does. During
//! an outage the last known instances stay, together with the error.
//!
//! This source does not filter by attributes, because each node of a shared service has its own filter.
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

/// Concurrent requests to Cloud Map.
const CONCURRENT_CALLS: usize = 16;
/// Time between the first calls of services that become wanted together: 200 per second, a fifth of AWS's limit for an
/// account.
const START_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone)]
pub struct CloudMapOptions {
    /// URL to call instead of AWS, used exactly as written.
    pub endpoint: Option<String>,
    /// Interval at which the revision of each service is requested.
    pub interval: Duration,
    /// Interval at which the instances are requested although the revision did not change.
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

/// Sends the states of the wanted services until `shutdown`, or until the engine is gone.
pub async fn run(
    options: CloudMapOptions,
    wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    changes: Sender<ChangeBatch>,
    shutdown: CancellationToken,
) {
    // Boxed because the SDK's future for finding credentials is large.
    let polling = Box::pin(poll_wanted(options, wanted, changes));
    shutdown.run_until_cancelled(polling).await;
}

async fn poll_wanted(
    options: CloudMapOptions,
    mut wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    batches: Sender<ChangeBatch>,
) {
    // Without a node in Cloud Map, do not look for AWS credentials: that can take seconds.
    if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
        return;
    }
    let client = Arc::new(DiscoveryClient::connect(&options).await);
    let permits = Arc::new(Semaphore::new(CONCURRENT_CALLS));
    let mut tasks = JoinSet::new();
    let mut running = BTreeMap::new();
    loop {
        let services = Arc::clone(&wanted.borrow_and_update());
        running.retain(|service, task: &mut AbortHandle| {
            let is_wanted = services.contains(service);
            if !is_wanted {
                debug!(%service, "stopped polling a Cloud Map service that no node uses any more");
                task.abort();
            }
            is_wanted
        });
        let mut delay = Duration::ZERO;
        for service in services.iter() {
            running.entry(service.clone()).or_insert_with(|| {
                let poller = Poller::new(service.clone(), &options, &client, &permits, &batches);
                let task = tasks.spawn(poller.run(delay));
                delay += START_INTERVAL;
                task
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            // A poller ends by itself only when the engine is gone; an aborted poller is an error here.
            Some(ended) = tasks.join_next() => if ended.is_ok() { return },
        }
    }
}
