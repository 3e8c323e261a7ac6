//! The control plane with an API server that misbehaves, over sockets: it sends few requests, logs little, and statuses
//! are true again afterwards. `effect::status` and `source::kubernetes` have more cases, with a virtual clock.
//!
//! With the environment variable `OUTAGE_SECONDS`, each outage has that length, and a test fails if a status is late.

#![allow(clippy::unwrap_used)] // a panic fails the test
#![allow(clippy::print_stdout)] // the figures of a long run

mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    time::{Duration, Instant},
};

use common::{DEADLINE, eventually};
use evermesh_testkit::{
    control_plane::ControlPlane,
    fake_api_server::{ApiServerBehaviour, FakeApiServer},
};
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{interval, timeout};

/// Environment variable with the length of each outage in seconds.
const LENGTH: &str = "OUTAGE_SECONDS";

const MESHES: &str = "/apis/appmesh.k8s.aws/v1beta2/meshes";

/// Failures that a test waits for.
const FAILURES: u64 = 4;

/// Time for which the API server keeps one of several behaviours.
const SECONDS_PER_BEHAVIOUR: usize = 4;

/// Time within which statuses are true after an outage.
const RECOVERY: Duration = Duration::from_secs(5);

/// Time between two log lines of one cause: a minute, less what the clocks of log and throttle may differ.
const LOG_INTERVAL: Duration = Duration::from_secs(59);

struct Fixture {
    server: FakeApiServer,
    control_plane: ControlPlane,
}

impl Fixture {
    /// A control plane that has written the status of a mesh.
    async fn build() -> Self {
        let server = FakeApiServer::start().await.unwrap();
        let arguments = [
            "--leader-election-namespace=mesh-system",
            "--advertise-address=127.0.0.1",
            "--log-format=json",
        ];
        let control_plane = ControlPlane::start_on_cluster(&server.kubeconfig(), &arguments);
        let fixture = Self {
            server,
            control_plane: control_plane.unwrap(),
        };
        fixture.change_mesh();
        fixture.status_becomes_current().await;
        fixture
    }

    /// Changes the generation of the mesh.
    fn change_mesh(&self) {
        let last = self
            .server
            .get(&format!("{MESHES}/shop"))
            .unwrap_or_default();
        let generation = last["metadata"]["generation"].to_string();
        let mesh = json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": {"name": "shop"},
            "spec": {"namespaceSelector": {"matchLabels": {"after": generation}}},
            "status": last["status"],
        });
        self.server.put(MESHES, mesh);
    }

    async fn status_becomes_current(&self) {
        eventually("the status of the newest generation", async || {
            let mesh = self.server.get(&format!("{MESHES}/shop")).unwrap();
            mesh["status"]["observedGeneration"] == mesh["metadata"]["generation"]
        })
        .await;
    }

    /// Times of the log lines, by text and the kind that they are about.
    fn log_lines(&self) -> BTreeMap<String, Vec<Timestamp>> {
        let log = fs::read_to_string(self.control_plane.log_file()).unwrap();
        let mut lines = BTreeMap::<String, Vec<Timestamp>>::new();
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let cause = format!("{} {}", line["message"], line["kind"]);
            let time = line["timestamp"].as_str().unwrap().parse().unwrap();
            lines.entry(cause).or_default().push(time);
        }
        lines
    }

    /// Number of requests so far by kind, that is, by plural.
    fn requests_by_kind(&self) -> BTreeMap<String, u64> {
        let mut by_kind = BTreeMap::new();
        for (request, count) in self.server.requests().borrow().iter() {
            *by_kind.entry(kind_of(request).to_owned()).or_default() += count;
        }
        by_kind
    }

    /// Lets the API server behave like this, in turn, until it has received `failures` more requests that begin like this
    /// and [`length`] is over. Then waits until the status of a change from meanwhile is written.
    async fn survive(self, behaviours: &[ApiServerBehaviour], requests: &str, failures: u64) {
        let failures = self.server.count(requests) + failures;
        let (length, began) = (length(), Instant::now());
        let mut samples = Vec::new();
        let mut behaviour = behaviours.iter().cycle();
        let mut seconds = interval(Duration::from_secs(1));
        let outage = async {
            let is_over = || {
                self.server.count(requests) >= failures
                    && began.elapsed() >= length.unwrap_or_default()
            };
            while !is_over() {
                if samples.len().is_multiple_of(SECONDS_PER_BEHAVIOUR) {
                    self.server.switch(*behaviour.next().unwrap());
                }
                seconds.tick().await;
                samples.push(self.requests_by_kind());
            }
        };
        let deadline = DEADLINE + length.unwrap_or_default();
        timeout(deadline, outage).await.unwrap();
        self.change_mesh();

        let limit = 2 * (began.elapsed().as_secs() + 1) + 2;
        let mut sent_by_kind = Vec::new();
        for kind in samples.last().unwrap().keys() {
            let count = |sample: &BTreeMap<String, u64>| sample.get(kind).copied().unwrap_or(0);
            let sent = count(samples.last().unwrap()) - count(&samples[0]);
            assert!(sent <= limit, "{sent} about {kind}, more than {limit}");
            let in_a_second = samples.windows(2).map(|it| count(&it[1]) - count(&it[0]));
            sent_by_kind.push((sent, in_a_second.max().unwrap_or_default(), kind));
        }
        sent_by_kind.sort_unstable();
        sent_by_kind.reverse();
        sent_by_kind.truncate(3);
        let recovered = Instant::now();
        self.server.switch(ApiServerBehaviour::Healthy);
        self.status_becomes_current().await;
        let recovery = recovered.elapsed();

        let mut most_lines = 0;
        for (cause, times) in self.log_lines() {
            most_lines = most_lines.max(times.len());
            for pair in times.windows(2) {
                let gap = Duration::try_from(pair[1] - pair[0]).unwrap();
                assert!(gap >= LOG_INTERVAL, "{gap:?} between two lines: {cause}");
            }
        }
        println!(
            "{behaviours:?} for {:?}: requests and most in a second by kind: {sent_by_kind:?}; statuses true after {recovery:?}; log lines of one cause: {most_lines}",
            recovered - began
        );
        if length.is_some() {
            assert!(recovery <= RECOVERY, "{recovery:?}");
        }
    }
}

