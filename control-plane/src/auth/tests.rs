use std::fs;

use futures::FutureExt;
use http::{HeaderValue, Request, header::AUTHORIZATION};
use tonic::Code;

use super::*;

const FRONT: &str = "mesh/demo/virtualNode/front_demo";

fn arguments(how: Option<XdsAuthentication>) -> XdsArgs {
    XdsArgs {
        xds_authentication: how,
        xds_token_file: None,
        xds_token_audience: "evermesh".to_owned(),
        xds_tls_cert: None,
        xds_tls_key: None,
        xds_client_ca: None,
        xds_socket: None,
        xds_socket_mode: 0o600,
    }
}

/// What a stream with this authorization hears.
async fn said(
    authenticator: &Arc<Authenticator>,
    node: &str,
    authorization: Option<&str>,
) -> Result<String, Code> {
    let node = core::Node {
        id: node.to_owned(),
        ..core::Node::default()
    };
    let mut request = Request::new(());
    if let Some(value) = authorization {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let identity = match authenticator.identify(&node, &request.into_parts().0) {
        Identity::Now(known) => known,
        Identity::Later(known) => known.await,
    };
    identity
        .map(|view| view.to_string())
        .map_err(|status| status.code())
}

/// A token for the audience `evermesh`, by its own words.
const TOKEN: &str = "e30.eyJhdWQiOiJldmVybWVzaCJ9.eA";

fn reviews(answer: TokenReviewResult) -> Arc<TokenReviewer> {
    let ask = move |_| std::future::ready(answer.clone()).boxed();
    TokenReviewer::new("evermesh".to_owned(), Box::new(ask))
}

#[test]
fn an_address_that_others_reach_needs_a_word_about_who_they_are() {
    let new = |how, address: &str| {
        let address = address.parse().unwrap();
        let metrics = AuthenticationMetrics::default();
        Authenticator::new(&arguments(how), address, None, metrics)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    new(None, "127.0.0.1:18000").unwrap();
    new(None, "[::1]:18000").unwrap();
    let error = new(None, "0.0.0.0:18000").unwrap_err();
    assert!(error.contains("--xds-authentication"), "{error}");
    new(Some(XdsAuthentication::None), "0.0.0.0:18000").unwrap();
    let error = new(Some(XdsAuthentication::Kubernetes), "127.0.0.1:1").unwrap_err();
    assert!(error.contains("--kubernetes"), "{error}");
    let error = new(Some(XdsAuthentication::Token), "127.0.0.1:1").unwrap_err();
    assert!(error.contains("--xds-token-file"), "{error}");
}

#[tokio::test]
async fn a_node_that_is_none_is_malformed() {
    let everybody = Authenticator::with(Method::None, AuthenticationMetrics::default());
    assert_eq!(said(&everybody, FRONT, None).await.unwrap(), FRONT);
    for bad in [
        "",
        "front",
        "mesh/demo/virtualRouter/r",
        &"ü".repeat(100_000),
    ] {
        let code = said(&everybody, bad, None).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_shared_token_lets_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, "secret").unwrap();
    let authenticator = Authenticator::with(Method::Token(file), AuthenticationMetrics::default());
    let said = async |authorization| said(&authenticator, FRONT, authorization).await;
    assert_eq!(said(Some("Bearer secret")).await.unwrap(), FRONT);
    for bad in [None, Some("Bearer other"), Some("AWS4-HMAC-SHA256 x")] {
        assert_eq!(said(bad).await, Err(Code::Unauthenticated), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pods_token_is_verified_and_its_absence_may_be_forgiven() {
    let pod = WorkloadIdentity::Pod {
        namespace: "demo".into(),
        name: "front-1".into(),
        uid: "u".into(),
    };
    for (answer, permissive, sent, expected) in [
        (
            TokenReviewResult::Is(pod.clone()),
            false,
            None,
            Code::Unauthenticated,
        ),
        (TokenReviewResult::Is(pod.clone()), true, None, Code::Ok),
        // Nothing is known of the pod.
        (
            TokenReviewResult::Is(pod.clone()),
            true,
            Some(TOKEN),
            Code::PermissionDenied,
        ),
        (
            TokenReviewResult::Refused("no".into()),
            true,
            Some(TOKEN),
            Code::Unauthenticated,
        ),
        (
            TokenReviewResult::Unreachable("no".into()),
            true,
            Some(TOKEN),
            Code::Unavailable,
        ),
        (
            TokenReviewResult::Unreachable("no".into()),
            false,
            Some(TOKEN),
            Code::Unavailable,
        ),
        (
            TokenReviewResult::Busy,
            false,
            Some(TOKEN),
            Code::Unavailable,
        ),
        (
            TokenReviewResult::Is(pod.clone()),
            true,
            Some("x"),
            Code::Unauthenticated,
        ),
    ] {
        let (_engine, newest) = watch::channel(Arc::default());
        let method = Method::Kubernetes {
            reviews: reviews(answer.clone()),
            newest,
            permissive,
        };
        let authenticator = Authenticator::with(method, AuthenticationMetrics::default());
        let token = sent.map(|token| format!("Bearer {token}"));
        let heard = said(&authenticator, FRONT, token.as_deref()).await;
        let code = heard.err().unwrap_or(Code::Ok);
        assert_eq!(code, expected, "{answer:?} {permissive} {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_before_everything_is_known() {
    let incomplete = EngineSnapshot {
        waiting_for: vec!["pods".to_owned()],
        ..EngineSnapshot::default()
    };
    let (engine, newest) = watch::channel(Arc::new(incomplete));
    let workload = WorkloadIdentity::Account {
        namespace: "demo".into(),
        name: "front".into(),
    };
    let proxy = FRONT.parse().unwrap();
    let mut waiting = std::pin::pin!(fits(newest, std::slice::from_ref(&workload), &proxy));
    time::timeout(10 * PATIENCE, &mut waiting)
        .await
        .unwrap_err();
    let complete = time::Instant::now();
    engine.send_replace(Arc::default());
    let (denial, who) = waiting.await.unwrap_err();
    assert_eq!(
        denial,
        StreamDenial::IdentityMismatch(IdentityMismatch::PodNotFound)
    );
    assert_eq!(who, "ServiceAccount demo/front");
    assert!(complete.elapsed() <= PATIENCE);
}
