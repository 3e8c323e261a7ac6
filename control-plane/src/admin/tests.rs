use std::time::Duration;

use evermesh_xds::XdsVariant;
use http::Uri;
use tokio::{runtime::Handle, sync::watch};
use tower::ServiceExt;

use super::*;
use crate::{engine::EngineOutputs, liveness::WorkClock};

fn state(engine_work: &Arc<WorkClock>) -> AdminState {
    let outputs = EngineOutputs::unserved();
    let status_work = Arc::default();
    let liveness = Liveness::new(
        Arc::clone(engine_work),
        status_work,
        Handle::current().metrics(),
    );
    AdminState {
        published: watch::channel(Arc::default()).1,
        store: outputs.store,
        registry: ProxyRegistry::new(None),
        changes: Arc::default(),
        metrics: outputs.metrics,
        reachable: None,
        open_access: None,
        certificates: None,
        leaving: CancellationToken::new(),
        liveness: Arc::new(liveness),
        hosts: ["evermesh.test".to_owned()].into(),
        peer_server: None,
    }
}

async fn answer(state: &AdminState, uri: &str, host: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.parse::<Uri>().unwrap();
    if let Some(host) = host {
        let host = host.parse().unwrap();
        request.headers_mut().insert(header::HOST, host);
    }
    let response = private(state.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    (status, String::from_utf8(body.unwrap().into()).unwrap())
}

#[tokio::test]
async fn debug_pages_are_hidden_from_requests_under_foreign_names() {
    let state = state(&Arc::default());
    for host in [
        "127.0.0.1:18080",
        "127.0.0.1",
        "[::1]:18080",
        "[::1]",
        "10.1.2.3:18080",
        "localhost:18080",
        "LOCALHOST",
        "Evermesh.test:80",
    ] {
        let (status, text) = answer(&state, "/debug/changes", Some(host)).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, "[]"), "{host}");
    }
    let refused = "the host `evil.test` is not a name of this server; use an address, localhost, or a name of --admin-host\n";
    let foreign = "evil.test:18080";
    for page in ["graph", "problems", "resources", "proxies", "changes"] {
        let (status, text) = answer(&state, &format!("/debug/{page}"), Some(foreign)).await;
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::FORBIDDEN, refused),
            "{page}"
        );
    }
    for host in [
        None,
        Some(""),
        Some("127.0.0.1.evil.test"),
        Some("localhost.evil.test"),
        Some("localhost."),
        Some("user@evil.test"),
        Some("evil.test/127.0.0.1"),
        Some("a.evermesh.test"),
    ] {
        let (status, _) = answer(&state, "/debug/changes", host).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{host:?}");
    }
    // HTTP/2 sends the name in the URI.
    let (status, _) = answer(&state, "http://evil.test/debug/changes", Some("127.0.0.1")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    let (status, _) = answer(&state, "/readyz", Some(foreign)).await;
    assert_eq!(
        status,
        StatusCode::OK,
        "the page shows nothing of the configuration"
    );
}

#[tokio::test(start_paused = true)]
async fn livez_names_the_part_that_hangs() {
    let engine_work = Arc::<WorkClock>::default();
    let state = state(&engine_work);
    let ok = (StatusCode::OK, "ok\n".to_owned());
    assert_eq!(answer(&state, "/livez", None).await, ok);
    engine_work.begin_at(
        Instant::now()
            .checked_sub(Duration::from_secs(301))
            .unwrap(),
    );
    let (status, text) = answer(&state, "/livez", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "the engine has made no progress for 301 s\n");
    engine_work.rest();
    assert_eq!(answer(&state, "/livez", None).await, ok);
}

#[test]
fn readiness_mentions_silence_and_open_access() {
    let silence = Some(Duration::from_secs(7));
    let flag = Some("--xds-authentication=none");
    let silent = "ok, but the API server has not answered for 7 s; serving the last known objects";
    let open = "--xds-authentication=none serves a proxy without credentials as any proxy that it claims to be";
    assert_eq!(ready_text(None, None), "ok\n");
    assert_eq!(ready_text(silence, None), format!("{silent}\n"));
    assert_eq!(ready_text(None, flag), format!("ok, but {open}\n"));
    assert_eq!(ready_text(silence, flag), format!("{silent}, and {open}\n"));
}

#[test]
fn flavours_of_proxies_are_these_strings() {
    assert_eq!(XdsVariant::Delta.as_str(), "delta");
    assert_eq!(XdsVariant::Sotw.as_str(), "sotw");
}