/// The length of each outage of a run that also judges times: [`LENGTH`] if it is set.
fn length() -> Option<Duration> {
    let seconds = env::var(LENGTH).ok()?;
    Some(Duration::from_secs(seconds.parse().expect(LENGTH)))
}

/// The plural of the kind that a request is about, as `GET /api/v1/namespaces/shop/pods/a` is about `pods`.
fn kind_of(request: &str) -> &str {
    let segments: Vec<&str> = request.split('/').skip(1).collect();
    let after_version = match segments[0] {
        "api" => &segments[2..],
        "apis" => &segments[3..],
        _ => &segments,
    };
    match after_version {
        ["namespaces", _, plural, ..] | [plural, ..] => plural,
        [] => "",
    }
}

#[tokio::test]
async fn survives_slow_answers() {
    let fixture = Fixture::build().await;
    let slow = ApiServerBehaviour::Slow(Duration::from_millis(700));
    fixture.server.switch(slow);
    let renewals = fixture.server.count("PUT") + 2 * FAILURES;
    eventually("renewals of the Lease", async || {
        fixture.server.count("PUT") >= renewals
    })
    .await;
    fixture.change_mesh();
    fixture.status_becomes_current().await;
    fixture.survive(&[slow], "PUT", FAILURES).await;
}

#[tokio::test]
async fn survives_answers_that_are_too_slow_for_a_leader() {
    let fixture = Fixture::build().await;
    let slow = ApiServerBehaviour::Slow(Duration::from_secs(3));
    fixture.survive(&[slow], "GET /version", 2).await;
}

#[tokio::test]
async fn survives_restarts() {
    let fixture = Fixture::build().await;
    let restarting = [ApiServerBehaviour::Closing, ApiServerBehaviour::Healthy];
    let watch = format!("WATCH {MESHES}");
    fixture.survive(&restarting, &watch, 2 * FAILURES).await;
}

#[tokio::test]
async fn survives_silence() {
    let fixture = Fixture::build().await;
    // The probe goes on while every watch waits.
    let (silent, probe) = (ApiServerBehaviour::Silent, "GET /version");
    fixture.survive(&[silent], probe, 2).await;
}

#[tokio::test]
async fn survives_writes_without_an_answer() {
    let fixture = Fixture::build().await;
    let objects = format!("{MESHES}/");
    let before = fixture.server.count("PATCH");
    let swallowing = ApiServerBehaviour::Swallowing;
    fixture.server.switch_for(&objects, swallowing);
    fixture.change_mesh();
    eventually("a write and its repetition", async || {
        fixture.server.count("PATCH") >= before + 2
    })
    .await;
    fixture.server.switch(ApiServerBehaviour::Healthy);
    fixture.status_becomes_current().await;
}

async fn survives_refusals_with(status: StatusCode) {
    let fixture = Fixture::build().await;
    let refusing = ApiServerBehaviour::Refusing(status);
    let watch = format!("WATCH {MESHES}");
    fixture.survive(&[refusing], &watch, FAILURES).await;
}

#[tokio::test]
async fn survives_errors() {
    survives_refusals_with(StatusCode::INTERNAL_SERVER_ERROR).await;
}

#[tokio::test]
async fn survives_overload() {
    survives_refusals_with(StatusCode::TOO_MANY_REQUESTS).await;
}

#[tokio::test]
async fn survives_closed_connections() {
    let fixture = Fixture::build().await;
    let watch = format!("WATCH {MESHES}");
    fixture
        .survive(&[ApiServerBehaviour::Closing], &watch, FAILURES)
        .await;
}

#[tokio::test]
async fn survives_expired_watches() {
    let fixture = Fixture::build().await;
    let list = format!("GET {MESHES}");
    fixture
        .survive(&[ApiServerBehaviour::Expired], &list, FAILURES)
        .await;
}

#[tokio::test]
async fn survives_watches_that_end_at_once() {
    let fixture = Fixture::build().await;
    let watch = format!("WATCH {MESHES}");
    fixture
        .survive(&[ApiServerBehaviour::EndingWatches], &watch, 3 * FAILURES)
        .await;
}
