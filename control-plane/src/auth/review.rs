//! Verifies service account tokens with the API server (`TokenReview`) and caches the results.
//!
//! An accepted token is cached until it expires by the clock of the API server, so proxies whose token was accepted before can reconnect while the API
//! server is unreachable. A rejected token is cached for [`REJECTED_TTL`]. Streams with the same token share one
//! review. The caches are bounded and hold SHA-256 digests instead of tokens.
//!
//! Every client can send made-up tokens. A token whose [`claims`] already show that it is invalid is rejected without a
//! review, and at most [`PENDING_LIMIT`] reviews are pending, of which one address may hold [`ADDRESS_LIMIT`], so that
//! no single client can keep the tokens of all others out.

mod claims;

use std::{
    collections::BTreeMap,
    net::IpAddr,
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
use crate::server_clock::Clock;

/// Time for which a rejection is cached, and an acceptance of a token without `exp`.
const REJECTED_TTL: Duration = Duration::from_secs(10);

/// Reviews that the API server handles at the same time; further ones wait.
const CONCURRENCY: usize = 32;

/// Reviews that run or wait, each with its token. A replica that starts while thousands of proxies connect completes
/// this many in about one second.
const PENDING_LIMIT: usize = 2_048;

/// Pending reviews of the tokens of one address: two rounds of [`CONCURRENCY`], so that a review waits for two rounds of
/// each other address at most.
const ADDRESS_LIMIT: usize = 2 * CONCURRENCY;

/// Tokens in each cache.
const ACCEPTED_LIMIT: usize = 65_536;
const REJECTED_LIMIT: usize = 4_096;

/// Longest token in bytes. Service account tokens have about 1 KiB.
const TOKEN_LIMIT: usize = 16 << 10;

/// Keys in `status.user.extra` of a review that identify the pod of a bound service account token.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenReviewResult {
    Authenticated(WorkloadIdentity),
    /// The token is not valid, with the reason.
    Rejected(Arc<str>),
    /// The API server did not answer, with the error.
    Unreachable(Arc<str>),
    /// [`PENDING_LIMIT`] reviews are pending, or [`ADDRESS_LIMIT`] of the client's address.
    Busy,
}

/// Sends one token to the API server.
pub(super) type ReviewFn =
    Box<dyn Fn(String) -> BoxFuture<'static, TokenReviewResult> + Send + Sync>;

type Digest = [u8; 32];
type PendingReview = Shared<BoxFuture<'static, TokenReviewResult>>;

/// Reviews tokens for one audience.
pub(super) struct TokenReviewer {
    audience: String,
    clock: Clock,
    send: ReviewFn,
    slots: Semaphore,
    state: Mutex<State>,
    /// Runs each review to its end, even if the stream that started it has gone.
    runtime: Handle,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<Digest, PendingReview>,
    /// Number of pending reviews by the address that sent the token first; absent for an unknown address.
    pending_by_address: BTreeMap<Option<IpAddr>, usize>,
    accepted: ExpiringMap<WorkloadIdentity>,
    rejected: ExpiringMap<Arc<str>>,
}

/// Values with the time at which each one expires.
struct ExpiringMap<T>(BTreeMap<Digest, (T, SystemTime)>);

