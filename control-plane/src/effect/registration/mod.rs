//! Registers the pods of virtual nodes in Cloud Map, as App Mesh's controller did.
//!
//! In: the engine's newest turn, what the API holds of virtual nodes, and what Cloud Map holds. Out: instances and their
//! health, services where one is missing, readiness gates, and [`RegistrationMessages`] about what does not work.
//! One [`worker`] a service, however many nodes share it.
//!
//! A virtual node that is registered carries [`FINALIZER`], which is removed when nothing of it is left in Cloud Map.
//!
//! Must not write unless this replica leads.

mod client;
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

/// Keeps a virtual node until nothing of it is left in Cloud Map; the old controller's name for that.
pub(crate) const FINALIZER: &str = "finalizers.appmesh.k8s.aws/aws-cloudmap-resources";

/// Rounds at a time.
const CONCURRENCY: usize = 16;
/// Changes that come sooner wait for each other.
const GAP: Duration = Duration::from_millis(50);
/// Between two registrations, and how many may come at once: AWS counts the calls of an account, and others call too.
const REGISTRATIONS: (Duration, u32) = (Duration::from_millis(250), 80);

/// What registration reads, and how it goes about it.
pub(crate) struct RegistrationOptions {
    /// The engine's newest turn.
    pub(crate) published: watch::Receiver<Arc<EngineSnapshot>>,
    /// What the API holds of virtual nodes.
    pub(crate) observed: Arc<ObservedObjects>,
    /// Whether we may write.
    pub(crate) leader: watch::Receiver<Leader>,
    /// A URL to call instead of AWS, exactly as it is written.
    pub(crate) endpoint: Option<String>,
    /// What services are made like.
    pub(crate) settings: RegistrationSettings,
    /// Where to say what does not work.
    pub(crate) messages: watch::Sender<Arc<RegistrationMessages>>,
}

/// What services are made like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegistrationSettings {
    /// How long resolvers may keep an address, in seconds.
    pub(crate) dns_ttl: u32,
    /// Whether we tell Cloud Map which instances are healthy.
    pub(crate) custom_health_check: bool,
    /// Whether records are AAAA rather than A.
    pub(crate) ipv6: bool,
}

/// What workers share.
struct Shared {
    registry: RegistrationClient,
    objects: ObjectWriter,
    messages: MessagePublisher,
    /// One for all services: the account has one quota.
    throttle: Throttle,
    settings: RegistrationSettings,
    permits: Semaphore,
}

/// Whether the finalizer of this virtual node is removed here, when its instances are gone, and by nobody else.
pub(crate) fn keeps_finalizer(objects: &RegistrationSnapshot, node: &ObjectRef) -> bool {
    objects.service(node).is_some()
}

/// Registers until `shutdown`, whenever this replica leads.
pub(crate) async fn run(
    client: Client,
    mut options: RegistrationOptions,
    shutdown: CancellationToken,
) {
    let mut leader = options.leader.clone();
    let work = async {
        loop {
            if leader.wait_for(Leader::is_us).await.is_err() {
                return;
            }
            tokio::select! {
                _ = leader.wait_for(|leader| !leader.is_us()) => {}
                // Boxed, since what the SDK keeps while it looks for credentials is large.
                () = Box::pin(lead(&client, &mut options)) => return,
            }
            // Whoever leads now has messages of its own.
            options.messages.send_replace(Arc::default());
        }
    };
    shutdown.run_until_cancelled(work).await;
}

type Wanted = watch::Sender<Arc<Vec<NodeRegistration>>>;

/// One worker for each service that is wanted. Ends when the engine has; to drop it ends the workers.
async fn lead(client: &Client, options: &mut RegistrationOptions) {
    // Whoever has no Cloud Map must not wait for AWS credentials.
    let mut seen = Registrants::default();
    while seen.update(options).is_empty() {
        if options.published.changed().await.is_err() {
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
        permits: Semaphore::new(CONCURRENCY),
    });
    let mut tasks = JoinSet::new();
    let mut workers: BTreeMap<CloudMapService, (Wanted, AbortHandle)> = BTreeMap::new();
    loop {
        let services = seen.update(options);
        workers.retain(|service, (_, worker)| {
            let is_wanted = services.contains_key(service);
            if !is_wanted {
                worker.abort();
            }
            is_wanted
        });
        shared.messages.keep(|object| {
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
        sleep(GAP).await;
        if options.published.changed().await.is_err() {
            return;
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Who is to be registered, as of the newest turn.
#[derive(Default)]
struct Registrants {
    last: Option<(RegistrationSnapshot, Arc<Graph>)>,
    by_service: BTreeMap<CloudMapService, Arc<Vec<NodeRegistration>>>,
}

impl Registrants {
    /// Half of what there is to read would look as if the rest had gone: nobody is known before all is read.
    fn update(
        &mut self,
        options: &mut RegistrationOptions,
    ) -> &BTreeMap<CloudMapService, Arc<Vec<NodeRegistration>>> {
        let published = Arc::clone(&options.published.borrow_and_update());
        let EngineSnapshot {
            registrable, graph, ..
        } = &*published;
        let is_same = |(last, last_graph): &(RegistrationSnapshot, Arc<_>)| {
            registrable.is_same(last) && Arc::ptr_eq(graph, last_graph)
        };
        if !published.waiting_for.is_empty() || self.last.as_ref().is_some_and(is_same) {
            return &self.by_service;
        }
        let mut found = registrations(registrable, graph);
        for node in registrable.virtual_nodes.keys() {
            let is_served =
                |users: &Vec<NodeRegistration>| users.iter().any(|it| it.object == *node);
            let Some(observation) = options.observed.get(node).filter(|it| it.deleting) else {
                continue;
            };
            if found.values().any(is_served) {
                continue;
            }
            let arn = observation.status["virtualNodeARN"].as_str();
            let last_name: Option<ResourceName> = arn.and_then(|arn| arn.parse().ok());
            if let Some((service, node)) = terminating_node(registrable, node, last_name) {
                found.entry(service).or_default().push(node);
            }
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
}
