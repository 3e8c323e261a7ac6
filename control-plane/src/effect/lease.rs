//! Leader election with a `coordination.k8s.io` Lease: only the holder writes statuses and Cloud Map.
//!
//! Every replica reads the Lease every second; the holder renews it, and the others take it over once they have seen no
//! renewal for `leaseDurationSeconds` (6 s). A holder that cannot renew stops being the leader after two thirds of that
//! time, before another replica can become it. Each replica measures with its own monotonic clock and never compares
//! `renewTime` with its own time.
//!
//! The Lease also carries the address at which the leader receives reports ([`ADDRESS`]) and the heartbeats of all
//! replicas ([`presence`](super::presence)).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{
    key::ReplicaKey,
    presence::{OwnHeartbeat, ReplicaTracker, Replicas},
};

/// `leaseDurationSeconds`: time without renewal after which another replica may take over.
const DURATION: Duration = Duration::from_secs(6);
/// Interval of reads and renewals.
const INTERVAL: Duration = Duration::from_secs(1);
/// Annotation of the Lease with the address at which the leader receives reports, as `IP:PORT`.
const ADDRESS: &str = "evermesh.dev/address";

#[derive(Debug, Clone)]
pub(crate) struct LeaseOptions {
    pub(crate) namespace: String,
    /// Name of the Lease.
    pub(crate) name: String,
    /// Identity of this replica: unique among replicas, and new in every process.
    pub(crate) identity: String,
    /// Key of this replica, as shown to the leader.
    pub(crate) key: ReplicaKey,
    /// Address at which other replicas reach this one; without it they cannot report to it.
    pub(crate) address: Option<SocketAddr>,
}

/// The holder of the Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Leader {
    #[default]
    Unknown,
    /// This replica.
    Us {
        /// The other replicas whose proxies count.
        others: Replicas,
    },
    /// Another replica.
    Other {
        identity: String,
        /// Address at which it receives reports.
        address: Option<SocketAddr>,
    },
}

impl Leader {
    pub(crate) const fn is_us(&self) -> bool {
        matches!(self, Self::Us { .. })
    }
}

/// Competes for the Lease until `shutdown`, then releases it. Publishes the current holder in `leader`.
pub(crate) async fn hold(
    client: Client,
    options: LeaseOptions,
    leader: watch::Sender<Leader>,
    shutdown: CancellationToken,
) {
    let mut candidate = Candidate::new(client, options);
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => break,
        }
        match time::timeout(INTERVAL, candidate.attempt()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot read or renew the Lease"),
            Err(_) => tracing::debug!("the API server did not answer the Lease request in time"),
        }
        let now = if candidate.leads(Instant::now()) {
            Leader::Us {
                others: candidate.others.clone(),
            }
        } else {
            candidate.other_leader.clone()
        };
        leader.send_if_modified(|leader| {
            let has_changed = *leader != now;
            *leader = now;
            has_changed
        });
    }
    leader.send_replace(Leader::Unknown);
    if candidate.leads(Instant::now()) {
        // If this fails another replica takes over when the Lease has expired.
        let _ = time::timeout(INTERVAL, candidate.release()).await;
    }
}

struct Candidate {
    api: Api<Lease>,
    options: LeaseOptions,
    heartbeat: OwnHeartbeat,
    /// Heartbeats of all replicas, tracked while this replica leads.
    tracker: ReplicaTracker,
    /// The other replicas whose proxies count, while this replica leads.
    others: Replicas,
    /// The newest state of a Lease that another replica holds, and the time at which it was first seen.
    last_seen: Option<(LeaseSpec, Instant)>,
    /// Start of the last successful renewal by this replica.
    renewed_at: Option<Instant>,
    other_leader: Leader,
}

impl Candidate {
    fn new(client: Client, options: LeaseOptions) -> Self {
        Self {
            api: Api::namespaced(client, &options.namespace),
            heartbeat: OwnHeartbeat::new(&options.identity, &options.key),
            options,
            tracker: ReplicaTracker::default(),
            others: Replicas::new(),
            last_seen: None,
            renewed_at: None,
            other_leader: Leader::Unknown,
        }
    }

    fn leads(&self, now: Instant) -> bool {
        self.renewed_at
            .is_some_and(|renewed_at| now.duration_since(renewed_at) < DURATION * 2 / 3)
    }

