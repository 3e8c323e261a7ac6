//! Whose a service account's token is: the API server's word, remembered.
//!
//! An accepted token is remembered until it expires, so an API server that is gone refuses nobody whom it has accepted
//! before; a refused one for [`REFUSED`]. Several streams with one token are one question. What is remembered is bounded,
//! and holds no token but its digest.
//!
//! Anybody can make up tokens: one that is of no use by its own [`claims`] is refused without a question, and no more
//! than [`WAITING_LIMIT`] questions wait.
//!
//! Must not decide what a workload may be.

mod claims;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use evermesh_ingest::identity::WorkloadIdentity;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore};

use self::claims::Claims;

/// How long a refusal is remembered.
const REFUSED: Duration = Duration::from_secs(10);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions at a time; further ones wait.
const AT_A_TIME: usize = 32;

/// Questions that are asked or wait, each with its token. A replica that starts beside thousands of proxies gets through
/// as many in about a second.
const WAITING_LIMIT: usize = 2_048;

/// Tokens that are remembered, of each kind.
const ACCEPTED_LIMIT: usize = 65_536;
const REFUSED_LIMIT: usize = 4_096;

/// A longer token is nobody's.
const LENGTH_LIMIT: usize = 16 << 10;

/// What a pod's token says of the pod (Kubernetes, "bound service account tokens").
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// What is said of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenReviewResult {
    /// It is this workload's.
    Is(WorkloadIdentity),
    /// It is not accepted.
    Refused(Arc<str>),
    /// Nobody could be asked.
    Unreachable(Arc<str>),
    /// Too many wait for an answer.
    Busy,
}

/// Asks about a token.
pub(super) type Ask = Box<dyn Fn(String) -> BoxFuture<'static, TokenReviewResult> + Send + Sync>;

type Digest = [u8; 32];
type Asked = Shared<BoxFuture<'static, TokenReviewResult>>;

/// What was asked, and what was answered.
pub(super) struct TokenReviewer {
    audience: String,
    ask: Ask,
    places: Semaphore,
    state: Mutex<State>,
    /// Where questions run to their end, whoever still waits for them.
    runtime: Handle,
}

#[derive(Default)]
struct State {
    asked: BTreeMap<Digest, Asked>,
    accepted: ExpiringMap<WorkloadIdentity>,
    refused: ExpiringMap<Arc<str>>,
}

/// Answers with their ends.
struct ExpiringMap<T>(BTreeMap<Digest, (T, SystemTime)>);

