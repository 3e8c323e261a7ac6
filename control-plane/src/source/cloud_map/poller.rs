//! Polls one Cloud Map service.
//!
//! Each round requests the service's revision, which is cheap, and requests the instances only if the revision changed or
//! the last request is older than [`CloudMapOptions::refresh`]. The state is sent once in any case and then whenever it
//! changes. A failure never removes instances.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use evermesh_model::{CloudMapService, CloudMapState, endpoint::CloudMapFailure};
use tokio::{
    sync::{Semaphore, mpsc::Sender},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    CloudMapOptions,
    client::{DiscoveryClient, Instances},
};
use crate::source::{ChangeBatch, SourceChange};

/// Longest pause during an outage, in intervals: 60 s with the default interval.
const LONGEST_PAUSE: u32 = 12;
/// Time limit for the first answer, which also covers the wait for other services' calls: Evermesh serves nothing before
/// every service has a state.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Poller {
    service: CloudMapService,
    interval: Duration,
    refresh: Duration,
    client: Arc<DiscoveryClient>,
    permits: Arc<Semaphore>,
    changes: Sender<ChangeBatch>,
    state: Arc<CloudMapState>,
    is_sent: bool,
    /// The last successful request for instances; `None` if the next round has to request them.
    fetched: Option<Fetched>,
    /// Consecutive failures.
    failures: u32,
}

#[derive(Debug)]
struct Fetched {
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
            is_sent: false,
            fetched: None,
            failures: 0,
        }
    }

    /// Runs until the engine is gone.
    pub(super) async fn run(mut self, delay: Duration) {
        sleep(delay).await;
        loop {
            let answer = if self.is_sent {
                self.fetch().await
            } else {
                let first = timeout(FIRST_ANSWER, self.fetch()).await;
                first.unwrap_or_else(|_| {
                    let error = format!("no answer within {FIRST_ANSWER:?}");
                    Err(CloudMapFailure::Unavailable(error))
                })
            };
            if answer.is_err() {
                // After an outage the service may be another one with the same name and revision.
                self.fetched = None;
            }
            let noticed = Instant::now();
            let pause = self.pause(answer.as_ref().err());
            let state = self.next_state(answer);
            if (!self.is_sent || state != *self.state) && !self.send(state, noticed).await {
                return;
            }
            sleep(pause).await;
        }
    }

    /// Fetches the instances; `None` if they did not change.
    async fn fetch(&mut self) -> Result<Option<Instances>, CloudMapFailure> {
        // The semaphore is never closed; without a permit the request would still be correct.
        let _permit = self.permits.acquire().await;
        let revision = self.client.revision(&self.service).await?;
        let is_current = |fetched: &Fetched| {
            revision == Some(fetched.revision) && fetched.at.elapsed() < self.refresh
        };
        if self.fetched.as_ref().is_some_and(is_current) {
            return Ok(None);
        }
        let instances = self.client.instances(&self.service).await?;
        // After a change between the two calls, the next round sees another revision.
        self.fetched = revision.map(|revision| Fetched {
            revision,
            at: Instant::now(),
        });
        Ok(Some(instances))
    }

    fn next_state(&self, answer: Result<Option<Instances>, CloudMapFailure>) -> CloudMapState {
        let known = &*self.state;
        match answer {
            Ok(Some(Instances { found, is_full })) => CloudMapState {
                instances: found,
                is_full,
                failure: None,
            },
            Ok(None) => CloudMapState {
                failure: None,
                ..known.clone()
            },
            Err(failure) => CloudMapState {
                failure: Some(failure),
                ..known.clone()
            },
        }
    }

    /// The pause before the next round: the interval, or exponential backoff during an outage, both with jitter.
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

    /// Sends a new state. Returns false if the engine is gone.
    async fn send(&mut self, state: CloudMapState, noticed: Instant) -> bool {
        match &state.failure {
            Some(CloudMapFailure::NotFound(error) | CloudMapFailure::Unavailable(error)) => {
                warn!(service = %self.service, %error, instances = state.instances.len(), "cannot read a Cloud Map service; its last known instances stay in force");
            }
            None => {
                info!(service = %self.service, instances = state.instances.len(), "read a Cloud Map service");
            }
        }
        self.state = Arc::new(state);
        self.is_sent = true;
        let change = SourceChange::CloudMap {
            service: self.service.clone(),
            state: Arc::clone(&self.state),
        };
        let batch = ChangeBatch::new(noticed, vec![change]);
        self.changes.send(batch).await.is_ok()
    }
}
