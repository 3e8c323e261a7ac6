//! One Cloud Map service, brought to what its nodes want again and again.
//!
//! In: the nodes that share it, whenever they or their pods change. Out: calls of Cloud Map, finalizers, annotations
//! and readiness gates. Each round lists what is there and does what [`plan`] says; nothing is remembered that a
//! listing could say.
//!
//! Must not let what fails for one node stop the others.
//!
//! [`plan`]: super::plan

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use evermesh_ingest::registration::NodeRegistration;
use evermesh_model::{CloudMapService, ObjectRef};
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    Shared,
    client::{DeleteOutcome, RegistrationError, ServiceRecord},
    gate::{self, GateUpdate},
    plan::{self, InstanceAction, InstanceRequest},
};

/// How often everything is looked at though nothing changed.
const INTERVAL: Duration = Duration::from_secs(10);
/// How soon what is under way is looked at again; longer each time.
const SETTLE: Duration = Duration::from_secs(1);
/// Changes that come sooner wait for each other.
const GAP: Duration = Duration::from_millis(100);
/// How long what was asked for may take to show before it is asked for again.
const SENT: Duration = Duration::from_secs(30);
/// Calls at a time.
const CALLS: usize = 8;
/// Calls in one round: what has changed meanwhile should not have to wait for minutes.
const ROUND: usize = 40;
/// The first pause after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a round met, by node.
type Problems = BTreeMap<ObjectRef, String>;

/// The task of one service.
pub(super) struct ServiceWorker {
    name: CloudMapService,
    wanted: watch::Receiver<Arc<Vec<NodeRegistration>>>,
    shared: Arc<Shared>,
    /// The service, once it was found.
    found: Option<ServiceRecord>,
    sent: BTreeMap<String, (InstanceAction, Instant)>,
}

/// How a round ended.
enum Round {
    /// All is as it should be, or cannot be helped.
    Settled,
    /// A later listing will show more.
    Unsettled,
    /// Cloud Map listed, and then did not take everything that it was asked for.
    Unanswered,
}

