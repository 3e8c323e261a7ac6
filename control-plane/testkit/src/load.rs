//! A load client: a fixed rate of requests, whatever the answers take.
//!
//! The latency of a request counts from when it was due, so a stall is seen in every request that it delayed.

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
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use crate::http::Address;

/// Requests that may wait for an answer at a time; the next one counts as failed.
const MAX_IN_FLIGHT: usize = 2000;

/// A request without an answer for so long has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// What to send, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where connections go.
    pub target: Address,
    /// The `Host` header, or `:authority`.
    pub host: String,
    /// The path.
    pub path: String,
    /// Requests per second.
    pub rate: u32,
    /// How long requests are sent; their answers are waited for.
    pub duration: Duration,
    /// Cleartext HTTP/2 on one connection, instead of kept-alive HTTP/1.1 connections.
    pub http2: bool,
}

/// What came back, in one second or altogether.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LoadStats {
    /// The second, counted from zero; none in the summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<u64>,
    /// Answers by body, whatever their status.
    pub answers: BTreeMap<String, u64>,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub errors: BTreeMap<String, u64>,
    /// The median latency of the answers.
    pub p50_ms: f64,
    /// The latency that 99 of 100 answers keep.
    pub p99_ms: f64,
    /// The largest latency.
    pub max_ms: f64,
}

impl LoadStats {
    /// How many requests came to an end.
    pub fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.failures()
    }

    /// How many requests had no answer, or none below 400.
    pub fn failed(&self) -> u64 {
        self.statuses
            .range(400..)
            .map(|(_, count)| count)
            .sum::<u64>()
            + self.failures()
    }

    fn failures(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The end of one request.
struct RequestOutcome {
    latency: Duration,
    answer: Result<(u16, String), String>,
}

/// Collects outcomes of a period.
#[derive(Default)]
struct StatsCollector {
    tally: LoadStats,
    latencies: Vec<Duration>,
}

impl StatsCollector {
    fn add(&mut self, outcome: &RequestOutcome) {
        match &outcome.answer {
            Ok((status, body)) => {
                *self.tally.statuses.entry(*status).or_default() += 1;
                *self.tally.answers.entry(body.clone()).or_default() += 1;
                self.latencies.push(outcome.latency);
            }
            Err(reason) => *self.tally.errors.entry(reason.clone()).or_default() += 1,
        }
    }

    fn finish(mut self, second: Option<u64>) -> LoadStats {
        self.latencies.sort_unstable();
        let at = |percent: usize| {
            let last = self.latencies.len().saturating_sub(1);
            self.latencies
                .get(last * percent / 100)
                .map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        LoadStats {
            second,
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
            ..self.tally
        }
    }
}

impl Load {
    /// Sends the load; `every_second` hears of each second as it ends, the return value sums up.
    pub async fn run(self, every_second: impl FnMut(&LoadStats)) -> Result<LoadStats> {
        self.run_until(std::future::pending(), every_second).await
    }

    /// The same, but `stop` may end the sending earlier; the answers are still waited for.
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        mut every_second: impl FnMut(&LoadStats),
    ) -> Result<LoadStats> {
        if self.rate == 0 {
            bail!("a load of no requests");
        }
        let (outcomes, mut collected) = mpsc::unbounded_channel();
        let start = Instant::now();
        let sender = tokio::spawn(self.send(start, stop, outcomes));

        let (mut total, mut period, mut second) =
            (StatsCollector::default(), StatsCollector::default(), 0);
        let mut clock =
            tokio::time::interval_at(start + Duration::from_secs(1), Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                _ = clock.tick() => {
                    every_second(&std::mem::take(&mut period).finish(Some(second)));
                    second += 1;
                }
                outcome = collected.recv() => {
                    let Some(outcome) = outcome else { break };
                    period.add(&outcome);
                    total.add(&outcome);
                }
            }
        }
        sender.await?;
        Ok(total.finish(None))
    }

    async fn send(
        self,
        start: Instant,
        stop: impl Future<Output = ()>,
        outcomes: mpsc::UnboundedSender<RequestOutcome>,
    ) {
        tokio::pin!(stop);
        let mut due = tokio::time::interval_at(start, Duration::from_secs(1) / self.rate);
        // A late tick is caught up with: the rate is a promise.
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let end = start + self.duration;
        let client = Arc::new(Client {
            load: self,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        });
        loop {
            let due = tokio::select! {
                due = due.tick() => due,
                () = &mut stop => return,
            };
            if due >= end {
                return;
            }
            let (client, outcomes) = (Arc::clone(&client), outcomes.clone());
            tokio::spawn(async move {
                let answer = client.request().await.map_err(|error| format!("{error:#}"));
                // The receiver is gone only when the whole load is given up.
                let _ = outcomes.send(RequestOutcome {
                    latency: due.elapsed(),
                    answer,
                });
            });
        }
    }
}

/// The connections of a load.
struct Client {
    load: Load,
    /// HTTP/1.1 connections that wait for a request.
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    /// The HTTP/2 connection.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Client {
    async fn request(self: &Arc<Self>) -> Result<(u16, String)> {
        if Arc::strong_count(self) > MAX_IN_FLIGHT {
            bail!("more than {MAX_IN_FLIGHT} requests wait for an answer");
        }
        let exchange = async {
            if self.load.http2 {
                self.over_http2().await
            } else {
                self.over_http1().await
            }
        };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .with_context(|| format!("no answer within {LIMIT:?}"))?
    }

    async fn over_http1(&self) -> Result<(u16, String)> {
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

    async fn over_http2(&self) -> Result<(u16, String)> {
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
