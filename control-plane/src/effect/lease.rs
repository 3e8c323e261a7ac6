//! Which replica may write: the holder of a Lease.
//!
//! Every replica tries to hold the Lease; the holder renews it. A holder that cannot renew it stops writing before
//! another one may start: it gives up after two thirds of the time that it promised.
//! Times are measured here, never compared with another machine's: a Lease is taken over when *this* replica has seen
//! no renewal for as long as the holder promised.
//!
//! The Lease also says where the holder listens to the other replicas ([`ADDRESS`]), and which replicas there are, or
//! were a moment ago ([`presence`](super::presence)).
//!
//! Must not know what is written.

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
    presence::{OwnAnnouncement, ReplicaTracker, Replicas},
};

/// How long a holder may be silent.
const DURATION: Duration = Duration::from_secs(6);
/// How often it is renewed, or looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// The annotation of the Lease that says where its holder listens to the other replicas, as `HOST:PORT`.
const ADDRESS: &str = "evermesh.dev/address";

/// Which Lease, and who we are.
#[derive(Debug, Clone)]
pub(crate) struct LeaseOptions {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Our own name: unique among replicas, and new with every process.
    pub(crate) identity: String,
    /// By which whoever leads knows us.
    pub(crate) key: ReplicaKey,
    /// Where we listen to the other replicas.
    pub(crate) address: Option<SocketAddr>,
}

/// Who holds the Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Leader {
    /// Nobody that we know of.
    #[default]
    Unknown,
    /// This replica.
    Us {
        /// The other replicas whose proxies count.
        others: Replicas,
    },
    /// Another one.
    Other {
        /// Its name.
        identity: String,
        /// Where it listens to us, if it says so.
        address: Option<SocketAddr>,
    },
}

impl Leader {
    /// Whether it is this replica.
    pub(crate) const fn is_us(&self) -> bool {
        matches!(self, Self::Us { .. })
    }
}

/// Tries to hold the Lease until `shutdown`, and gives it back then. `leader` says who holds it.
pub(crate) async fn hold(
    client: Client,
    options: LeaseOptions,
    leader: watch::Sender<Leader>,
    shutdown: CancellationToken,
) {
    let mut candidate = Candidate {
        api: Api::namespaced(client, &options.namespace),
        shown: OwnAnnouncement::new(&options.identity, &options.key),
        options,
        seen_replicas: ReplicaTracker::default(),
        others: Replicas::new(),
        seen: None,
        renewed: None,
        other: Leader::Unknown,
    };
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => break,
        }
        match time::timeout(INTERVAL, candidate.attempt()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "lease"),
            Err(_) => tracing::debug!("lease: no answer"),
        }
        let now = if candidate.leads() {
            Leader::Us {
                others: candidate.others.clone(),
            }
        } else {
            candidate.other.clone()
        };
        leader.send_if_modified(|leader| {
            let is_other = *leader != now;
            *leader = now;
            is_other
        });
    }
    leader.send_replace(Leader::Unknown);
    if candidate.leads() {
        // It is taken over a little later if this does not get through.
        let _ = time::timeout(INTERVAL, candidate.release()).await;
    }
}

struct Candidate {
    api: Api<Lease>,
    options: LeaseOptions,
    /// What this replica shows of itself.
    shown: OwnAnnouncement,
    /// What it has seen of all replicas, while it leads itself.
    seen_replicas: ReplicaTracker,
    /// Whose proxies count, but for its own.
    others: Replicas,
    /// The last state of a Lease that somebody else holds, and when we first saw it.
    seen: Option<(LeaseSpec, Instant)>,
    /// When we began to write what made it ours.
    renewed: Option<Instant>,
    /// Who else holds it.
    other: Leader,
}

impl Candidate {
    fn leads(&self) -> bool {
        self.renewed
            .is_some_and(|renewed| renewed.elapsed() < DURATION * 2 / 3)
    }

    async fn attempt(&mut self) -> kube::Result<()> {
        let started = Instant::now();
        let Some(mut lease) = self.api.get_opt(&self.options.name).await? else {
            let mut annotations = self.say_where(BTreeMap::new());
            self.shown.show(&mut annotations, started);
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.options.name.clone()),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                },
                spec: Some(self.claim(LeaseSpec::default())),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            self.renewed = Some(started);
            return Ok(());
        };
        let spec = lease.spec.take().unwrap_or_default();
        let mut annotations = lease.metadata.annotations.take().unwrap_or_default();
        let is_due = self.shown.is_due(started);
        if is_due {
            self.shown.show(&mut annotations, started);
        }
        if !self.may_take(&spec, started) {
            self.renewed = None;
            self.seen_replicas = ReplicaTracker::default();
            self.other = Leader::Other {
                identity: spec.holder_identity.clone().unwrap_or_default(),
                address: annotations.get(ADDRESS).and_then(|it| it.parse().ok()),
            };
            if !is_due {
                return Ok(());
            }
            lease.metadata.annotations = Some(annotations);
            lease.spec = Some(spec);
            return self.replace(&lease).await;
        }
        self.other = Leader::Unknown;
        let mut others = self.seen_replicas.counting(&mut annotations, started);
        others.remove(&self.options.identity);
        lease.metadata.annotations = Some(self.say_where(annotations));
        lease.spec = Some(self.claim(spec));
        self.replace(&lease).await?;
        self.renewed = Some(started);
        self.others = others;
        Ok(())
    }

    /// The resource version is the one that was read: of two who try, one succeeds.
    async fn replace(&self, lease: &Lease) -> kube::Result<()> {
        let name = &self.options.name;
        self.api
            .replace(name, &PostParams::default(), lease)
            .await?;
        Ok(())
    }

    /// Whether it is ours, nobody's, or has not been renewed for as long as its holder promised.
    fn may_take(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.options.identity {
            self.seen = None;
            return true;
        }
        let promised = spec.lease_duration_seconds.unwrap_or_default();
        let promised = Duration::from_secs(promised.try_into().unwrap_or_default());
        match &self.seen {
            Some((seen, since)) if seen == spec => now.duration_since(*since) > promised,
            _ => {
                self.seen = Some((spec.clone(), now));
                false
            }
        }
    }

    fn say_where(&self, mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
        match self.options.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            None => annotations.remove(ADDRESS),
        };
        annotations
    }

    fn claim(&self, last: LeaseSpec) -> LeaseSpec {
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

    /// Gives back what is ours. That this replica was there stays: its proxies have yet to find another one.
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
