//! Registers the pods of virtual nodes in Cloud Map, as App Mesh's controller did. Only the leader does so.
//!
//! Input: the engine's snapshots, the virtual nodes that the API server holds, and the instances that Cloud Map lists.
//! Output: instances and their health in Cloud Map, services that were missing, readiness gates of pods, and
//! [`RegistrationMessages`].
//!
//! ```text
//!  Registrants (snapshot → nodes by service) ──► one ServiceWorker per Cloud Map service
//!    each round: list instances ──► plan (pure) ──► RegisterInstance, DeregisterInstance, UpdateInstanceCustomHealthStatus
//!                                     └──► gate (pure) ──► readiness gates
//! ```
//!
//! A registered virtual node carries [`FINALIZER`] until Cloud Map holds none of its instances any more.

mod client;
mod former;
mod gate;
mod instance;
mod messages;
mod objects;
mod plan;
#[cfg(test)]
mod tests;
mod worker;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evermesh_ingest::registration::{
    NodeRegistration, RegistrationSnapshot, registrations, terminating_node,
};
use evermesh_model::{CloudMapService, Graph, ObjectRef, ResourceName};
use kube::Client;
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::messages::RegistrationMessages;
use self::{
    client::RegistrationClient, messages::MessagePublisher, objects::ObjectWriter,
    worker::ServiceWorker,
};
use crate::{
    effect::lease::Leader,
    engine::EngineSnapshot,
    source::{cloud_map::CloudMapConnection, kubernetes::ObservedObjects},
    throttle::Throttle,
};

/// Finalizer of registered virtual nodes; App Mesh's controller used the same.
pub(crate) const FINALIZER: &str = "finalizers.appmesh.k8s.aws/aws-cloudmap-resources";

/// Services that are processed at the same time.
const CONCURRENT_ROUNDS: usize = 16;
/// Time for which snapshots are collected before workers are updated.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Interval and burst of `RegisterInstance` calls. AWS limits the calls of an account, which other programs make too.
const REGISTRATIONS: (Duration, u32) = (Duration::from_millis(250), 80);

pub(crate) struct RegistrationOptions {
    pub(crate) snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    pub(crate) observed: Arc<ObservedObjects>,
    pub(crate) leader: watch::Receiver<Leader>,
    /// URL to call instead of AWS, used exactly as written.
    pub(crate) endpoint: Option<String>,
    pub(crate) settings: RegistrationSettings,
    pub(crate) messages: watch::Sender<Arc<RegistrationMessages>>,
}

/// Settings of the Cloud Map services that Evermesh creates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegistrationSettings {
    /// TTL of DNS records, in seconds.
    pub(crate) dns_ttl: u32,
    /// Whether the services have a custom health check, whose state Evermesh sets.
    pub(crate) custom_health_check: bool,
    /// Whether DNS records have the type AAAA instead of A.
    pub(crate) ipv6: bool,
}

/// State that all workers share.
struct Shared {
    registry: RegistrationClient,
    objects: ObjectWriter,
    messages: MessagePublisher,
    /// Throttle of `RegisterInstance`: one for all services, because AWS limits the whole account.
    throttle: Throttle,
    settings: RegistrationSettings,
    permits: Semaphore,
}

/// Whether registration, and nothing else, removes the finalizer of this virtual node.
pub(crate) fn keeps_finalizer(objects: &RegistrationSnapshot, node: &ObjectRef) -> bool {
    objects.service(node).is_some()
}

/// Registers until `shutdown`, whenever this replica is the leader.
pub(crate) async fn run(
    client: Client,
    mut options: RegistrationOptions,
    shutdown: CancellationToken,
) {
    let mut leader = options.leader.clone();
    let work = async {
        loop {
            let Ok(now) = leader.wait_for(Leader::is_us).await.map(|it| it.clone()) else {
                return;
            };
            let Some(term) = now.term() else {
                continue;
            };
            let client = term.client(&client);
            tokio::select! {
                _ = leader.wait_for(|leader| leader.term() != Some(term)) => {}
                // Boxed because the SDK's future for finding credentials is large.
                () = Box::pin(lead(&client, &mut options)) => return,
            }
            // The new leader publishes its own messages.
            options.messages.send_replace(Arc::default());
        }
    };
    shutdown.run_until_cancelled(work).await;
}

type Wanted = watch::Sender<Arc<Vec<NodeRegistration>>>;