impl<T> Default for ExpiringMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl TokenReviewer {
    /// Nothing is known yet of tokens for this audience. It must be made on the runtime that the questions shall run on.
    pub(super) fn new(audience: String, ask: Ask) -> Arc<Self> {
        Arc::new(Self {
            audience,
            ask,
            places: Semaphore::new(AT_A_TIME),
            state: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// Whose a token is.
    pub(super) fn of(self: &Arc<Self>, token: &str) -> BoxFuture<'static, TokenReviewResult> {
        if token.len() > LENGTH_LIMIT {
            return ready(TokenReviewResult::Refused("it is too long".into()));
        }
        let (key, now) = (key(token), SystemTime::now());
        let mut state = self.state.lock();
        if let Some(answer) = state.remembered(&key, now) {
            return ready(answer);
        }
        if let Some(asked) = state.asked.get(&key) {
            return asked.clone().boxed();
        }
        let expiry = match Claims::read(token).and_then(|it| it.check(&self.audience, now)) {
            Ok(expiry) => expiry,
            Err(why) => return ready(TokenReviewResult::Refused(why.into())),
        };
        if state.asked.len() >= WAITING_LIMIT {
            return ready(TokenReviewResult::Busy);
        }
        let (this, token) = (Arc::clone(self), token.to_owned());
        let asking = self.runtime.spawn(async move {
            let answer = match this.places.acquire().await {
                Ok(_place) => (this.ask)(token).await,
                Err(closed) => TokenReviewResult::Unreachable(closed.to_string().into()),
            };
            let mut state = this.state.lock();
            state.asked.remove(&key);
            state.remember(key, &answer, expiry, SystemTime::now());
            answer
        });
        let asked = asking.map(|ended| {
            ended.unwrap_or_else(|error| TokenReviewResult::Unreachable(error.to_string().into()))
        });
        let asked = asked.boxed().shared();
        state.asked.insert(key, asked.clone());
        asked.boxed()
    }
}

impl State {
    fn remembered(&self, key: &Digest, now: SystemTime) -> Option<TokenReviewResult> {
        let accepted = self
            .accepted
            .get(key, now)
            .cloned()
            .map(TokenReviewResult::Is);
        accepted.or_else(|| {
            self.refused
                .get(key, now)
                .cloned()
                .map(TokenReviewResult::Refused)
        })
    }

    fn remember(
        &mut self,
        key: Digest,
        answer: &TokenReviewResult,
        expiry: Option<SystemTime>,
        now: SystemTime,
    ) {
        match answer {
            TokenReviewResult::Is(workload) => {
                // One that does not say when it ends is asked about again soon.
                let end = expiry.unwrap_or(now + REFUSED);
                self.accepted
                    .put(key, workload.clone(), end, now, ACCEPTED_LIMIT);
            }
            TokenReviewResult::Refused(why) => {
                let end = now + REFUSED;
                self.refused
                    .put(key, Arc::clone(why), end, now, REFUSED_LIMIT);
            }
            TokenReviewResult::Unreachable(_) | TokenReviewResult::Busy => {}
        }
    }
}

impl<T> ExpiringMap<T> {
    fn get(&self, key: &Digest, now: SystemTime) -> Option<&T> {
        let (value, end) = self.0.get(key)?;
        (now < *end).then_some(value)
    }

    fn put(&mut self, key: Digest, value: T, end: SystemTime, now: SystemTime, limit: usize) {
        if self.0.len() >= limit {
            self.0.retain(|_, (_, end)| now < *end);
        }
        if self.0.len() >= limit {
            let first = self.0.iter().min_by_key(|(_, (_, end))| *end);
            let first = first.map(|(key, _)| *key);
            first.and_then(|key| self.0.remove(&key));
        }
        self.0.insert(key, (value, end));
    }
}

/// Asks the API server whether a token is good for this audience.
pub(super) fn ask(client: Client, audience: String) -> Ask {
    Box::new(move |token| {
        let api: Api<TokenReview> = Api::all(client.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![audience.clone()]),
                token,
            },
            ..TokenReview::default()
        };
        let audience = audience.clone();
        async move {
            let options = PostParams::default();
            let asked = tokio::time::timeout(PATIENCE, api.create(&options, &review));
            match asked.await {
                Ok(Ok(review)) => read(review.status.unwrap_or_default(), &audience),
                Ok(Err(error)) => TokenReviewResult::Unreachable(error.to_string().into()),
                Err(_late) => {
                    TokenReviewResult::Unreachable(format!("no answer within {PATIENCE:?}").into())
                }
            }
        }
        .boxed()
    })
}

fn read(status: TokenReviewStatus, audience: &str) -> TokenReviewResult {
    let TokenReviewStatus {
        audiences,
        authenticated,
        error,
        user,
    } = status;
    if authenticated != Some(true) {
        let why = error.unwrap_or_else(|| "the API server does not know it".to_owned());
        return TokenReviewResult::Refused(why.into());
    }
    // An API server that knows nothing of audiences says so by naming none.
    if !audiences.iter().flatten().any(|it| it == audience) {
        return TokenReviewResult::Refused(format!("it is not for the audience {audience}").into());
    }
    let user = user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:");
    let namespace = account.and_then(|account| account.split_once(':'));
    let extra = user.extra.unwrap_or_default();
    let said = |key: &str| extra.get(key).and_then(|values| values.first());
    match (namespace, said(POD_NAME), said(POD_UID)) {
        (Some((namespace, _)), Some(pod), Some(uid)) => {
            TokenReviewResult::Is(WorkloadIdentity::Pod {
                namespace: namespace.into(),
                name: pod.as_str().into(),
                uid: uid.as_str().into(),
            })
        }
        _ => {
            TokenReviewResult::Refused(format!("the token of {name} is not bound to a pod").into())
        }
    }
}

fn ready(answer: TokenReviewResult) -> BoxFuture<'static, TokenReviewResult> {
    std::future::ready(answer).boxed()
}

fn key(token: &str) -> Digest {
    let digest = digest(&SHA256, token.as_bytes());
    let mut key = Digest::default();
    key.copy_from_slice(digest.as_ref());
    key
}

#[cfg(test)]
mod tests;