impl<T> Default for ExpiringMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl TokenReviewer {
    /// Creates a reviewer whose reviews run on the current runtime.
    ///
    /// # Panics
    /// The caller is not on a tokio runtime.
    pub(super) fn new(audience: String, clock: Clock, send: ReviewFn) -> Arc<Self> {
        Arc::new(Self {
            audience,
            clock,
            send,
            slots: Semaphore::new(CONCURRENCY),
            state: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// Takes the result from the cache, joins a pending review of the same token or starts a review. `address` is that of
    /// the client.
    pub(super) fn review(
        self: &Arc<Self>,
        token: &str,
        address: Option<IpAddr>,
    ) -> BoxFuture<'static, TokenReviewResult> {
        if token.len() > TOKEN_LIMIT {
            let reason = format!("the token is longer than {TOKEN_LIMIT} bytes");
            return ready(TokenReviewResult::Rejected(reason.into()));
        }
        let (key, now) = (key(token), (self.clock)());
        let mut state = self.state.lock();
        if let Some(result) = state.cached(&key, now) {
            return ready(result);
        }
        if let Some(pending) = state.pending.get(&key) {
            return pending.clone().boxed();
        }
        let expiry = match Claims::read(token).and_then(|it| it.check(&self.audience, now)) {
            Ok(expiry) => expiry,
            Err(why) => return ready(TokenReviewResult::Rejected(why.into())),
        };
        if !state.has_room(address) {
            return ready(TokenReviewResult::Busy);
        }
        let (this, token) = (Arc::clone(self), token.to_owned());
        let running = self.runtime.spawn(async move {
            let result = match this.slots.acquire().await {
                Ok(_slot) => (this.send)(token).await,
                Err(closed) => TokenReviewResult::Unreachable(closed.to_string().into()),
            };
            let mut state = this.state.lock();
            state.end(&key, address);
            state.cache(key, &result, expiry, (this.clock)());
            result
        });
        let pending = running.map(|ended| {
            ended.unwrap_or_else(|error| TokenReviewResult::Unreachable(error.to_string().into()))
        });
        let pending = pending.boxed().shared();
        state.begin(key, address, pending.clone());
        pending.boxed()
    }
}

impl State {
    fn cached(&self, key: &Digest, now: SystemTime) -> Option<TokenReviewResult> {
        let accepted = self.accepted.get(key, now).cloned();
        let rejected = || self.rejected.get(key, now).cloned();
        accepted
            .map(TokenReviewResult::Authenticated)
            .or_else(|| rejected().map(TokenReviewResult::Rejected))
    }

    fn has_room(&self, address: Option<IpAddr>) -> bool {
        let of_address = self.pending_by_address.get(&address);
        self.pending.len() < PENDING_LIMIT && of_address.is_none_or(|it| *it < ADDRESS_LIMIT)
    }

    fn begin(&mut self, key: Digest, address: Option<IpAddr>, review: PendingReview) {
        self.pending.insert(key, review);
        *self.pending_by_address.entry(address).or_default() += 1;
    }

    fn end(&mut self, key: &Digest, address: Option<IpAddr>) {
        self.pending.remove(key);
        if let Some(count) = self.pending_by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.pending_by_address.remove(&address);
            }
        }
    }

    fn cache(
        &mut self,
        key: Digest,
        result: &TokenReviewResult,
        expiry: Option<SystemTime>,
        now: SystemTime,
    ) {
        match result {
            TokenReviewResult::Authenticated(workload) => {
                let end = expiry.unwrap_or(now + REJECTED_TTL);
                self.accepted
                    .put(key, workload.clone(), end, now, ACCEPTED_LIMIT);
            }
            TokenReviewResult::Rejected(why) => {
                let end = now + REJECTED_TTL;
                self.rejected
                    .put(key, Arc::clone(why), end, now, REJECTED_LIMIT);
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

    /// Inserts a value. At the limit, expired values are removed, and then the one that expires first. O(n) at the
    /// limit.
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

/// Reviews tokens for this audience with the API server.
pub(super) fn with_api_server(client: Client, audience: String) -> ReviewFn {
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
            match api.create(&options, &review).await {
                Ok(review) => read(review.status.unwrap_or_default(), &audience),
                Err(error) => TokenReviewResult::Unreachable(error.to_string().into()),
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
        let why = error.unwrap_or_else(|| "the API server does not accept the token".to_owned());
        return TokenReviewResult::Rejected(why.into());
    }
    // An API server that does not check audiences returns none, so the token could be for another server.
    if !audiences.iter().flatten().any(|it| it == audience) {
        return TokenReviewResult::Rejected(
            format!("the token is not for the audience `{audience}`").into(),
        );
    }
    let user = user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:");
    let namespace = account.and_then(|account| account.split_once(':'));
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first());
    match (namespace, first(POD_NAME), first(POD_UID)) {
        (Some((namespace, _)), Some(pod), Some(uid)) => {
            TokenReviewResult::Authenticated(WorkloadIdentity::Pod {
                namespace: namespace.into(),
                name: pod.as_str().into(),
                uid: uid.as_str().into(),
            })
        }
        _ => TokenReviewResult::Rejected(
            format!("the token of `{name}` is not bound to a pod").into(),
        ),
    }
}

fn ready(result: TokenReviewResult) -> BoxFuture<'static, TokenReviewResult> {
    std::future::ready(result).boxed()
}

fn key(token: &str) -> Digest {
    let digest = digest(&SHA256, token.as_bytes());
    let mut key = Digest::default();
    key.copy_from_slice(digest.as_ref());
    key
}

#[cfg(test)]
mod tests;
