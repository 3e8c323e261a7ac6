//! Leader election with a `coordination.k8s.io` Lease: only the holder writes statuses and Cloud Map.
//!
//! Every replica reads the Lease every second; the holder renews it, and the others take it over once they have seen no
//! renewal for `leaseDurationSeconds` (6 s). A holder that cannot renew stops being the leader after two thirds of that
//! time, before another replica can become it: its [`LeaseTerm`] expires. Each replica measures with its own monotonic
//! clock and never compares `renewTime` with its own time.
//!
//! A holder whose writes get no answer for 30 s gives the Lease up and leaves it to the others for 3 s.
//!
//! The Lease also carries the address at which the leader receives reports ([`ADDRESS`]) and the heartbeats of all
//! replicas ([`presence`](super::presence)).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    key::ReplicaKey,
    presence::{OwnHeartbeat, ReplicaTracker, Replicas},
    term::LeaseTerm,
};
use crate::throttle::LogThrottle;

/// `leaseDurationSeconds`: time without renewal after which another replica may take over.
const DURATION: Duration = Duration::from_secs(6);
/// Interval of reads and renewals.
const INTERVAL: Duration = Duration::from_secs(1);
/// Deadline of a read and a renewal together. It lets a slow API server take a second for each, and a holder try twice
/// before its term expires.
const DEADLINE: Duration = Duration::from_secs(2);
/// Time for which a replica that gave up the Lease does not take it.
const STAND_BACK: Duration = Duration::from_secs(3);
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
        term: LeaseTerm,
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
        self.term().is_some()
    }

    /// The term of this replica, if it is the leader.
    pub(crate) const fn term(&self) -> Option<&LeaseTerm> {
        match self {
            Self::Us { term, .. } => Some(term),
            Self::Unknown | Self::Other { .. } => None,
        }
    }
}

/// Competes for the Lease until `shutdown`, then releases it. Publishes the current holder in `leader`.
pub(crate) async fn hold(
    client: Client,
    options: LeaseOptions,
    leader: watch::Sender<Leader>,
    shutdown: CancellationToken,
) {
    let stall_log = LogThrottle::once_a_minute();
    let mut candidate = Candidate::new(client, options);
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => break,
        }
        match time::timeout(DEADLINE, candidate.attempt()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot read or renew the Lease"),
            Err(_) => tracing::debug!("the API server did not answer the Lease request in time"),
        }
        if candidate.term.as_ref().is_some_and(LeaseTerm::is_stalled) {
            if let Some(suppressed) = stall_log.pass() {
                tracing::warn!(
                    suppressed,
                    "the API server did not answer any write for 30 s; giving up the Lease"
                );
            }
            candidate.stands_back_until = Some(Instant::now() + STAND_BACK);
            candidate.give_up(&leader).await;
        }
        let now = candidate.leader();
        leader.send_if_modified(|leader| {
            let has_changed = *leader != now;
            *leader = now;
            has_changed
        });
    }
    candidate.give_up(&leader).await;
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
    /// The term of this replica, from its first renewal; it may have expired.
    term: Option<LeaseTerm>,
    stands_back_until: Option<Instant>,
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
            term: None,
            stands_back_until: None,
            other_leader: Leader::Unknown,
        }
    }

    fn leader(&self) -> Leader {
        match self.term.as_ref().filter(|term| term.is_current()) {
            Some(term) => Leader::Us {
                others: self.others.clone(),
                term: term.clone(),
            },
            None => self.other_leader.clone(),
        }
    }

    /// Begins or prolongs the term after a renewal that began at `started`.
    fn record_renewal(&mut self, started: Instant) {
        let expiry = started + DURATION * 2 / 3;
        if !self.term.as_ref().is_some_and(|term| term.prolong(expiry)) {
            self.term = Some(LeaseTerm::until(expiry));
        }
    }

    /// Ends the term. Returns whether there was one.
    fn end_term(&mut self) -> bool {
        let term = self.term.take();
        term.inspect(LeaseTerm::end).is_some()
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
            self.record_renewal(started);
            return Ok(());
        };
        let spec = lease.spec.take().unwrap_or_default();
        let mut annotations = lease.metadata.annotations.take().unwrap_or_default();
        let is_heartbeat_due = self.heartbeat.is_due(started);
        if is_heartbeat_due {
            self.heartbeat.write(&mut annotations, started);
        }
        if !self.may_take(&spec, started) {
            self.end_term();
            self.tracker = ReplicaTracker::default();
            self.other_leader = match spec.holder_identity.as_deref() {
                Some(holder) if !holder.is_empty() && holder != self.options.identity => {
                    Leader::Other {
                        identity: holder.to_owned(),
                        address: annotations.get(ADDRESS).and_then(|it| it.parse().ok()),
                    }
                }
                _ => Leader::Unknown,
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
        self.record_renewal(started);
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

    /// Whether the Lease belongs to this replica, to none, or to one that has not renewed it for `leaseDurationSeconds`,
    /// and this replica does not stand back.
    fn may_take(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        if self.stands_back_until.is_some_and(|until| now < until) {
            return false;
        }
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

    /// Ends the term and then releases the Lease. If that fails, another replica takes over when the Lease has expired.
    async fn give_up(&mut self, leader: &watch::Sender<Leader>) {
        let has_led = self.end_term();
        self.other_leader = Leader::Unknown;
        leader.send_replace(Leader::Unknown);
        if has_led {
            let _ = time::timeout(DEADLINE, self.release()).await;
        }
    }

    /// Clears the holder if it is this replica. The heartbeat annotation stays, because this replica's proxies still
    /// have to reconnect.
    async fn release(&self) -> kube::Result<()> {
        let mut lease = self.api.get(&self.options.name).await?;
        match &mut lease.spec {
            Some(spec) if spec.holder_identity.as_ref() == Some(&self.options.identity) => {
                spec.holder_identity = None;
            }
            _ => return Ok(()),
        }
        self.replace(&lease).await
    }
}

#[cfg(test)]
mod tests;
