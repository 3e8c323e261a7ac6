//! The watches of an API server that misbehaves, with a virtual clock.

use std::{collections::BTreeMap, time::Duration};

use evermesh_testkit::{
    fake_api_server::{ApiServerBehaviour, FakeApiServer},
    wait::eventually,
};
use http::StatusCode;
use serde_json::json;
use tokio::{sync::mpsc, time};
use tokio_util::sync::DropGuard;

use super::*;
use crate::api_client::with_deadlines;

const OUTAGE: Duration = Duration::from_mins(10);

/// Requests that a kind may send in [`OUTAGE`]: two a second, and the first list and watch.
const LIMIT: u64 = 2 * 600 + 2;

struct Fixture {
    server: FakeApiServer,
    observed: Arc<ObservedObjects>,
    _shutdown: DropGuard,
}

impl Fixture {
    /// Watches an API server that behaves like this from the beginning.
    fn start(behaviour: ApiServerBehaviour, options: KubernetesOptions) -> Self {
        let server = FakeApiServer::default();
        server.switch(behaviour);
        let observed = Arc::<ObservedObjects>::default();
        let shutdown = CancellationToken::new();
        let (batches, mut queue) = mpsc::channel(16);
        tokio::spawn(run(
            with_deadlines(&server.client()),
            options,
            Arc::clone(&observed),
            Arc::default(),
            batches,
            shutdown.clone(),
        ));
        tokio::spawn(async move { while queue.recv().await.is_some() {} });
        Self {
            server,
            observed,
            _shutdown: shutdown.drop_guard(),
        }
    }

    async fn observes_a_new_mesh(&self, name: &str, within: Duration) {
        let mesh = json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": {"name": name},
            "spec": {},
        });
        self.server
            .put("/apis/appmesh.k8s.aws/v1beta2/meshes", mesh);
        let mesh = ObjectRef::new(Kind::Mesh, "", name);
        let event = format!("{mesh} in the watch");
        eventually(&event, within, async || self.observed.get(&mesh).is_some()).await;
    }

    /// Requests so far by plural.
    fn requests(&self) -> BTreeMap<String, u64> {
        let requests = self.server.requests();
        let mut by_plural = BTreeMap::new();
        for (key, count) in requests.borrow().iter() {
            let plural = key.rsplit('/').next().unwrap_or_default();
            *by_plural.entry(plural.to_owned()).or_default() += count;
        }
        by_plural
    }
}

fn behaviours() -> [ApiServerBehaviour; 8] {
    [
        ApiServerBehaviour::Slow(Duration::from_secs(40)),
        ApiServerBehaviour::Silent,
        ApiServerBehaviour::Refusing(StatusCode::INTERNAL_SERVER_ERROR),
        ApiServerBehaviour::Refusing(StatusCode::TOO_MANY_REQUESTS),
        ApiServerBehaviour::Refusing(StatusCode::GONE),
        ApiServerBehaviour::Closing,
        ApiServerBehaviour::Expired,
        ApiServerBehaviour::EndingWatches,
    ]
}

#[tokio::test(start_paused = true)]
async fn failures_cause_at_most_two_requests_a_second_about_a_kind() {
    // A pause of at least 2 s after each attempt, and shorter ones before the third.
    let attempts = 600 / 2 + 2;
    for behaviour in behaviours() {
        let limit = match behaviour {
            // A list and a watch for each attempt.
            ApiServerBehaviour::Expired => 2 * attempts,
            // Nothing fails, so no pause follows.
            ApiServerBehaviour::EndingWatches => LIMIT,
            _ => attempts,
        };
        let fixture = Fixture::start(behaviour, KubernetesOptions::default());
        time::sleep(OUTAGE).await;
        let requests = fixture.requests();
        // Secrets are not watched.
        assert_eq!(requests.len(), Kind::ALL.len() - 1, "{requests:?}");
        for (plural, count) in requests {
            assert!(
                (10..=limit).contains(&count),
                "{behaviour:?}: {count} of {plural}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn namespaces_share_the_limit_of_a_kind() {
    let namespaces: Vec<String> = (0..30).map(|index| format!("team-{index}")).collect();
    let first = 2 * 30;
    let options = KubernetesOptions {
        namespaces,
        secret_namespaces: vec!["team-0".to_owned()],
    };
    let behaviour = ApiServerBehaviour::Refusing(StatusCode::SERVICE_UNAVAILABLE);
    let fixture = Fixture::start(behaviour, options);
    time::sleep(OUTAGE).await;
    for (plural, count) in fixture.requests() {
        assert!(count <= LIMIT + first, "{count} of {plural}");
    }
}

#[tokio::test(start_paused = true)]
async fn objects_are_current_5_s_after_an_outage() {
    for behaviour in behaviours() {
        let fixture = Fixture::start(ApiServerBehaviour::Healthy, KubernetesOptions::default());
        let limit = match behaviour {
            // A request from before has to reach its deadline first.
            ApiServerBehaviour::Slow(_) => Duration::from_secs(10),
            _ => Duration::from_secs(5),
        };
        fixture.observes_a_new_mesh("before", limit).await;
        fixture.server.switch(behaviour);
        time::sleep(OUTAGE).await;
        fixture.server.switch(ApiServerBehaviour::Healthy);
        fixture.observes_a_new_mesh("after", limit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_api_server_is_read() {
    let behaviour = ApiServerBehaviour::Slow(Duration::from_secs(4));
    let fixture = Fixture::start(behaviour, KubernetesOptions::default());
    fixture
        .observes_a_new_mesh("a", Duration::from_secs(10))
        .await;
}