    /// Reads the Lease once, and creates, renews or takes it over if this replica may.
    async fn attempt(&mut self) -> kube::Result<()> {
        let started = Instant::now();
        let Some(mut lease) = self.api.get_opt(&self.options.name).await? else {
            let mut annotations = self.with_address(BTreeMap::new());
            self.heartbeat.write(&mut annotations, started);
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.options.name.clone()),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                },
                spec: Some(self.claimed(LeaseSpec::default())),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            self.renewed_at = Some(started);
            return Ok(());
        };
        let spec = lease.spec.take().unwrap_or_default();
        let mut annotations = lease.metadata.annotations.take().unwrap_or_default();
        let is_heartbeat_due = self.heartbeat.is_due(started);
        if is_heartbeat_due {
            self.heartbeat.write(&mut annotations, started);
        }
        if !self.may_take(&spec, started) {
            self.renewed_at = None;
            self.tracker = ReplicaTracker::default();
            self.other_leader = Leader::Other {
                identity: spec.holder_identity.clone().unwrap_or_default(),
                address: annotations.get(ADDRESS).and_then(|it| it.parse().ok()),
            };
            if !is_heartbeat_due {
                return Ok(());
            }
            lease.metadata.annotations = Some(annotations);
            lease.spec = Some(spec);
            return self.replace(&lease).await;
        }
        self.other_leader = Leader::Unknown;
        let mut others = self.tracker.live_replicas(&mut annotations, started);
        others.remove(&self.options.identity);
        lease.metadata.annotations = Some(self.with_address(annotations));
        lease.spec = Some(self.claimed(spec));
        self.replace(&lease).await?;
        self.renewed_at = Some(started);
        self.others = others;
        Ok(())
    }

    /// Writes the Lease with the resource version that was read, so that only one of several writers succeeds.
    async fn replace(&self, lease: &Lease) -> kube::Result<()> {
        let name = &self.options.name;
        self.api
            .replace(name, &PostParams::default(), lease)
            .await?;
        Ok(())
    }

    /// Whether the Lease belongs to this replica, to none, or to one that has not renewed it for `leaseDurationSeconds`.
    fn may_take(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.options.identity {
            self.last_seen = None;
            return true;
        }
        let duration = spec.lease_duration_seconds.unwrap_or_default();
        let duration = Duration::from_secs(duration.try_into().unwrap_or_default());
        match &self.last_seen {
            Some((last, since)) if last == spec => now.duration_since(*since) > duration,
            _ => {
                self.last_seen = Some((spec.clone(), now));
                false
            }
        }
    }

    fn with_address(&self, mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
        match self.options.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            None => annotations.remove(ADDRESS),
        };
        annotations
    }

    /// The spec with this replica as holder, renewed now.
    fn claimed(&self, last: LeaseSpec) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let is_ours = last.holder_identity.as_ref() == Some(&self.options.identity);
        LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if is_ours {
                last.acquire_time
            } else {
                now.clone()
            },
            renew_time: now,
            lease_transitions: Some(
                last.lease_transitions.unwrap_or_default() + i32::from(!is_ours),
            ),
            ..last
        }
    }

    /// Clears the holder. The heartbeat annotation stays, because this replica's proxies still have to reconnect.
    async fn release(&self) -> kube::Result<()> {
        let mut lease = self.api.get(&self.options.name).await?;
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_ref() == Some(&self.options.identity)
        {
            spec.holder_identity = None;
        }
        self.replace(&lease).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::unreachable_client;

    fn candidate(identity: &str) -> Candidate {
        let options = LeaseOptions {
            namespace: "evermesh".to_owned(),
            name: "evermesh".to_owned(),
            identity: identity.to_owned(),
            key: ReplicaKey::new().unwrap(),
            address: Some("10.0.0.1:9902".parse().unwrap()),
        };
        Candidate::new(unreachable_client(), options)
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

    #[tokio::test]
    async fn leader_without_renewal_stops_leading_before_the_lease_expires() {
        let mut a = candidate("a");
        let renewed_at = Instant::now();
        assert!(!a.leads(renewed_at));
        a.renewed_at = Some(renewed_at);
        assert!(a.leads(renewed_at + DURATION / 2));
        assert!(!a.leads(renewed_at + DURATION * 2 / 3));
    }

    #[tokio::test]
    async fn address_annotation_follows_the_options() {
        let mut a = candidate("a");
        let annotations = a.with_address(BTreeMap::new());
        assert_eq!(annotations[ADDRESS], "10.0.0.1:9902");
        a.options.address = None;
        assert_eq!(a.with_address(annotations), BTreeMap::new());
    }
}
