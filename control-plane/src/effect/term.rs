//! A term: the time from which this replica holds the Lease until it loses it or gives it up.
//!
//! [`lease`](super::lease) begins a term, prolongs it with each renewal and ends it. Everything that the leader writes
//! goes through [`LeaseTerm::client`]. The client compares the time before it sends a request, and drops open requests
//! at the end of the term, so that no write overlaps with those of the next leader.
//!
//! The status writer notes in the term whether its writes are answered. A leader whose writes are not gives up the Lease,
//! because another replica may have a working connection.

use std::{sync::Arc, time::Duration};

use kube::Client;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api_client::wrapped;

/// Time for which writes may stay without an answer before the leader gives up the Lease.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct LeaseTerm(Arc<TermState>);

#[derive(Debug)]
struct TermState {
    ended: CancellationToken,
    expiry: Mutex<Instant>,
    /// Time of the last answer to a write, or of the first write after none was pending; `None` while none is pending.
    unanswered_since: Mutex<Option<Instant>>,
}

impl PartialEq for LeaseTerm {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for LeaseTerm {}

impl LeaseTerm {
    pub(super) fn until(expiry: Instant) -> Self {
        Self(Arc::new(TermState {
            ended: CancellationToken::new(),
            expiry: Mutex::new(expiry),
            unanswered_since: Mutex::new(None),
        }))
    }

    /// Moves the expiry. Returns false if the term is over; it never begins again.
    pub(super) fn prolong(&self, until: Instant) -> bool {
        let mut expiry = self.0.expiry.lock();
        let is_current = self.is_current_at(*expiry);
        if is_current {
            *expiry = until;
        }
        is_current
    }

    /// Ends the term now.
    pub(super) fn end(&self) {
        self.0.ended.cancel();
    }

    pub(super) fn is_current(&self) -> bool {
        self.is_current_at(*self.0.expiry.lock())
    }

    fn is_current_at(&self, expiry: Instant) -> bool {
        !self.0.ended.is_cancelled() && Instant::now() < expiry
    }

    /// A client whose requests fail from the end of the term on, also those that were sent before.
    pub(super) fn client(&self, client: &Client) -> Client {
        let term = self.clone();
        wrapped(client, move |client, request| {
            let term = term.clone();
            async move {
                tokio::select! {
                    biased;
                    () = term.over() => Err(kube::Error::Service("this replica is no longer the leader".into())),
                    answer = client.send(request) => answer,
                }
            }
        })
    }

    /// Waits for the end of the term.
    async fn over(&self) {
        while self.is_current() {
            let expiry = *self.0.expiry.lock();
            tokio::select! {
                () = self.0.ended.cancelled() => {}
                () = sleep_until(expiry) => {}
            }
        }
    }

    /// Notes whether writes are pending.
    pub(super) fn note_pending(&self, is_pending: bool) {
        let mut since = self.0.unanswered_since.lock();
        *since = is_pending.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Notes that the API server has answered a write.
    pub(super) fn note_answer(&self) {
        *self.0.unanswered_since.lock() = None;
    }

    /// Whether the API server has left every write of the last [`PATIENCE`] unanswered.
    pub(super) fn is_stalled(&self) -> bool {
        let since = *self.0.unanswered_since.lock();
        since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use evermesh_testkit::fake_api_server::{ApiServerBehaviour, FakeApiServer};
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Api, api::PostParams};
    use tokio::time;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(4);

    struct Fixture {
        server: FakeApiServer,
        term: LeaseTerm,
        api: Api<ConfigMap>,
    }

    fn fixture() -> Fixture {
        let server = FakeApiServer::default();
        let term = LeaseTerm::until(Instant::now() + LENGTH);
        let api = Api::default_namespaced(term.client(&server.client()));
        Fixture { server, term, api }
    }

    impl Fixture {
        async fn write(&self) -> kube::Result<ConfigMap> {
            let mut config_map = ConfigMap::default();
            config_map.metadata.name = Some("a".to_owned());
            self.api.create(&PostParams::default(), &config_map).await
        }

        /// Waits until the server has received this many requests.
        async fn received(&self, count: u64) {
            let mut requests = self.server.requests();
            let all = requests.wait_for(|requests| requests.values().sum::<u64>() == count);
            all.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_after_the_end_of_the_term() {
        for ends_by_expiry in [false, true] {
            let fixture = fixture();
            fixture.write().await.unwrap();
            if ends_by_expiry {
                time::advance(LENGTH).await;
            } else {
                fixture.term.end();
            }
            let error = fixture.write().await.unwrap_err();
            assert!(
                error.to_string().contains("no longer the leader"),
                "{error}"
            );
            assert_eq!(fixture.server.count(""), 1);
            let until = Instant::now() + LENGTH;
            assert!(!fixture.term.prolong(until), "a term does not begin again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn open_requests_are_dropped_at_the_end_of_the_term() {
        let fixture = fixture();
        fixture.server.switch(ApiServerBehaviour::Silent);
        let mut write = Box::pin(fixture.write());
        tokio::select! {
            biased;
            _ = write.as_mut() => panic!("the server is silent"),
            () = fixture.received(1) => {}
        }
        fixture.term.end();
        assert!(write.as_mut().now_or_never().unwrap().is_err());

        let begin = Instant::now();
        let fixture = self::fixture();
        fixture.server.switch(ApiServerBehaviour::Silent);
        fixture.write().await.unwrap_err();
        assert!(begin.elapsed() >= LENGTH);
        assert!(begin.elapsed() <= LENGTH + Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn prolonged_term_continues() {
        let fixture = fixture();
        for _ in 0..10 {
            time::advance(LENGTH / 2).await;
            assert!(fixture.term.prolong(Instant::now() + LENGTH));
            fixture.write().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn term_is_stalled_after_its_patience_without_an_answer() {
        let Fixture { term, .. } = fixture();
        let (almost, rest) = (PATIENCE * 29 / 30, PATIENCE / 30);
        time::advance(2 * PATIENCE).await;
        assert!(!term.is_stalled(), "nothing is pending");
        term.note_pending(true);
        time::advance(almost).await;
        term.note_pending(true);
        assert!(!term.is_stalled());
        term.note_answer();
        term.note_pending(true);
        time::advance(almost).await;
        assert!(!term.is_stalled());
        time::advance(rest).await;
        assert!(term.is_stalled());
        term.note_pending(false);
        assert!(!term.is_stalled());
    }
}
