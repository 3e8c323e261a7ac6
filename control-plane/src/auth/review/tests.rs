use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::future::join_all;
use tokio::sync::watch;

use super::*;

const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// A token of this name that expires `seconds` from now.
fn token(name: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let end = now.unwrap().as_secs().saturating_add_signed(seconds);
    let claims = format!("{{\"aud\":[\"evermesh\"],\"exp\":{end},\"sub\":\"{name}\"}}");
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
    format!("{}.{claims}.eA", BASE64_URL_SAFE_NO_PAD.encode(name))
}

fn workload() -> WorkloadIdentity {
    WorkloadIdentity::Pod {
        namespace: "shop".into(),
        name: "front-1".into(),
        uid: "u".into(),
    }
}

fn authenticated() -> TokenReviewResult {
    TokenReviewResult::Authenticated(workload())
}

/// An API server that accepts every token except those named `bad`.
#[derive(Clone)]
struct FakeApiServer {
    /// Reviews received so far.
    received: Arc<watch::Sender<usize>>,
    /// Closed once the server answers; before, each review waits here.
    gate: Arc<Semaphore>,
    is_unreachable: Arc<AtomicBool>,
}

impl FakeApiServer {
    fn answering() -> Self {
        let server = Self::holding();
        server.answer();
        server
    }

    /// A server that receives reviews but does not answer until [`Self::answer`].
    fn holding() -> Self {
        Self {
            received: Arc::new(watch::Sender::new(0)),
            gate: Arc::new(Semaphore::new(0)),
            is_unreachable: Arc::default(),
        }
    }

    fn answer(&self) {
        self.gate.close();
    }

    fn reviewer(&self) -> Arc<TokenReviewer> {
        self.reviewer_at(Arc::new(SystemTime::now))
    }

    fn reviewer_at(&self, clock: Clock) -> Arc<TokenReviewer> {
        let server = self.clone();
        let send = move |token: String| {
            let server = server.clone();
            async move {
                server.received.send_modify(|received| *received += 1);
                server.gate.acquire().await.unwrap_err();
                if server.is_unreachable.load(SeqCst) {
                    return TokenReviewResult::Unreachable("gone".into());
                }
                if token.starts_with(&BASE64_URL_SAFE_NO_PAD.encode("bad")) {
                    return TokenReviewResult::Rejected("bad".into());
                }
                authenticated()
            }
            .boxed()
        };
        TokenReviewer::new("evermesh".to_owned(), clock, Box::new(send))
    }

    fn received(&self) -> usize {
        *self.received.borrow()
    }

    async fn receives(&self, reviews: usize) {
        let mut received = self.received.subscribe();
        received.wait_for(|it| *it == reviews).await.unwrap();
    }
}

#[tokio::test]
async fn streams_with_the_same_token_share_one_review() {
    let server = FakeApiServer::holding();
    let reviewer = server.reviewer();
    let token = token("a", 60);
    let first = reviewer.review(&token, CLIENT);
    server.receives(1).await;
    let others: Vec<_> = (0..99).map(|_| reviewer.review(&token, CLIENT)).collect();
    server.answer();
    for result in join_all(others.into_iter().chain([first])).await {
        assert_eq!(result, authenticated());
    }
    assert_eq!(server.received(), 1);
    assert!(reviewer.state.lock().pending.is_empty());
}

#[tokio::test]
async fn review_continues_for_others_after_its_stream_has_gone() {
    let server = FakeApiServer::holding();
    let reviewer = server.reviewer();
    let first = reviewer.review(&token("a", 60), CLIENT);
    server.receives(1).await;
    drop(first);
    let second = reviewer.review(&token("a", 60), CLIENT);
    server.answer();
    assert_eq!(second.await, authenticated());
    assert_eq!(server.received(), 1);
}

#[tokio::test]
async fn accepted_token_stays_accepted_until_it_expires_while_the_api_server_is_unreachable() {
    let server = FakeApiServer::answering();
    let reviewer = server.reviewer();
    let (valid, expired, unknown) = (token("a", 60), token("b", -1), token("c", 60));
    for token in [&valid, &expired] {
        assert_eq!(reviewer.review(token, CLIENT).await, authenticated());
    }
    server.is_unreachable.store(true, SeqCst);
    assert_eq!(reviewer.review(&valid, CLIENT).await, authenticated());
    for token in [&expired, &unknown] {
        let result = reviewer.review(token, CLIENT).await;
        assert_eq!(result, TokenReviewResult::Unreachable("gone".into()));
    }
    server.is_unreachable.store(false, SeqCst);
    assert_eq!(reviewer.review(&unknown, CLIENT).await, authenticated());
}

/// A machine that is an hour ahead of the API server, and one that is an hour behind.
#[tokio::test]
async fn tokens_expire_by_the_clock_of_the_reviewer() {
    let server = FakeApiServer::answering();
    let hour = Duration::from_hours(1);
    let behind = server.reviewer_at(Arc::new(move || SystemTime::now() - hour));
    let expired_here = token("a", -600);
    assert_eq!(behind.review(&expired_here, CLIENT).await, authenticated());
    let ahead = server.reviewer_at(Arc::new(move || SystemTime::now() + hour));
    let valid_here = token("b", 600);
    let result = ahead.review(&valid_here, CLIENT).await;
    assert!(matches!(result, TokenReviewResult::Rejected(_)));
    assert_eq!(server.received(), 1);
}

