use std::time::SystemTime;

use evermesh_testkit::fake_api_server::{ApiServerBehaviour, FakeApiServer};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ListParams, WatchParams},
};
use tokio::time::Instant;

use super::*;

/// The time after which a request fails, or `None` if it succeeds.
async fn failed_after<T>(request: impl Future<Output = kube::Result<T>>) -> Option<Duration> {
    let begin = Instant::now();
    let result = timeout(Duration::from_mins(10), request).await.unwrap();
    result.is_err().then(|| begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn request_without_an_answer_fails_at_its_deadline() {
    let server = FakeApiServer::default();
    let client = with_deadlines(&server.client());
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let list = ListParams::default().limit(500);
    let watch = WatchParams::default();
    for behaviour in [
        ApiServerBehaviour::Silent,
        ApiServerBehaviour::Slow(Duration::from_mins(5)),
    ] {
        server.switch(behaviour);
        let within = |seconds| {
            let deadline = Duration::from_secs(seconds);
            Some(deadline..=deadline + Duration::from_millis(2))
        };
        let cases = [
            (failed_after(client.apiserver_version()).await, within(5)),
            (failed_after(api.get("a")).await, within(5)),
            (failed_after(api.watch(&watch, "0")).await, within(5)),
            (failed_after(api.list(&list)).await, within(30)),
        ];
        for (failed_after, expected) in cases {
            let failed_after = failed_after.unwrap();
            assert!(
                expected.unwrap().contains(&failed_after),
                "{failed_after:?}"
            );
        }
    }
    server.switch(ApiServerBehaviour::Slow(Duration::from_secs(4)));
    assert_eq!(failed_after(client.apiserver_version()).await, None);
}

#[tokio::test(start_paused = true)]
async fn open_watch_has_no_deadline() {
    let server = FakeApiServer::default();
    let api: Api<ConfigMap> = Api::default_namespaced(with_deadlines(&server.client()));
    let mut events = api
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    let quiet = timeout(Duration::from_mins(10), events.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let config_map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a"},
    });
    server.put("/api/v1/namespaces/default/configmaps", config_map);
    events.next().await.unwrap().unwrap();
}

#[tokio::test]
async fn responses_set_the_clock() {
    let answer = async || {
        let date = [(http::header::DATE, "Fri, 15 Jan 2027 08:00:00 GMT")];
        (http::StatusCode::NOT_FOUND, date)
    };
    let service = axum::Router::new().fallback(answer);
    let clock = Arc::new(ServerClock::with_own_clock(|| SystemTime::UNIX_EPOCH));
    let client = with_clock(&Client::new(service, "default"), &clock);
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.get("a").await.unwrap_err();
    let expected = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    assert_eq!(clock.now(), expected);
}
