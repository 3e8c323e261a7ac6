//! Whether the API server answers, and how old what we know may be.
//!
//! A watch that is quiet and a watch that is dead look the same, so the API server is asked for its version now and
//! then. While it does not answer, everything keeps being served; how long that lasts is a metric and a word in
//! `/readyz`.
//!
//! Must not change what is served.

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

/// How often the API server is asked, and how long it may take to answer.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is known of the API server.
#[derive(Debug, Default)]
pub struct ApiServerHealth {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When it answered last; none until then.
    answered: Option<Instant>,
    unreachable: bool,
    failures: BTreeMap<Kind, u64>,
}

impl ApiServerHealth {
    /// How long the API server has been silent; none while it answers.
    pub fn silent_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        let since = state.answered.filter(|_| state.unreachable)?;
        Some(since.elapsed())
    }

    /// How often watches of each kind failed.
    pub fn failures(&self) -> BTreeMap<Kind, u64> {
        self.state.lock().failures.clone()
    }

    pub(super) fn watch_failed(&self, kind: Kind) {
        *self.state.lock().failures.entry(kind).or_default() += 1;
    }

    fn answered(&self, at: Instant) -> bool {
        let mut state = self.state.lock();
        state.answered = Some(at);
        std::mem::replace(&mut state.unreachable, false)
    }

    fn silent(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().unreachable, true)
    }
}

/// Asks the API server until `shutdown`.
pub async fn ask(client: Client, reachable: Arc<ApiServerHealth>, shutdown: CancellationToken) {
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let answer = time::timeout(INTERVAL, client.apiserver_version());
        let refusal = match answer.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {INTERVAL:?}")),
        };
        match refusal {
            None if reachable.answered(Instant::now()) => {
                tracing::info!("the API server answers again");
            }
            Some(why) if reachable.silent() => {
                tracing::warn!(%why, "the API server does not answer; what is known stays in force");
            }
            None | Some(_) => {}
        }
    }
}