#[tokio::test]
async fn rejection_is_cached_until_its_ttl_ends() {
    let server = FakeApiServer::answering();
    let reviewer = server.reviewer();
    let bad = token("bad", 60);
    for _ in 0..3 {
        let result = reviewer.review(&bad, CLIENT).await;
        assert_eq!(result, TokenReviewResult::Rejected("bad".into()));
    }
    assert_eq!(server.received(), 1);
    let state = reviewer.state.lock();
    let later = SystemTime::now() + REJECTED_TTL;
    assert_eq!(state.cached(&key(&bad), later), None);
}

#[tokio::test]
async fn invalid_tokens_are_rejected_without_a_review() {
    let server = FakeApiServer::answering();
    let reviewer = server.reviewer();
    let too_long = "x".repeat(TOKEN_LIMIT + 1);
    for token in ["x", &token("a", -61), &too_long] {
        let result = reviewer.review(token, CLIENT).await;
        assert!(matches!(result, TokenReviewResult::Rejected(_)));
    }
    assert_eq!(server.received(), 0);
}

/// The client at one of as many addresses as it takes to fill all places.
fn client(index: usize) -> IpAddr {
    let address = u8::try_from(index / ADDRESS_LIMIT).unwrap();
    Ipv4Addr::new(10, 0, 0, address).into()
}

#[tokio::test]
async fn pending_reviews_are_bounded() {
    let server = FakeApiServer::holding();
    let reviewer = server.reviewer();
    let first: Vec<_> = (0..PENDING_LIMIT)
        .map(|index| reviewer.review(&token(&index.to_string(), 60), Some(client(index))))
        .collect();
    let late = token("late", 60);
    let result = reviewer.review(&late, CLIENT).now_or_never();
    assert_eq!(result, Some(TokenReviewResult::Busy));
    server.receives(CONCURRENCY).await;
    server.answer();
    for result in join_all(first).await {
        assert_eq!(result, authenticated());
    }
    assert_eq!(reviewer.review(&late, CLIENT).await, authenticated());
    assert_eq!(server.received(), PENDING_LIMIT + 1);
    assert!(reviewer.state.lock().pending_by_address.is_empty());
}

#[tokio::test]
async fn flood_of_one_address_leaves_room_for_tokens_of_others() {
    let server = FakeApiServer::holding();
    let reviewer = server.reviewer();
    let flood: Vec<_> = (0..2 * PENDING_LIMIT)
        .map(|index| reviewer.review(&token(&format!("bad{index}"), 60), Some(client(0))))
        .collect();
    let honest = reviewer.review(&token("honest", 60), CLIENT);
    server.answer();
    assert_eq!(honest.await, authenticated());
    let results = join_all(flood).await;
    let busy = |result: &&TokenReviewResult| **result == TokenReviewResult::Busy;
    let busy = results.iter().filter(busy).count();
    assert_eq!(busy, 2 * PENDING_LIMIT - ADDRESS_LIMIT);
    let again = reviewer.review(&token("again", 60), Some(client(0)));
    assert_eq!(again.await, authenticated());
}

#[test]
fn cache_is_bounded_and_drops_what_expires_first() {
    let now = SystemTime::now();
    let end = |seconds: u64| now + Duration::from_secs(seconds);
    let mut cache = ExpiringMap::<usize>::default();
    for index in 0..10_u8 {
        let after = u64::from(index) + 1;
        cache.put([index; 32], index.into(), end(after), now, 4);
        assert!(cache.0.len() <= 4);
    }
    assert_eq!(cache.get(&[0; 32], now), None, "expires first");
    assert_eq!(cache.get(&[9; 32], now), Some(&9));
    assert_eq!(cache.get(&[9; 32], end(10)), None, "has expired");
    cache.put([99; 32], 99, end(60), end(20), 4);
    assert_eq!(cache.0.len(), 1, "expired values are removed first");
}

#[test]
fn review_status_must_name_the_audience_and_a_pod() {
    type Change = fn(&mut serde_json::Value);

    let status = |json: serde_json::Value| serde_json::from_value(json).unwrap();
    let good = serde_json::json!({
        "authenticated": true,
        "audiences": ["evermesh"],
        "user": {
            "username": "system:serviceaccount:shop:front",
            "extra": {POD_NAME: ["front-1"], POD_UID: ["u"]},
        },
    });
    assert_eq!(read(status(good.clone()), "evermesh"), authenticated());
    let cases: [(Change, &str); 5] = [
        (|it| it["authenticated"] = false.into(), "does not accept"),
        (|it| drop(it["audiences"].take()), "audience"),
        (|it| it["audiences"] = vec!["other"].into(), "audience"),
        (
            |it| it["user"]["extra"] = serde_json::json!({}),
            "bound to a pod",
        ),
        (
            |it| it["user"]["username"] = "kubelet".into(),
            "bound to a pod",
        ),
    ];
    for (change, reason) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let TokenReviewResult::Rejected(message) = read(status(bad), "evermesh") else {
            panic!("{reason}")
        };
        assert!(message.contains(reason), "{message}");
    }
}
