//! Reconciles one Cloud Map service with the virtual nodes that share it.
//!
//! Each round lists the instances, asks [`plan`] what to do, sends the requests, and updates finalizers, annotations and
//! readiness gates. A round runs when the nodes or their pods change, and otherwise every 10 s. The worker keeps no state
//! that a listing contains. An error about one node does not affect the other nodes.
//!
//! [`plan`]: super::plan

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use evermesh_ingest::registration::{NodeRegistration, SERVICE_ARN};
use evermesh_model::{CloudMapService, ObjectRef};
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    FINALIZER, Shared,
    client::{DeleteOutcome, RegistrationError, ServiceRecord},
    former,
    gate::{self, GateUpdate},
    plan::{self, InstanceAction, InstanceRequest},
};
use crate::throttle::LogThrottle;

/// Pause between rounds when nothing changed.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pause after the first round whose requests no listing shows yet; grows by 1 s per round, up to [`INTERVAL`].
const SETTLE: Duration = Duration::from_secs(1);
/// Time for which changes are collected before the next round.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Time after which a request that no listing shows is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(30);
/// Concurrent requests.
const CONCURRENT_CALLS: usize = 8;
/// Requests per round. The limit keeps rounds short, so that later changes do not wait for minutes.
const CALLS_PER_ROUND: usize = 40;
/// The first and the longest pause after a round that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Messages of one round, by node.
pub(super) type NodeProblems = BTreeMap<ObjectRef, String>;

/// The task of one Cloud Map service.
pub(super) struct ServiceWorker {
    name: CloudMapService,
    nodes: watch::Receiver<Arc<Vec<NodeRegistration>>>,
    pub(super) shared: Arc<Shared>,
    /// The service, once it was looked up or created.
    service: Option<ServiceRecord>,
    /// Requests, by instance, that no listing shows yet.
    sent: BTreeMap<String, (InstanceAction, Instant)>,
    gate_log: LogThrottle,
}

/// The outcome of a round without an error.
enum Round {
    /// Nothing is left to do that another round could do.
    Settled,
    /// Requests were sent whose result a later listing will show.
    Unsettled,
    /// Cloud Map did not answer some requests.
    Unanswered,
}

