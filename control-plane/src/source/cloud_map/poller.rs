//! One service of Cloud Map, asked again and again.
//!
//! In: a client. Out: the service's state when it changed, and once in any case.
//! The revision is cheap and asked for every time; the instances only when it changed.
//!
//! Must not let go of instances because of a failure: they are what is known.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use evermesh_model::{CloudMapService, CloudMapState, Instance, endpoint::CloudMapFailure};
use tokio::{
    sync::{Semaphore, mpsc::Sender},
    time::sleep,
};
use tracing::{info, warn};

use super::{CloudMapOptions, client::DiscoveryClient};
use crate::source::{ChangeBatch, SourceChange};

/// How many intervals the longest pause has: a minute at the default interval.
const LONGEST_PAUSE: u32 = 12;

/// The task of one service.
#[derive(Debug)]
pub(super) struct Poller {
    service: CloudMapService,
    interval: Duration,
    refresh: Duration,
    client: Arc<DiscoveryClient>,
    permits: Arc<Semaphore>,
    changes: Sender<ChangeBatch>,
    state: Arc<CloudMapState>,
    is_told: bool,
    /// What the instances are the answer to; none if they are to be asked for in any case.
    seen: Option<Seen>,
    /// Failures in a row.
    failures: u32,
}

#[derive(Debug)]
struct Seen {
    revision: i64,
    at: Instant,
}

impl Poller {
    pub(super) fn new(
        service: CloudMapService,
        options: &CloudMapOptions,
        client: &Arc<DiscoveryClient>,
        permits: &Arc<Semaphore>,
        changes: &Sender<ChangeBatch>,
    ) -> Self {
        Self {
            service,
            interval: options.interval,
            refresh: options.refresh,
            client: Arc::clone(client),
            permits: Arc::clone(permits),
            changes: changes.clone(),
            state: Arc::default(),
            is_told: false,
            seen: None,
            failures: 0,
        }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self, delay: Duration) {
        sleep(delay).await;
        loop {
            let answer = self.ask().await;
            if answer.is_err() {
                // What comes after an outage may be another service of the same name, with the same revision.
                self.seen = None;
            }
            let noticed = Instant::now();
            let pause = self.pause(answer.as_ref().err());
            let state = self.next_state(answer);
            if (!self.is_told || state != *self.state) && !self.tell(state, noticed).await {
                return;
            }
            sleep(pause).await;
        }
    }

    /// The instances, or none if they did not change.
    async fn ask(&mut self) -> Result<Option<Vec<Instance>>, CloudMapFailure> {
        // It is never closed; if it were, asking would still be right.
        let _permit = self.permits.acquire().await;
        let revision = self.client.revision(&self.service).await?;
        let is_same =
            |seen: &Seen| revision == Some(seen.revision) && seen.at.elapsed() < self.refresh;
        if self.seen.as_ref().is_some_and(is_same) {
            return Ok(None);
        }
        let instances = self.client.instances(&self.service).await?;
        // A change between the two calls shows as another revision the next time.
        self.seen = revision.map(|revision| Seen {
            revision,
            at: Instant::now(),
        });
        Ok(Some(instances))
    }

    fn next_state(&self, answer: Result<Option<Vec<Instance>>, CloudMapFailure>) -> CloudMapState {
        let known = &self.state.instances;
        match answer {
            Ok(instances) => CloudMapState {
                instances: instances.unwrap_or_else(|| known.clone()),
                failure: None,
            },
            Err(failure) => CloudMapState {
                instances: known.clone(),
                failure: Some(failure),
            },
        }
    }

    /// Longer and longer during an outage, as usual when there is an answer, and never in step with others.
    fn pause(&mut self, failure: Option<&CloudMapFailure>) -> Duration {
        match failure {
            Some(CloudMapFailure::Unavailable(_)) => {
                self.failures = self.failures.saturating_add(1);
                let intervals = 2_u32.saturating_pow(self.failures).min(LONGEST_PAUSE);
                (self.interval * intervals).mul_f64(0.5 + 0.5 * fastrand::f64())
            }
            None | Some(CloudMapFailure::NotFound(_)) => {
                self.failures = 0;
                self.interval.mul_f64(0.9 + 0.2 * fastrand::f64())
            }
        }
    }

    async fn tell(&mut self, state: CloudMapState, noticed: Instant) -> bool {
        match &state.failure {
            Some(failure) => {
                warn!(service = %self.service, ?failure, instances = state.instances.len(), "Cloud Map gave no answer; the last known instances stay");
            }
            None => {
                info!(service = %self.service, instances = state.instances.len(), "Cloud Map's instances");
            }
        }
        self.state = Arc::new(state);
        self.is_told = true;
        let change = SourceChange::CloudMap {
            service: self.service.clone(),
            state: Arc::clone(&self.state),
        };
        let batch = ChangeBatch::new(noticed, vec![change]);
        self.changes.send(batch).await.is_ok()
    }
}