impl ServiceWorker {
    pub(super) const fn new(
        name: CloudMapService,
        wanted: watch::Receiver<Arc<Vec<NodeRegistration>>>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            name,
            wanted,
            shared,
            found: None,
            sent: BTreeMap::new(),
        }
    }

    /// Runs until nobody wants it.
    pub(super) async fn run(mut self) {
        let mut unsettled = 0;
        let mut backoff = backoff();
        loop {
            let nodes = Arc::clone(&self.wanted.borrow_and_update());
            let nodes: Vec<&NodeRegistration> = nodes.iter().collect();
            let round = {
                // It is never closed; if it were, working would still be right.
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
                    self.found = None;
                    self.tell_failure(&nodes, &failure).await;
                    // Nothing that changes meanwhile makes Cloud Map answer.
                    sleep(backoff.next().unwrap_or(BACKOFF.1)).await;
                    continue;
                }
            };
            backoff = self::backoff();
            sleep(GAP).await;
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    /// A service that vanished since the last round is looked for once more.
    async fn round(&mut self, nodes: &[&NodeRegistration]) -> Result<Round, RegistrationError> {
        match self.attempt(nodes).await {
            Err(RegistrationError::Gone) if self.found.take().is_some() => {
                self.attempt(nodes).await
            }
            round => round,
        }
    }

    async fn attempt(&mut self, nodes: &[&NodeRegistration]) -> Result<Round, RegistrationError> {
        let mut problems = Problems::new();
        let mut round = Round::Settled;
        let mut held = Vec::new();
        for node in nodes {
            let is_held = if node.terminating {
                Ok(true)
            } else {
                self.shared.objects.hold(node).await
            };
            match is_held {
                Ok(true) => held.push(*node),
                Ok(false) => round = Round::Unsettled,
                Err(error) => {
                    let message = format!("its finalizer could not be set: {error}");
                    problems.insert(node.object.clone(), message);
                }
            }
        }
        let Some(service) = self.service(&held, &mut problems).await? else {
            for node in held.iter().filter(|node| node.terminating) {
                self.release(&node.object, &mut problems).await;
            }
            self.tell(nodes, &problems);
            return Ok(round);
        };
        self.note(&service, &held, &mut problems).await;

        let listing = self.shared.registry.list(&service).await?;
        self.sent
            .retain(|_, (action, at)| at.elapsed() < SENT && !plan::is_done(action, &listing));
        let sent = self.sent.iter();
        let sent = sent.map(|(id, (action, _))| (id.clone(), action.clone()));
        let mut plan = plan::plan(&held, &listing, &sent.collect());
        problems.append(&mut plan.problems);
        if plan.is_unsettled || !self.sent.is_empty() {
            round = Round::Unsettled;
        }
        if !self.act(&service, plan.actions, &mut problems).await {
            round = Round::Unanswered;
        }
        self.set_gates(plan.gates, &mut problems).await;
        if !plan.gone.is_empty() && listing.instances.is_empty() {
            self.clean_up(&service, nodes, &mut plan.gone, &mut problems)
                .await?;
        }
        for node in &plan.gone {
            self.release(node, &mut problems).await;
        }
        self.tell(nodes, &problems);
        Ok(round)
    }

    /// The service. None if there is none and either nobody needs one or there is no place for it.
    async fn service(
        &mut self,
        nodes: &[&NodeRegistration],
        problems: &mut Problems,
    ) -> Result<Option<ServiceRecord>, RegistrationError> {
        if let Some(service) = &self.found {
            return Ok(Some(service.clone()));
        }
        let registry = &self.shared.registry;
        let staying = nodes.iter().find(|node| !node.terminating);
        let Some(namespace) = registry.namespace(&self.name.namespace).await? else {
            let message = format!(
                "Cloud Map has no namespace {} of the type DNS_PRIVATE or HTTP in this account and region: create it",
                self.name.namespace
            );
            for node in nodes.iter().filter(|node| !node.terminating) {
                problems.insert(node.object.clone(), message.clone());
            }
            self.set_gates(gate::unanswered(nodes, &message), problems)
                .await;
            return Ok(None);
        };
        // One call instead of a list of all services, of which there may be hundreds.
        let noted = nodes.iter().find_map(|node| node.service_arn.as_deref());
        if let Some(arn) = noted {
            let name = &self.name.service;
            self.found = registry.noted(&namespace, name, arn).await?;
        }
        if self.found.is_none() {
            self.found = registry.service(&namespace, &self.name.service).await?;
        }
        if let (None, Some(node)) = (&self.found, staying) {
            let settings = self.shared.settings;
            let made = registry.create(&namespace, &self.name, &node.uid, settings);
            self.found = Some(made.await?);
            info!(service = %self.name, node = %node.object, "the Cloud Map service was missing and is made");
        }
        Ok(self.found.clone())
    }

    async fn note(
        &self,
        service: &ServiceRecord,
        nodes: &[&NodeRegistration],
        problems: &mut Problems,
    ) {
        let Some(arn) = &service.arn else { return };
        for node in nodes.iter().filter(|node| !node.terminating) {
            if let Err(error) = self.shared.objects.note_service(node, arn).await {
                let message = format!("its annotation could not be set: {error}");
                problems.insert(node.object.clone(), message);
            }
        }
    }

    /// Sends what there is to send. Returns whether Cloud Map answered all of it.
    async fn act(
        &mut self,
        service: &ServiceRecord,
        actions: Vec<InstanceAction>,
        problems: &mut Problems,
    ) -> bool {
        let shared = &self.shared;
        let answers = stream::iter(actions.into_iter().take(ROUND)).map(|action| async move {
            if matches!(action.request, InstanceRequest::Register(_)) {
                shared.throttle.acquire().await;
            }
            let answer = shared
                .registry
                .send(service, &action.id, &action.request)
                .await;
            (action, answer)
        });
        let answers: Vec<_> = answers.buffer_unordered(CALLS).collect().await;
        let mut is_answered = true;
        for (action, answer) in answers {
            let InstanceAction { node, id, request } = &action;
            match answer {
                Ok(()) => {
                    let request = verb(request);
                    info!(service = %self.name, %node, instance = id, request, "Cloud Map was asked");
                    self.sent.insert(id.clone(), (action, Instant::now()));
                }
                Err(failure) => {
                    let message = format!("{} of {id} failed: {failure}", verb(request));
                    problems.insert(node.clone(), message);
                    is_answered &= matches!(failure, RegistrationError::Refused(_));
                }
            }
        }
        is_answered
    }

    async fn set_gates(&self, verdicts: Vec<GateUpdate>, problems: &mut Problems) {
        let objects = &self.shared.objects;
        let answers = stream::iter(verdicts).map(|verdict| async move {
            let answer = objects.set_gate(&verdict).await;
            (verdict, answer)
        });
        let answers: Vec<_> = answers.buffer_unordered(CALLS).collect().await;
        for (verdict, answer) in answers {
            if let Err(error) = answer {
                let message = format!("the gate of {} could not be set: {error}", verdict.pod);
                problems.insert(verdict.node, message);
            }
        }
    }

    /// Deletes an empty service with the last of its nodes, if it was made for them. A node waits until that is done.
    async fn clean_up(
        &mut self,
        service: &ServiceRecord,
        nodes: &[&NodeRegistration],
        gone: &mut Vec<ObjectRef>,
        problems: &mut Problems,
    ) -> Result<(), RegistrationError> {
        let creator = service.creator.as_deref();
        let is_ours = service.is_marked || nodes.iter().any(|node| creator == Some(&*node.uid));
        if !is_ours || nodes.iter().any(|node| !gone.contains(&node.object)) {
            return Ok(());
        }
        match self.shared.registry.delete(service).await? {
            DeleteOutcome::Done => {
                info!(service = %self.name, "the Cloud Map service is deleted with its last node");
                self.found = None;
            }
            DeleteOutcome::InUse => {
                for node in gone.drain(..) {
                    let message = "its Cloud Map service cannot be deleted yet: it is in use";
                    problems.insert(node, message.to_owned());
                }
            }
        }
        Ok(())
    }

    async fn release(&self, node: &ObjectRef, problems: &mut Problems) {
        if let Err(error) = self.shared.objects.release(node).await {
            let message = format!("its finalizer could not be removed: {error}");
            problems.insert(node.clone(), message);
        }
    }

    async fn tell_failure(&self, nodes: &[&NodeRegistration], failure: &RegistrationError) {
        let message = failure.to_string();
        let all = nodes
            .iter()
            .map(|node| (node.object.clone(), message.clone()));
        self.tell(nodes, &all.collect());
        let mut ignored = Problems::new();
        self.set_gates(gate::unanswered(nodes, &message), &mut ignored)
            .await;
        for (node, message) in ignored {
            warn!(object = %node, %message);
        }
    }

    fn tell(&self, nodes: &[&NodeRegistration], problems: &Problems) {
        for node in nodes {
            let message = problems.get(&node.object);
            self.shared.messages.tell(&node.object, message);
        }
    }
}

const fn verb(request: &InstanceRequest) -> &'static str {
    match request {
        InstanceRequest::Register(_) => "registration",
        InstanceRequest::Deregister => "deregistration",
        InstanceRequest::SetHealth(true) => "health: healthy",
        InstanceRequest::SetHealth(false) => "health: unhealthy",
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