impl ServiceWorker {
    pub(super) fn new(
        name: CloudMapService,
        nodes: watch::Receiver<Arc<Vec<NodeRegistration>>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            name,
            nodes,
            shared,
            service: None,
            sent: BTreeMap::new(),
            gate_log: LogThrottle::once_a_minute(),
        }
    }

    /// Runs until the sender of `nodes` is dropped.
    pub(super) async fn run(mut self) {
        let mut unsettled = 0;
        let mut backoff = backoff();
        loop {
            let nodes = Arc::clone(&self.nodes.borrow_and_update());
            let nodes: Vec<&NodeRegistration> = nodes.iter().collect();
            let round = {
                // The semaphore is never closed; without a permit the round would still be correct.
                let shared = Arc::clone(&self.shared);
                let _permit = shared.permits.acquire().await;
                self.round(&nodes).await
            };
            let pause = match round {
                Ok(Round::Settled) => {
                    unsettled = 0;
                    INTERVAL.mul_f64(0.9 + 0.2 * fastrand::f64())
                }
                Ok(Round::Unsettled) => {
                    unsettled += 1;
                    (SETTLE * unsettled).min(INTERVAL)
                }
                Ok(Round::Unanswered) => {
                    sleep(backoff.next().unwrap_or(BACKOFF.1)).await;
                    continue;
                }
                Err(failure) => {
                    self.service = None;
                    self.publish_error(&nodes, &failure).await;
                    // Changes of nodes do not shorten the backoff.
                    sleep(backoff.next().unwrap_or(BACKOFF.1)).await;
                    continue;
                }
            };
            backoff = self::backoff();
            sleep(DEBOUNCE).await;
            tokio::select! {
                changed = self.nodes.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    /// One round. If the service was deleted since the last round, looks it up once more.
    async fn round(&mut self, nodes: &[&NodeRegistration]) -> Result<Round, RegistrationError> {
        match self.attempt(nodes).await {
            Err(RegistrationError::Gone) if self.service.take().is_some() => {
                self.attempt(nodes).await
            }
            round => round,
        }
    }

    async fn attempt(&mut self, nodes: &[&NodeRegistration]) -> Result<Round, RegistrationError> {
        let mut problems = NodeProblems::new();
        let mut round = Round::Settled;
        let mut with_finalizer = Vec::new();
        for node in nodes {
            let has_finalizer = if node.terminating {
                Ok(true)
            } else {
                self.shared.objects.add_finalizer(node).await
            };
            match has_finalizer {
                Ok(true) => with_finalizer.push(*node),
                Ok(false) => round = Round::Unsettled,
                Err(error) => {
                    let message = format!("cannot set the finalizer `{FINALIZER}`: {error}");
                    problems.insert(node.object.clone(), message);
                }
            }
        }
        let Some(service) = self.service(&with_finalizer, &mut problems).await? else {
            for node in with_finalizer.iter().filter(|node| node.terminating) {
                self.remove_finalizer(&node.object, &mut problems).await;
            }
            self.publish(nodes, &problems);
            return Ok(round);
        };
        let (moving, staying): (Vec<&NodeRegistration>, Vec<_>) = with_finalizer
            .iter()
            .partition(|node| former::former_arn(node, &service).is_some());
        self.annotate(&service, &staying, &mut problems).await;

        let listing = self.shared.registry.list(&service).await?;
        self.sent.retain(|_, (action, at)| {
            at.elapsed() < RESEND_AFTER && !plan::is_done(action, &listing)
        });
        let sent = self.sent.iter();
        let sent = sent.map(|(id, (action, _))| (id.clone(), action.clone()));
        let mut plan = plan::plan(&with_finalizer, &listing, &sent.collect());
        problems.append(&mut plan.problems);
        if plan.is_unsettled || !self.sent.is_empty() || !moving.is_empty() {
            round = Round::Unsettled;
        }
        if !self
            .send_requests(&service, plan.actions, &mut problems)
            .await
        {
            round = Round::Unanswered;
        }
        self.set_gates(plan.gates, &mut problems).await;
        let left = self
            .leave_former_services(&moving, &service, &mut problems)
            .await;
        self.annotate(&service, &left, &mut problems).await;
        if !plan.gone.is_empty() && listing.instances.is_empty() {
            self.delete_service(&service, nodes, &mut plan.gone, &mut problems)
                .await?;
        }
        for node in &plan.gone {
            self.remove_finalizer(node, &mut problems).await;
        }
        self.publish(nodes, &problems);
        Ok(round)
    }

    /// Looks up or creates the service. `None` if its namespace does not exist, or if the service does not exist and all
    /// nodes are terminating or may not use it.
    async fn service(
        &mut self,
        nodes: &[&NodeRegistration],
        problems: &mut NodeProblems,
    ) -> Result<Option<ServiceRecord>, RegistrationError> {
        if let Some(service) = &self.service {
            return Ok(Some(service.clone()));
        }
        let registry = &self.shared.registry;
        let staying = nodes.iter().find(|node| !node.terminating && node.allowed);
        let Some(namespace) = registry.namespace(&self.name.namespace).await? else {
            let message = format!(
                "Cloud Map has no namespace `{}` of the type DNS_PRIVATE or HTTP in this account and region; create it",
                self.name.namespace
            );
            for node in nodes.iter().filter(|node| !node.terminating) {
                problems.insert(node.object.clone(), message.clone());
            }
            self.set_gates(gate::unavailable(nodes, &message), problems)
                .await;
            return Ok(None);
        };
        // The annotated ARN saves listing all services of the namespace, of which there may be hundreds.
        let annotated = nodes.iter().find_map(|node| node.service_arn.as_deref());
        if let Some(arn) = annotated {
            let name = &self.name.service;
            self.service = registry.service_by_arn(&namespace, name, arn).await?;
        }
        if self.service.is_none() {
            self.service = registry.service(&namespace, &self.name.service).await?;
        }
        if let (None, Some(node)) = (&self.service, staying) {
            let settings = self.shared.settings;
            let created = registry.create(&namespace, &self.name, &node.uid, settings);
            self.service = Some(created.await?);
            info!(service = %self.name, node = %node.object, "created the Cloud Map service");
        }
        Ok(self.service.clone())
    }

    async fn annotate(
        &self,
        service: &ServiceRecord,
        nodes: &[&NodeRegistration],
        problems: &mut NodeProblems,
    ) {
        let Some(arn) = &service.arn else { return };
        for node in nodes.iter().filter(|node| !node.terminating) {
            if let Err(error) = self.shared.objects.annotate_service(node, arn).await {
                let message = format!("cannot set the annotation `{SERVICE_ARN}`: {error}");
                problems.insert(node.object.clone(), message);
            }
        }
    }

    /// Sends requests to Cloud Map. Returns whether Cloud Map answered all of them.
    async fn send_requests(
        &mut self,
        service: &ServiceRecord,
        actions: Vec<InstanceAction>,
        problems: &mut NodeProblems,
    ) -> bool {
        let shared = &self.shared;
        let actions = actions.into_iter().take(CALLS_PER_ROUND);
        let answers = stream::iter(actions).map(|action| async move {
            if matches!(action.request, InstanceRequest::Register(_)) {
                shared.throttle.acquire().await;
            }
            let answer = shared
                .registry
                .send(service, &action.id, &action.request)
                .await;
            (action, answer)
        });
        let answers: Vec<_> = answers.buffer_unordered(CONCURRENT_CALLS).collect().await;
        let mut is_answered = true;
        for (action, answer) in answers {
            let InstanceAction { node, id, request } = &action;
            match answer {
                Ok(()) => {
                    let request = describe(request);
                    info!(service = %self.name, %node, instance = id, request, "sent a request to Cloud Map");
                    self.sent.insert(id.clone(), (action, Instant::now()));
                }
                Err(failure) => {
                    let message =
                        format!("cannot {} instance `{id}`: {failure}", describe(request));
                    problems.insert(node.clone(), message);
                    is_answered &= matches!(failure, RegistrationError::Rejected(_));
                }
            }
        }
        is_answered
    }

    async fn set_gates(&self, updates: Vec<GateUpdate>, problems: &mut NodeProblems) {
        let objects = &self.shared.objects;
        let answers = stream::iter(updates).map(|update| async move {
            let answer = objects.set_gate(&update).await;
            (update, answer)
        });
        let answers: Vec<_> = answers.buffer_unordered(CONCURRENT_CALLS).collect().await;
        for (update, answer) in answers {
            if let Err(error) = answer {
                let message = format!("cannot set the readiness gate of {}: {error}", update.pod);
                problems.insert(update.node, message);
            }
        }
    }

    /// Deletes an empty service together with its last node, if the service was created for its nodes. Until Cloud Map
    /// has deleted it, `gone` becomes empty so that the nodes keep their finalizers.
    async fn delete_service(
        &mut self,
        service: &ServiceRecord,
        nodes: &[&NodeRegistration],
        gone: &mut Vec<ObjectRef>,
        problems: &mut NodeProblems,
    ) -> Result<(), RegistrationError> {
        let creator = service.creator.as_deref();
        let is_ours = service.is_marked || nodes.iter().any(|node| creator == Some(&*node.uid));
        if !is_ours || nodes.iter().any(|node| !gone.contains(&node.object)) {
            return Ok(());
        }
        match self.shared.registry.delete(service).await? {
            DeleteOutcome::Deleted => {
                info!(service = %self.name, "deleted the Cloud Map service with its last node");
                self.service = None;
            }
            DeleteOutcome::InUse => {
                for node in gone.drain(..) {
                    let message = "Cloud Map does not delete the service yet because it is in use";
                    problems.insert(node, message.to_owned());
                }
            }
        }
        Ok(())
    }

    async fn remove_finalizer(&self, node: &ObjectRef, problems: &mut NodeProblems) {
        if let Err(error) = self.shared.objects.remove_finalizer(node).await {
            let message = format!("cannot remove the finalizer `{FINALIZER}`: {error}");
            problems.insert(node.clone(), message);
        }
    }

    /// Publishes the error of a round for all nodes, and closes the gates that are not open.
    async fn publish_error(&self, nodes: &[&NodeRegistration], failure: &RegistrationError) {
        let message = failure.to_string();
        let all = nodes
            .iter()
            .map(|node| (node.object.clone(), message.clone()));
        self.publish(nodes, &all.collect());
        let mut gate_problems = NodeProblems::new();
        self.set_gates(gate::unavailable(nodes, &message), &mut gate_problems)
            .await;
        for (node, message) in gate_problems {
            if let Some(suppressed) = self.gate_log.pass() {
                warn!(object = %node, %message, suppressed, "cannot update readiness gates");
            }
        }
    }

    fn publish(&self, nodes: &[&NodeRegistration], problems: &NodeProblems) {
        for node in nodes {
            let message = problems.get(&node.object);
            self.shared.messages.set(&node.object, message);
        }
    }
}

const fn describe(request: &InstanceRequest) -> &'static str {
    match request {
        InstanceRequest::Register(_) => "register",
        InstanceRequest::Deregister => "deregister",
        InstanceRequest::SetHealth(true) => "set the health to healthy of",
        InstanceRequest::SetHealth(false) => "set the health to unhealthy of",
    }
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .with_jitter()
        .without_max_times()
        .build()
}
