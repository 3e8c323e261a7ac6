//! A load generator: sends requests at a fixed rate, however long responses take, as long as not too many are open.
//!
//! Latency counts from the moment at which a request was due, not from the moment at which it was sent.
//! A stall therefore shows in every request that it delayed (no coordinated omission).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior},
};

use crate::http::Address;

/// Limit of requests that wait for a response; the next one waits for a response, so that a slow machine makes the load
/// smaller and no request fail.
const MAX_IN_FLIGHT: usize = 200;

/// Limit for the response to one request.
const LIMIT: Duration = Duration::from_secs(20);

/// A load to generate.
#[derive(Clone, Debug)]
pub struct Load {
    pub target: Address,
    /// The `Host` header, or `:authority` with HTTP/2.
    pub host: String,
    pub path: String,
    /// Requests per second.
    pub rate: u32,
    /// Time during which requests are sent; [`Self::run`] also waits for the responses.
    pub duration: Duration,
    /// Use cleartext HTTP/2 over one connection instead of persistent HTTP/1.1 connections.
    pub http2: bool,
}

/// Statistics of one second or of a whole run.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LoadStats {
    /// The second, counted from zero, or `None` for the whole run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<u64>,
    /// Responses by body.
    pub answers: BTreeMap<String, u64>,
    /// Responses by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a response, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Median latency of the responses.
    pub p50_ms: f64,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl LoadStats {
    /// Number of requests that were answered or failed.
    pub fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.unanswered()
    }

    /// Number of requests without a response or with a status of 400 or above.
    pub fn failed(&self) -> u64 {
        self.statuses
            .range(400..)
            .map(|(_, count)| count)
            .sum::<u64>()
            + self.unanswered()
    }

    fn unanswered(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Status and body of a response.
type Response = (u16, String);

struct RequestOutcome {
    latency: Duration,
    response: Result<Response, String>,
}

/// Collects outcomes into the statistics of a period.
#[derive(Default)]
struct StatsCollector {
    stats: LoadStats,
    latencies: Vec<Duration>,
}

impl StatsCollector {
    fn add(&mut self, outcome: &RequestOutcome) {
        match &outcome.response {
            Ok((status, body)) => {
                *self.stats.statuses.entry(*status).or_default() += 1;
                *self.stats.answers.entry(body.clone()).or_default() += 1;
                self.latencies.push(outcome.latency);
            }
            Err(reason) => *self.stats.errors.entry(reason.clone()).or_default() += 1,
        }
    }

    fn finish(mut self, second: Option<u64>) -> LoadStats {
        self.latencies.sort_unstable();
        let percentile = |percent: usize| {
            let last = self.latencies.len().saturating_sub(1);
            self.latencies
                .get(last * percent / 100)
                .map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        LoadStats {
            second,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
            max_ms: percentile(100),
            ..self.stats
        }
    }
}

impl Load {
    /// Generates the load; `every_second` gets the statistics of each second as it ends, the result those of the run.
    pub async fn run(self, every_second: impl FnMut(&LoadStats)) -> Result<LoadStats> {
        self.run_until(std::future::pending(), every_second).await
    }

    /// Like [`Self::run`], but sends no more requests after `stop`; it still waits for the responses.
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        every_second: impl FnMut(&LoadStats),
    ) -> Result<LoadStats> {
        if self.rate == 0 {
            bail!("the rate is 0; use at least one request per second");
        }
        let schedule = Schedule {
            start: Instant::now(),
            rate: self.rate,
            duration: self.duration,
        };
        let client = Arc::new(Client {
            load: self,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        });
        let request = move || {
            let client = Arc::clone(&client);
            async move { client.request().await }
        };
        schedule.run(request, stop, every_second).await
    }
}

/// The moments at which requests are due.
/// Outcomes that may wait until they are counted; further requests wait to report theirs.
const QUEUED_OUTCOMES: usize = 1 << 10;

struct Schedule {
    start: Instant,
    rate: u32,
    duration: Duration,
}

impl Schedule {
    async fn run<F>(
        self,
        request: impl Fn() -> F + Send + 'static,
        stop: impl Future<Output = ()> + Send + 'static,
        mut every_second: impl FnMut(&LoadStats),
    ) -> Result<LoadStats>
    where
        F: Future<Output = Result<Response>> + Send + 'static,
    {
        let (sender, mut outcomes) = mpsc::channel(QUEUED_OUTCOMES);
        let first_end = self.start + Duration::from_secs(1);
        let mut seconds = tokio::time::interval_at(first_end, Duration::from_secs(1));
        let sending = tokio::spawn(self.send(request, stop, sender));

        let (mut total, mut period) = (StatsCollector::default(), StatsCollector::default());
        let mut second = 0;
        loop {
            tokio::select! {
                biased;
                _ = seconds.tick() => {
                    every_second(&std::mem::take(&mut period).finish(Some(second)));
                    second += 1;
                }
                outcome = outcomes.recv() => {
                    let Some(outcome) = outcome else { break };
                    period.add(&outcome);
                    total.add(&outcome);
                }
            }
        }
        sending.await?;
        Ok(total.finish(None))
    }

    async fn send<F>(
        self,
        request: impl Fn() -> F,
        stop: impl Future<Output = ()>,
        outcomes: mpsc::Sender<RequestOutcome>,
    ) where
        F: Future<Output = Result<Response>> + Send + 'static,
    {
        tokio::pin!(stop);
        let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let mut ticks = tokio::time::interval_at(self.start, Duration::from_secs(1) / self.rate);
        // Late requests are sent at once, so that the rate stays as it was asked for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let end = self.start + self.duration;
        loop {
            let next = async {
                let due = ticks.tick().await;
                (due, Arc::clone(&slots).acquire_owned().await)
            };
            let (due, slot) = tokio::select! {
                next = next => next,
                () = &mut stop => return,
            };
            if due >= end {
                return;
            }
            let (request, outcomes) = (request(), outcomes.clone());
            tokio::spawn(async move {
                let response = request.await.map_err(|error| format!("{error:#}"));
                drop(slot);
                // The receiver is gone only if the caller dropped the whole run.
                let latency = due.elapsed();
                let _ = outcomes.send(RequestOutcome { latency, response }).await;
            });
        }
    }
}

struct Client {
    load: Load,
    /// Idle HTTP/1.1 connections.
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    /// The HTTP/2 connection, once it is open.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Client {
    async fn request(&self) -> Result<Response> {
        let exchange = async {
            if self.load.http2 {
                self.over_http2().await
            } else {
                self.over_http1().await
            }
        };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .with_context(|| format!("no response within {LIMIT:?}"))?
    }

    async fn over_http1(&self) -> Result<Response> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = {
            let mut idle = idle();
            idle.retain(|sender| !sender.is_closed());
            idle.pop()
        };
        let mut sender = if let Some(sender) = reused {
            sender
        } else {
            let stream = self.load.target.connect().await.context("connecting")?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        };
        sender.ready().await?;
        let request = Request::get(&self.load.path).header(http::header::HOST, &self.load.host);
        let response = sender.send_request(request.body(Full::default())?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        idle().push(sender);
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn over_http2(&self) -> Result<Response> {
        let mut sender = {
            let mut shared = self.shared.lock().await;
            match &*shared {
                Some(sender) if !sender.is_closed() => sender.clone(),
                _ => {
                    let stream = self.load.target.connect().await.context("connecting")?;
                    let (sender, connection) =
                        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    shared.insert(sender).clone()
                }
            }
        };
        sender.ready().await?;
        let request = Request::get(format!("http://{}{}", self.load.host, self.load.path));
        let response = sender.send_request(request.body(Full::default())?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn schedule(rate: u32, duration: Duration) -> Schedule {
        Schedule {
            start: Instant::now(),
            rate,
            duration,
        }
    }

    fn outcome(milliseconds: u64, response: Result<(u16, &str), &str>) -> RequestOutcome {
        RequestOutcome {
            latency: Duration::from_millis(milliseconds),
            response: response
                .map(|(status, body)| (status, body.to_owned()))
                .map_err(str::to_owned),
        }
    }

    /// Median, 99th percentile and maximum in milliseconds.
    fn latencies(stats: &LoadStats) -> [String; 3] {
        [stats.p50_ms, stats.p99_ms, stats.max_ms].map(|latency| format!("{latency:.1}"))
    }

    #[test]
    fn failures_are_bad_statuses_and_missing_responses() {
        let mut collector = StatsCollector::default();
        for outcome in [
            outcome(1, Ok((200, "blue"))),
            outcome(1, Ok((302, "blue"))),
            outcome(1, Ok((404, "no route"))),
            outcome(1, Ok((503, "no host"))),
            outcome(1, Err("refused")),
        ] {
            collector.add(&outcome);
        }
        let stats = collector.finish(None);
        assert_eq!((stats.requests(), stats.failed()), (5, 3));
        assert_eq!(stats.answers["blue"], 2);
        assert_eq!(stats.errors, [("refused".to_owned(), 1)].into());
    }

    #[test]
    fn percentiles_are_of_responses_only() {
        let mut collector = StatsCollector::default();
        for milliseconds in (1..=101).rev() {
            collector.add(&outcome(milliseconds, Ok((200, "blue"))));
        }
        collector.add(&outcome(20_000, Err("no response")));
        let stats = collector.finish(Some(3));
        assert_eq!(stats.second, Some(3));
        assert_eq!(latencies(&stats), ["51.0", "100.0", "101.0"]);
        let empty = StatsCollector::default().finish(None);
        assert_eq!(latencies(&empty), ["0.0"; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_sent_at_the_rate_and_counted_by_second() {
        let mut seconds = Vec::new();
        let request = || async {
            sleep(Duration::from_millis(5)).await;
            Ok((200, "blue".to_owned()))
        };
        let total = schedule(100, Duration::from_millis(1500))
            .run(request, std::future::pending(), |second| {
                seconds.push(second.clone());
            })
            .await
            .expect("a run");
        assert_eq!(total.answers, [("blue".to_owned(), 150)].into());
        assert_eq!(latencies(&total), ["5.0"; 3]);
        // The run ends before the second second does.
        assert_eq!(seconds.len(), 1);
        assert_eq!((seconds[0].second, seconds[0].requests()), (Some(0), 100));
    }

    #[tokio::test(start_paused = true)]
    async fn latency_counts_from_when_a_request_was_due() {
        let schedule = schedule(10, Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(450)).await;
        let request = || async { Ok((200, String::new())) };
        let total = schedule
            .run(request, std::future::pending(), |_| ())
            .await
            .expect("a run");
        assert_eq!(total.requests(), 10);
        // Five requests were due before the start, the first one 450 ms before.
        assert_eq!(latencies(&total), ["0.0", "350.0", "450.0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_limit_wait_for_responses() {
        let open = Arc::new(());
        let request = move || {
            let open = Arc::clone(&open);
            async move {
                assert!(Arc::strong_count(&open) <= MAX_IN_FLIGHT + 1);
                sleep(Duration::from_secs(1)).await;
                Ok((200, String::new()))
            }
        };
        let total = schedule(1000, Duration::from_secs(1))
            .run(request, std::future::pending(), |_| ())
            .await
            .expect("a run");
        assert_eq!((total.requests(), total.failed()), (1000, 0));
        // The last 200 of the requests that were due within a second were sent after four.
        assert_eq!(latencies(&total)[2], "4200.0");
    }

    #[tokio::test(start_paused = true)]
    async fn stop_ends_the_sending_but_responses_are_awaited() {
        let request = || async {
            sleep(Duration::from_secs(3)).await;
            Ok((200, String::new()))
        };
        let stop = sleep(Duration::from_millis(250));
        let total = schedule(10, Duration::from_mins(10))
            .run(request, stop, |_| ())
            .await
            .expect("a run");
        assert_eq!((total.requests(), total.failed()), (3, 0));
    }
}
