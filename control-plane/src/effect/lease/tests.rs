use evermesh_testkit::fake_api_server::{ApiServerBehaviour, FakeApiServer};

use super::*;
use crate::effect::unreachable_client;

fn options(identity: &str) -> LeaseOptions {
    LeaseOptions {
        namespace: "evermesh".to_owned(),
        name: "evermesh".to_owned(),
        identity: identity.to_owned(),
        key: ReplicaKey::new().unwrap(),
        address: Some("10.0.0.1:9902".parse().unwrap()),
    }
}

fn candidate(identity: &str) -> Candidate {
    Candidate::new(unreachable_client(), options(identity))
}

/// Starts a replica that competes for the Lease of this API server.
fn compete(server: &FakeApiServer, identity: &str) -> watch::Receiver<Leader> {
    let (sender, leader) = watch::channel(Leader::Unknown);
    let shutdown = CancellationToken::new();
    tokio::spawn(hold(server.client(), options(identity), sender, shutdown));
    leader
}

async fn stops_leading(leader: &mut watch::Receiver<Leader>) {
    let stops = time::timeout(Duration::from_mins(1), leader.wait_for(|it| !it.is_us()));
    stops.await.unwrap().unwrap();
}

async fn becomes_leader(leader: &mut watch::Receiver<Leader>) -> LeaseTerm {
    let leads = time::timeout(Duration::from_mins(1), leader.wait_for(Leader::is_us));
    leads.await.unwrap().unwrap().term().unwrap().clone()
}

#[tokio::test]
async fn free_and_own_lease_are_taken_at_once() {
    let mut a = candidate("a");
    let now = Instant::now();
    assert!(a.may_take(&LeaseSpec::default(), now));
    let own = a.claimed(LeaseSpec::default());
    assert!(a.may_take(&own, now));
}

#[tokio::test]
async fn lease_of_another_is_taken_only_after_its_duration_without_renewal() {
    let (a, mut b) = (candidate("a"), candidate("b"));
    let start = Instant::now();
    let held = a.claimed(LeaseSpec::default());
    assert!(!b.may_take(&held, start));
    assert!(!b.may_take(&held, start + DURATION));

    let renewed = LeaseSpec {
        renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
        ..held
    };
    let renewed_at = start + DURATION;
    assert!(!b.may_take(&renewed, renewed_at));
    assert!(!b.may_take(&renewed, renewed_at + DURATION));
    let later = renewed_at + DURATION + Duration::from_millis(1);
    assert!(b.may_take(&renewed, later));
}

#[tokio::test]
async fn taking_over_counts_a_transition_and_renewing_does_not() {
    let (a, b) = (candidate("a"), candidate("b"));
    let first = a.claimed(LeaseSpec::default());
    assert_eq!(first.lease_duration_seconds, Some(6));
    let renewed = a.claimed(first.clone());
    assert_eq!(renewed.lease_transitions, first.lease_transitions);
    assert_eq!(renewed.acquire_time, first.acquire_time);
    let taken = b.claimed(renewed.clone());
    assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    assert_eq!(
        taken.lease_transitions,
        renewed.lease_transitions.map(|count| count + 1)
    );
}

#[tokio::test(start_paused = true)]
async fn leader_without_renewal_stops_leading_before_the_lease_expires() {
    let mut a = candidate("a");
    assert_eq!(a.leader(), Leader::Unknown);
    a.record_renewal(Instant::now());
    time::advance(DURATION / 2).await;
    assert!(a.leader().is_us());
    time::advance(DURATION / 6).await;
    assert_eq!(a.leader(), Leader::Unknown);
}

#[tokio::test]
async fn address_annotation_follows_the_options() {
    let mut a = candidate("a");
    let annotations = a.with_address(BTreeMap::new());
    assert_eq!(annotations[ADDRESS], "10.0.0.1:9902");
    a.options.address = None;
    assert_eq!(a.with_address(annotations), BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn leader_whose_writes_are_not_answered_gives_the_lease_up() {
    let server = FakeApiServer::default();
    let mut first = compete(&server, "a");
    let term = becomes_leader(&mut first).await;
    let mut second = compete(&server, "b");
    for _ in 0..60 {
        time::sleep(INTERVAL).await;
        term.note_pending(true);
        term.note_answer();
    }
    assert!(term.is_current());

    let begin = Instant::now();
    term.note_pending(true);
    becomes_leader(&mut second).await;
    let elapsed = begin.elapsed();
    let limit = Duration::from_secs(30) + 2 * INTERVAL;
    assert!(
        (Duration::from_secs(30)..=limit).contains(&elapsed),
        "{elapsed:?}"
    );
    assert!(!term.is_current());
    assert!(!first.borrow().is_us());
}

#[tokio::test(start_paused = true)]
async fn single_replica_takes_the_lease_again_after_it_gave_it_up() {
    let server = FakeApiServer::default();
    let mut leader = compete(&server, "a");
    let term = becomes_leader(&mut leader).await;
    term.note_pending(true);
    stops_leading(&mut leader).await;
    let given_up = Instant::now();
    let next = becomes_leader(&mut leader).await;
    assert_ne!(next, term);
    assert!(given_up.elapsed() >= STAND_BACK);
    assert!(given_up.elapsed() <= STAND_BACK + 2 * INTERVAL);
}

#[tokio::test(start_paused = true)]
async fn slow_api_server_keeps_its_leader() {
    let server = FakeApiServer::default();
    server.switch(ApiServerBehaviour::Slow(Duration::from_millis(900)));
    let mut leader = compete(&server, "a");
    let term = becomes_leader(&mut leader).await;
    time::sleep(Duration::from_mins(1)).await;
    assert!(term.is_current());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_term_and_a_new_one_follows() {
    let server = FakeApiServer::default();
    let mut leader = compete(&server, "a");
    let term = becomes_leader(&mut leader).await;
    server.switch(ApiServerBehaviour::Silent);
    stops_leading(&mut leader).await;
    assert!(!term.is_current());
    server.switch(ApiServerBehaviour::Healthy);
    assert_ne!(becomes_leader(&mut leader).await, term);
}
