//! The control plane with an API server that misbehaves, over sockets: it sends few requests, logs little, and statuses
//! are true again afterwards. `effect::status` and `source::kubernetes` have more cases, with a virtual clock.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use common::eventually;
use evermesh_testkit::{
    control_plane::ControlPlane,
    fake_api_server::{ApiServerBehaviour, FakeApiServer},
};
use http::StatusCode;
use serde_json::{Value, json};

const MESHES: &str = "/apis/appmesh.k8s.aws/v1beta2/meshes";

/// Failures that a test waits for.
const FAILURES: u64 = 4;

struct Fixture {
    server: FakeApiServer,
    control_plane: ControlPlane,
    started: Instant,
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
            started: Instant::now(),
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

    /// The warnings so far, with the kind that they are about, and their number.
    fn warnings(&self) -> BTreeMap<String, u64> {
        let log = fs::read_to_string(self.control_plane.log_file()).unwrap();
        let mut warnings = BTreeMap::new();
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["level"] == "WARN" || line["level"] == "ERROR" {
                let key = format!("{} {}", line["message"], line["kind"]);
                *warnings.entry(key).or_default() += 1;
            }
        }
        warnings
    }

    /// Lets the API server behave like this until it has received `failures` more requests that begin like this, then
    /// waits until the status of a change from meanwhile is written.
    async fn survive(self, behaviour: ApiServerBehaviour, requests: &str, failures: u64) {
        let before = self.server.requests().borrow().clone();
        let failures = self.server.count(requests) + failures;
        let began = Instant::now();
        self.server.switch(behaviour);
        eventually("requests without success", async || {
            self.server.count(requests) >= failures
        })
        .await;
        self.change_mesh();
        let counts = self.server.requests().borrow().clone();
        let limit = 2 * (began.elapsed().as_secs() + 1) + 2;
        for collection in ["meshes", "pods", "virtualnodes"] {
            let count = |requests: &BTreeMap<String, u64>| -> u64 {
                let of_kind = requests
                    .iter()
                    .filter(|(key, _)| key.ends_with(&format!("/{collection}")));
                of_kind.map(|(_, count)| count).sum()
            };
            let sent = count(&counts) - count(&before);
            assert!(sent <= limit, "{sent} of {collection}, more than {limit}");
        }
        self.server.switch(ApiServerBehaviour::Healthy);
        self.status_becomes_current().await;

        let limit = 1 + self.started.elapsed().as_secs() / 60;
        for (warning, count) in self.warnings() {
            assert!(count <= limit, "{count} times {warning}");
        }
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
}

#[tokio::test]
async fn survives_silence() {
    let fixture = Fixture::build().await;
    // The probe goes on while every watch waits.
    let (silent, probe) = (ApiServerBehaviour::Silent, "GET /version");
    fixture.survive(silent, probe, 2).await;
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

#[tokio::test]
async fn survives_refusals() {
    for status in [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        let fixture = Fixture::build().await;
        let refusing = ApiServerBehaviour::Refusing(status);
        let watch = format!("WATCH {MESHES}");
        fixture.survive(refusing, &watch, FAILURES).await;
    }
}

#[tokio::test]
async fn survives_closed_connections() {
    let fixture = Fixture::build().await;
    let watch = format!("WATCH {MESHES}");
    fixture
        .survive(ApiServerBehaviour::Closing, &watch, FAILURES)
        .await;
}

#[tokio::test]
async fn survives_expired_watches() {
    let fixture = Fixture::build().await;
    let list = format!("GET {MESHES}");
    fixture
        .survive(ApiServerBehaviour::Expired, &list, FAILURES)
        .await;
}

#[tokio::test]
async fn survives_watches_that_end_at_once() {
    let fixture = Fixture::build().await;
    let watch = format!("WATCH {MESHES}");
    fixture
        .survive(ApiServerBehaviour::EndingWatches, &watch, 3 * FAILURES)
        .await;
}