/// Runs one worker for each service that a virtual node names. Ends with the engine; dropping it ends the workers.
async fn lead(client: &Client, options: &mut RegistrationOptions) {
    // Without a node in Cloud Map, do not look for AWS credentials: that can take seconds.
    let mut registrants = Registrants::default();
    while registrants.update(options).is_empty() {
        if options.snapshots.changed().await.is_err() {
            return;
        }
    }
    let shared = Arc::new(Shared {
        registry: RegistrationClient::new(
            CloudMapConnection::open(options.endpoint.as_deref()).await,
        ),
        objects: ObjectWriter {
            client: client.clone(),
            observed: Arc::clone(&options.observed),
        },
        messages: MessagePublisher(options.messages.clone()),
        throttle: Throttle::new(REGISTRATIONS.0, REGISTRATIONS.1),
        settings: options.settings,
        permits: Semaphore::new(CONCURRENT_ROUNDS),
    });
    let mut tasks = JoinSet::new();
    let mut workers: BTreeMap<CloudMapService, (Wanted, AbortHandle)> = BTreeMap::new();
    loop {
        let services = registrants.update(options);
        workers.retain(|service, (_, worker)| {
            let is_wanted = services.contains_key(service);
            if !is_wanted {
                worker.abort();
            }
            is_wanted
        });
        shared.messages.retain(|object| {
            let mut nodes = services.values().flat_map(|nodes| nodes.iter());
            nodes.any(|node| node.object == *object)
        });
        for (service, nodes) in services {
            let (wanted, _) = workers.entry(service.clone()).or_insert_with(|| {
                let (wanted, receiver) = watch::channel(Arc::clone(nodes));
                let worker = ServiceWorker::new(service.clone(), receiver, Arc::clone(&shared));
                (wanted, tasks.spawn(worker.run()))
            });
            wanted.send_if_modified(|last| {
                let is_new = *last != *nodes;
                *last = Arc::clone(nodes);
                is_new
            });
        }
        sleep(DEBOUNCE).await;
        if options.snapshots.changed().await.is_err() {
            return;
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// The virtual nodes to register, by Cloud Map service, as of the newest snapshot.
#[derive(Default)]
struct Registrants {
    last: Option<(RegistrationSnapshot, Arc<Graph>)>,
    by_service: BTreeMap<CloudMapService, Arc<Vec<NodeRegistration>>>,
}

impl Registrants {
    /// Reads the newest snapshot. A snapshot from before all sources were read is ignored: it would look as if nodes
    /// had been deleted.
    fn update(
        &mut self,
        options: &mut RegistrationOptions,
    ) -> &BTreeMap<CloudMapService, Arc<Vec<NodeRegistration>>> {
        let snapshot = Arc::clone(&options.snapshots.borrow_and_update());
        let EngineSnapshot {
            registrable, graph, ..
        } = &*snapshot;
        let is_same = |(last, last_graph): &(RegistrationSnapshot, Arc<_>)| {
            registrable.is_same(last) && Arc::ptr_eq(graph, last_graph)
        };
        if !snapshot.waiting_for.is_empty() || self.last.as_ref().is_some_and(is_same) {
            return &self.by_service;
        }
        let mut found = registrations(registrable, graph);
        for node in registrable.virtual_nodes.keys() {
            let is_served =
                |users: &Vec<NodeRegistration>| users.iter().any(|it| it.object == *node);
            let Some(observed) = options.observed.get(node).filter(|it| it.deleting) else {
                continue;
            };
            if found.values().any(is_served) {
                continue;
            }
            let arn = observed.status["virtualNodeARN"].as_str();
            let last_name: Option<ResourceName> = arn.and_then(|arn| arn.parse().ok());
            if let Some((service, node)) = terminating_node(registrable, node, last_name) {
                found.entry(service).or_default().push(node);
            }
        }
        for (service, node) in self.without_cloud_map(registrable) {
            found.entry(service).or_default().push(node);
        }
        let found = found.into_iter().map(|(service, nodes)| {
            let last = self
                .by_service
                .get(&service)
                .filter(|last| ***last == nodes);
            (service, last.cloned().unwrap_or_else(|| Arc::new(nodes)))
        });
        self.by_service = found.collect();
        self.last = Some((registrable.clone(), Arc::clone(graph)));
        &self.by_service
    }

    /// The nodes that had `awsCloudMap` and have it no more, each with its last service, which they leave.
    fn without_cloud_map(
        &self,
        now: &RegistrationSnapshot,
    ) -> impl Iterator<Item = (CloudMapService, NodeRegistration)> {
        let all = self.by_service.iter();
        let all = all.flat_map(|(service, nodes)| nodes.iter().map(move |node| (service, node)));
        let is_without = |node: &NodeRegistration| {
            let object = now.virtual_nodes.get(&node.object);
            let uid = object.and_then(|object| object.metadata.uid.as_deref());
            uid == Some(&node.uid) && now.service(&node.object).is_none()
        };
        all.filter(move |(_, node)| !node.terminating && is_without(node))
            .map(|(service, node)| {
                let leaving = NodeRegistration {
                    allowed: false,
                    pods: Vec::new(),
                    ..node.clone()
                };
                (service.clone(), leaving)
            })
    }
}
