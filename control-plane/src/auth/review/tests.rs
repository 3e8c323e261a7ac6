use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::*;

/// A token that says when it ends, in seconds from now.
fn token(name: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let end = now.unwrap().as_secs().saturating_add_signed(seconds);
    let claims = format!("{{\"aud\":[\"evermesh\"],\"exp\":{end},\"sub\":\"{name}\"}}");
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
    format!("{}.{claims}.eA", BASE64_URL_SAFE_NO_PAD.encode(name))
}

type Spoil = fn(&mut serde_json::Value);

fn workload() -> WorkloadIdentity {
    WorkloadIdentity::Pod {
        namespace: "shop".into(),
        name: "front-1".into(),
        uid: "u".into(),
    }
}

/// An API server that knows every token but those with the name `bad`, and may be gone.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<AtomicUsize>,
    gone: Arc<Mutex<bool>>,
}

impl Server {
    fn reviews(&self) -> Arc<TokenReviewer> {
        let server = self.clone();
        let ask = move |token: String| {
            let server = server.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                server.asked.fetch_add(1, SeqCst);
                if *server.gone.lock() {
                    return TokenReviewResult::Unreachable("gone".into());
                }
                if token.starts_with(&BASE64_URL_SAFE_NO_PAD.encode("bad")) {
                    return TokenReviewResult::Refused("bad".into());
                }
                TokenReviewResult::Is(workload())
            }
            .boxed()
        };
        TokenReviewer::new("evermesh".to_owned(), Box::new(ask))
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

#[tokio::test]
async fn streams_with_one_token_are_one_question() {
    let server = Server::default();
    let reviews = server.reviews();
    let token = token("a", 60);
    let asked: Vec<_> = (0..100).map(|_| reviews.of(&token)).collect();
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer, TokenReviewResult::Is(workload()));
    }
    assert_eq!(server.asked(), 1);
    assert!(reviews.state.lock().asked.is_empty());
}

#[tokio::test]
async fn a_stream_that_does_not_wait_leaves_the_question_to_others() {
    let server = Server::default();
    let reviews = server.reviews();
    drop(reviews.of(&token("a", 60)));
    assert_eq!(
        reviews.of(&token("a", 60)).await,
        TokenReviewResult::Is(workload())
    );
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn what_was_accepted_stays_so_without_the_api_server_until_it_ends() {
    let server = Server::default();
    let reviews = server.reviews();
    let (good, over, other) = (token("a", 60), token("b", -1), token("c", 60));
    for token in [&good, &over] {
        assert_eq!(reviews.of(token).await, TokenReviewResult::Is(workload()));
    }
    *server.gone.lock() = true;
    assert_eq!(reviews.of(&good).await, TokenReviewResult::Is(workload()));
    for token in [&over, &other] {
        let answer = reviews.of(token).await;
        assert_eq!(answer, TokenReviewResult::Unreachable("gone".into()));
    }
    *server.gone.lock() = false;
    assert_eq!(reviews.of(&other).await, TokenReviewResult::Is(workload()));
}

#[tokio::test]
async fn a_refusal_is_remembered_for_a_while() {
    let server = Server::default();
    let reviews = server.reviews();
    let bad = token("bad", 60);
    for _ in 0..3 {
        let answer = reviews.of(&bad).await;
        assert_eq!(answer, TokenReviewResult::Refused("bad".into()));
    }
    assert_eq!(server.asked(), 1);
    let long = "x".repeat(LENGTH_LIMIT + 1);
    assert!(matches!(
        reviews.of(&long).await,
        TokenReviewResult::Refused(_)
    ));
    assert_eq!(server.asked(), 1);
    let state = reviews.state.lock();
    let later = SystemTime::now() + REFUSED;
    assert_eq!(state.remembered(&key(&bad), later), None);
}

#[test]
fn what_is_remembered_is_bounded() {
    let now = SystemTime::now();
    let end = |seconds: u64| now + Duration::from_secs(seconds);
    let mut memory = ExpiringMap::<usize>::default();
    for index in 0..10_u8 {
        let after = u64::from(index) + 1;
        memory.put([index; 32], index.into(), end(after), now, 4);
        assert!(memory.0.len() <= 4);
    }
    assert_eq!(memory.get(&[0; 32], now), None, "it ends first");
    assert_eq!(memory.get(&[9; 32], now), Some(&9));
    assert_eq!(memory.get(&[9; 32], end(10)), None, "it is over");
    memory.put([99; 32], 99, end(60), end(20), 4);
    assert_eq!(memory.0.len(), 1, "what is over goes first");
}

#[test]
fn reads_what_the_api_server_says() {
    let status = |json: serde_json::Value| serde_json::from_value(json).unwrap();
    let good = serde_json::json!({
        "authenticated": true,
        "audiences": ["evermesh"],
        "user": {
            "username": "system:serviceaccount:shop:front",
            "extra": {POD_NAME: ["front-1"], POD_UID: ["u"]},
        },
    });
    assert_eq!(
        read(status(good.clone()), "evermesh"),
        TokenReviewResult::Is(workload())
    );
    let cases: [(Spoil, &str); 5] = [
        (|it| it["authenticated"] = false.into(), "does not know it"),
        (|it| it["audiences"] = "".into(), "audience"),
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
    for (spoil, why) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        if bad["audiences"] == "" {
            bad["audiences"] = serde_json::Value::Null;
        }
        let TokenReviewResult::Refused(said) = read(status(bad), "evermesh") else {
            panic!("{why}")
        };
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn what_says_of_itself_that_it_is_of_no_use_is_not_asked_about() {
    let server = Server::default();
    let reviews = server.reviews();
    for token in ["x", &token("a", -61)] {
        assert!(matches!(
            reviews.of(token).await,
            TokenReviewResult::Refused(_)
        ));
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_questions_wait_than_are_answered_soon() {
    let server = Server::default();
    let reviews = server.reviews();
    let first: Vec<_> = (0..WAITING_LIMIT)
        .map(|index| reviews.of(&token(&index.to_string(), 60)))
        .collect();
    assert_eq!(
        reviews.of(&token("late", 60)).await,
        TokenReviewResult::Busy
    );
    for answer in futures::future::join_all(first).await {
        assert_eq!(answer, TokenReviewResult::Is(workload()));
    }
    let again = reviews.of(&token("late", 60)).await;
    assert_eq!(again, TokenReviewResult::Is(workload()));
    assert_eq!(server.asked(), WAITING_LIMIT + 1);
}
