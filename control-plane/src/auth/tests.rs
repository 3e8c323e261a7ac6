use std::{fs, pin::pin, slice, task::Poll, time::SystemTime};

use futures::{FutureExt, future::join_all, poll};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use tonic::Code;

use super::*;

const FRONT: &str = "mesh/demo/virtualNode/front_demo";

fn arguments(method: Option<XdsAuthentication>) -> XdsArgs {
    XdsArgs {
        xds_authentication: method,
        xds_token_file: None,
        xds_token_audience: "evermesh".to_owned(),
        xds_tls_cert: None,
        xds_tls_service: None,
        xds_tls_key: None,
        xds_client_ca: None,
        xds_socket: None,
        xds_socket_mode: 0o600,
        max_stream_age: Duration::ZERO,
    }
}

/// The view or the status code for a stream with this node ID and `authorization` header.
async fn identify(
    authenticator: &Arc<Authenticator>,
    node: &str,
    authorization: Option<&str>,
) -> Result<String, Code> {
    let client = identify_client(authenticator, node, authorization).await;
    client.map(|client| client.view.to_string())
}

async fn identify_client(
    authenticator: &Arc<Authenticator>,
    node: &str,
    authorization: Option<&str>,
) -> Result<IdentifiedClient, Code> {
    let node = core::Node {
        id: node.to_owned(),
        ..core::Node::default()
    };
    let mut request = Request::new(());
    if let Some(value) = authorization {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let decide = async || {
        let authorize = decided(authenticator.authenticate(&request.into_parts().0)).await?;
        decided(authorize(&node)).await
    };
    decide().await.map_err(|status| status.code())
}

async fn decided<T>(decision: AuthDecision<T>) -> Result<T, Status> {
    match decision {
        AuthDecision::Now(known) => known,
        AuthDecision::Later(known) => known.await,
    }
}

/// A token with the audience `evermesh` and without an expiry.
const TOKEN: &str = "e30.eyJhdWQiOiJldmVybWVzaCJ9.eA";

fn reviewer(result: TokenReviewResult) -> Arc<TokenReviewer> {
    let send = move |_| std::future::ready(result.clone()).boxed();
    TokenReviewer::new(
        "evermesh".to_owned(),
        Arc::new(SystemTime::now),
        Box::new(send),
    )
}

#[test]
fn address_other_than_loopback_requires_an_authentication_method() {
    let new = |method, address: &str| {
        let address = address.parse().unwrap();
        let metrics = AuthenticationMetrics::default();
        Authenticator::new(&arguments(method), address, None, metrics)
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
async fn node_id_must_name_a_virtual_node_or_gateway() {
    let authenticator = Authenticator::with(Method::None, AuthenticationMetrics::default());
    assert_eq!(identify(&authenticator, FRONT, None).await.unwrap(), FRONT);
    for bad in [
        "",
        "front",
        "mesh/demo/virtualRouter/r",
        &"ü".repeat(100_000),
    ] {
        let code = identify(&authenticator, bad, None).await.unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn shared_token_is_accepted_for_any_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, "secret").unwrap();
    let authenticator = Authenticator::with(Method::Token(file), AuthenticationMetrics::default());
    let identify_front = async |authorization| identify(&authenticator, FRONT, authorization).await;
    assert_eq!(identify_front(Some("Bearer secret")).await.unwrap(), FRONT);
    for bad in [None, Some("Bearer other"), Some("AWS4-HMAC-SHA256 x")] {
        assert_eq!(
            identify_front(bad).await,
            Err(Code::Unauthenticated),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn identity_is_proven_by_credentials_and_by_limited_permissions_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, "secret").unwrap();
    let with = |method| Authenticator::with(method, AuthenticationMetrics::default());
    let review = TokenReviewResult::Rejected("no".into());
    let permissive = Method::Kubernetes {
        reviewer: reviewer(review),
        snapshots: watch::channel(Arc::default()).1,
        permissive: true,
    };
    for (authenticator, authorization, is_proven) in [
        (with(Method::None), None, false),
        (with(Method::Token(file)), Some("Bearer secret"), true),
        (with(permissive), None, false),
        (Authenticator::for_socket(0o600), None, true),
        (Authenticator::for_socket(0o660), None, true),
        (Authenticator::for_socket(0o662), None, false),
    ] {
        let client = identify_client(&authenticator, FRONT, authorization).await;
        assert_eq!(client.unwrap().is_proven, is_proven);
    }
}

#[tokio::test(start_paused = true)]
async fn kubernetes_method_verifies_tokens_and_permissive_accepts_their_absence() {
    let pod = WorkloadIdentity::Pod {
        namespace: "demo".into(),
        name: "front-1".into(),
        uid: "u".into(),
    };
    for (result, permissive, sent, expected) in [
        (
            TokenReviewResult::Authenticated(pod.clone()),
            false,
            None,
            Code::Unauthenticated,
        ),
        (
            TokenReviewResult::Authenticated(pod.clone()),
            true,
            None,
            Code::Ok,
        ),
        // The pod of the token is not in the snapshot.
        (
            TokenReviewResult::Authenticated(pod.clone()),
            true,
            Some(TOKEN),
            Code::PermissionDenied,
        ),
        (
            TokenReviewResult::Rejected("no".into()),
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
            TokenReviewResult::Authenticated(pod.clone()),
            true,
            Some("x"),
            Code::Unauthenticated,
        ),
    ] {
        let (_engine, snapshots) = watch::channel(Arc::default());
        let method = Method::Kubernetes {
            reviewer: reviewer(result.clone()),
            snapshots,
            permissive,
        };
        let authenticator = Authenticator::with(method, AuthenticationMetrics::default());
        let token = sent.map(|token| format!("Bearer {token}"));
        let identity = identify(&authenticator, FRONT, token.as_deref()).await;
        let code = identity.err().unwrap_or(Code::Ok);
        assert_eq!(code, expected, "{result:?} {permissive} {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stream_is_rejected_only_after_the_first_complete_read_and_the_wait_for_the_watches() {
    const TICK: Duration = Duration::from_millis(1);

    let incomplete = EngineSnapshot {
        waiting_for: vec!["pods".to_owned()],
        ..EngineSnapshot::default()
    };
    let (engine, snapshots) = watch::channel(Arc::new(incomplete));
    let workload = WorkloadIdentity::Account {
        namespace: "demo".into(),
        name: "front".into(),
    };
    let proxy = FRONT.parse().unwrap();
    let authenticator = Authenticator::with(Method::None, AuthenticationMetrics::default());
    let workloads = slice::from_ref(&workload);
    let mut waiting = pin!(authenticator.admit(snapshots, workloads, &proxy));
    assert!(poll!(&mut waiting).is_pending());
    for _ in 0..10 {
        time::advance(WATCH_DELAY_LIMIT).await;
        assert!(poll!(&mut waiting).is_pending());
    }
    engine.send_replace(Arc::default());
    assert!(poll!(&mut waiting).is_pending());
    time::advance(WATCH_DELAY_LIMIT.saturating_sub(TICK)).await;
    assert!(poll!(&mut waiting).is_pending());
    time::advance(2 * TICK).await;
    let Poll::Ready(result) = poll!(&mut waiting) else {
        panic!("still waiting")
    };
    let (denial, name) = result.map(drop).unwrap_err();
    let expected = StreamDenial::IdentityMismatch(IdentityMismatch::PodNotFound);
    assert_eq!(denial, expected);
    assert_eq!(name, "ServiceAccount demo/front");
}

#[tokio::test(start_paused = true)]
async fn fifth_waiting_stream_of_a_workload_is_rejected() {
    let (_engine, snapshots) = watch::channel(Arc::default());
    let pod = WorkloadIdentity::Pod {
        namespace: "demo".into(),
        name: "front-1".into(),
        uid: "u".into(),
    };
    let method = Method::Kubernetes {
        reviewer: reviewer(TokenReviewResult::Authenticated(pod)),
        snapshots,
        permissive: false,
    };
    let authenticator = Authenticator::with(method, AuthenticationMetrics::default());
    let token = format!("Bearer {TOKEN}");
    let streams = (0..5).map(|_| identify(&authenticator, FRONT, Some(&token)));
    let codes = join_all(streams).await;
    let count = |code| codes.iter().filter(|it| **it == Err(code)).count();
    assert_eq!(count(Code::ResourceExhausted), 1);
    assert_eq!(count(Code::PermissionDenied), 4);
    let alone = identify(&authenticator, FRONT, Some(&token)).await;
    assert_eq!(alone, Err(Code::PermissionDenied));
}

#[test]
fn reasons_in_the_log_are_these_strings() {
    use IdentityMismatch::{NotSelected, PodNotFound, ProxyNotFound};

    for (denial, reason) in [
        (StreamDenial::NoCredentials, "no_credentials"),
        (StreamDenial::BadCredentials, "bad_credentials"),
        (StreamDenial::IdentityMismatch(PodNotFound), "pod_not_found"),
        (
            StreamDenial::IdentityMismatch(ProxyNotFound),
            "proxy_not_found",
        ),
        (StreamDenial::IdentityMismatch(NotSelected), "not_selected"),
        (StreamDenial::OtherProxy, "wrong_proxy"),
        (StreamDenial::Unchecked, "unchecked"),
        (StreamDenial::Busy, "busy"),
        (StreamDenial::Waiting, "waiting"),
    ] {
        assert_eq!(denial.reason(), reason);
    }
}
