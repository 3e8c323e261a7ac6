//! Health of the API server.
//!
//! A quiet watch and a dead watch look the same, so a task requests the API server's version every 5 s. While the API
//! server does not answer, everything keeps being served; `/readyz` and the metric `evermesh_kubernetes_silent_seconds`
//! show for how long.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use evermesh_model::Kind;
use kube::Client;
use parking_lot::Mutex;
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::throttle::LogThrottle;

/// Interval of the probes.
const INTERVAL: Duration = Duration::from_secs(5);

/// Health of the API server, shared by the watches, the probe and the admin pages.
#[derive(Debug, Default)]
pub struct ApiServerHealth {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Time of the last answered probe.
    answered_at: Option<Instant>,
    is_silent: bool,
    /// Number of failed watches.
    watch_failures: BTreeMap<Kind, u64>,
}

impl ApiServerHealth {
    /// Time since the last answer; `None` while the API server answers.
    pub fn silent_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        let since = state.answered_at.filter(|_| state.is_silent)?;
        Some(since.elapsed())
    }

    /// Number of failed watches by kind.
    pub fn watch_failures(&self) -> BTreeMap<Kind, u64> {
        self.state.lock().watch_failures.clone()
    }

    pub(super) fn record_watch_failure(&self, kind: Kind) {
        *self.state.lock().watch_failures.entry(kind).or_default() += 1;
    }

    /// Records an answer. Returns whether the API server was silent before.
    fn record_answer(&self, at: Instant) -> bool {
        let mut state = self.state.lock();
        state.answered_at = Some(at);
        std::mem::replace(&mut state.is_silent, false)
    }

    /// Records a failed probe. Returns whether the API server answered before.
    fn record_silence(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().is_silent, true)
    }
}

/// Probes the API server until `shutdown`.
pub async fn probe(client: Client, health: Arc<ApiServerHealth>, shutdown: CancellationToken) {
    let [silence_log, answer_log] = [(); 2].map(|()| LogThrottle::once_a_minute());
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        match client.apiserver_version().await {
            Ok(_) => {
                if health.record_answer(Instant::now())
                    && let Some(suppressed) = answer_log.pass()
                {
                    tracing::info!(suppressed, "the API server answers again");
                }
            }
            Err(error) => {
                if health.record_silence()
                    && let Some(suppressed) = silence_log.pass()
                {
                    tracing::warn!(%error, suppressed, "the API server does not answer; the last known objects stay in force");
                }
            }
        }
    }
}
