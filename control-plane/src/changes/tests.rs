use tokio::sync::watch;

use super::*;
use crate::{auth::AuthenticationMetrics, engine::EngineSnapshot, webhook::AdmissionMetrics};

fn tracker() -> Tracker {
    let snapshots = watch::channel(Arc::<EngineSnapshot>::default()).1;
    let metrics = ProcessMetrics::new(
        evermesh_xds::Store::new(),
        snapshots,
        None,
        &AdmissionMetrics::default(),
        &AuthenticationMetrics::default(),
        &Arc::default(),
    );
    Tracker {
        last_id: 0,
        open: BTreeMap::new(),
        by_key: BTreeMap::new(),
        changes: Arc::default(),
        metrics: Arc::new(metrics),
    }
}

fn key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: ResourceType::Cluster,
        name: name.into(),
        scope: None,
    }
}

fn version(number: usize) -> ContentVersion {
    ContentVersion::of(number.to_string().as_bytes())
}

/// A change of a resource to which this number of proxies subscribes.
fn commit(name: &str, number: usize, deliveries: usize) -> CommitRecord {
    CommitRecord {
        noticed: Instant::now(),
        origins: Vec::new(),
        resources: 1,
        awaited: vec![(key(name), version(number))],
        deliveries,
        span: Span::none(),
    }
}

fn ack(proxy: u64, name: &str, number: usize) -> ProxyAnswer {
    ProxyAnswer {
        proxy: ProxyId(proxy),
        view: "mesh/m/virtualNode/front".into(),
        kind: ResourceType::Cluster,
        name: name.into(),
        version: version(number),
        is_acked: true,
        at: Instant::now(),
    }
}

#[test]
fn answer_counts_for_its_change_and_for_earlier_ones_of_the_resource() {
    let mut tracker = tracker();
    for number in 1..=3 {
        tracker.open(commit("a", number, 2), SystemTime::now());
    }
    tracker.open(commit("b", 1, 2), SystemTime::now());
    tracker.record(ack(1, "a", 2));
    tracker.record(ack(1, "a", 2));
    let answered = |tracker: &Tracker| -> Vec<usize> {
        let changes = tracker.changes.list();
        changes.iter().map(|change| change.answered).collect()
    };
    assert_eq!(answered(&tracker), [1, 1, 0, 0]);
    tracker.record(ack(2, "a", 3));
    assert_eq!(answered(&tracker), [2, 2, 1, 0]);
    assert_eq!(tracker.open.keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(tracker.by_key[&key("a")], [3].into());
}

#[test]
fn answer_counts_for_the_resource_of_its_own_mesh_and_proxy() {
    let mut tracker = tracker();
    let scopes = [
        None,
        Some("mesh/m"),
        Some("mesh/m/virtualNode/front"),
        Some("mesh/other"),
        Some("mesh/m/virtualNode/other"),
    ];
    for scope in scopes {
        let key = ResourceKey {
            scope: scope.map(Into::into),
            ..key("a")
        };
        let commit = CommitRecord {
            awaited: vec![(key, version(1))],
            ..commit("a", 1, 2)
        };
        tracker.open(commit, SystemTime::now());
    }
    tracker.record(ack(1, "a", 1));
    let changes = tracker.changes.list();
    let answered: Vec<_> = changes.iter().map(|change| change.answered).collect();
    assert_eq!(answered, [1, 1, 1, 0, 0]);
}

#[test]
fn changes_that_no_one_answers_are_limited() {
    let mut tracker = tracker();
    for number in 0..MAX_CHANGES + 10 {
        tracker.open(commit("a", number, 1), SystemTime::now());
    }
    assert_eq!(tracker.open.len(), MAX_CHANGES);
    assert_eq!(tracker.by_key[&key("a")].len(), MAX_CHANGES);
    tracker.record(ack(1, "a", MAX_CHANGES + 9));
    assert!(tracker.open.is_empty() && tracker.by_key.is_empty());
}
