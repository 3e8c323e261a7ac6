//! Plans the requests that bring a Cloud Map service in line with the pods of its nodes. Pure.
//!
//! Input: the nodes that share the service, the listing of its instances, and the requests sent before that no listing
//! shows yet. Output: [`InstanceRequest`]s, updates of readiness gates, and the terminating nodes without instances.
//!
//! An instance belongs to the node whose mesh and name are in its attributes; instances of other owners are left alone.
//! A request counts as done only when a listing shows its result, because Cloud Map works asynchronously.

use std::collections::{BTreeMap, BTreeSet};

use evermesh_ingest::registration::{NodeRegistration, PodRegistration};
use evermesh_model::ObjectRef;

use super::{
    gate::{self, GateUpdate},
    instance::{self, Attributes},
};

/// The instances of a service, as Cloud Map lists them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct InstanceListing {
    pub(super) health_check: HealthCheck,
    /// Instances by ID.
    pub(super) instances: BTreeMap<String, ListedInstance>,
}

/// The source of the health of instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum HealthCheck {
    /// No health check: every listed instance is healthy.
    #[default]
    None,
    /// A custom health check, whose state Evermesh sets.
    Custom,
    /// A Route 53 health check.
    Route53,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ListedInstance {
    pub(super) attributes: Attributes,
    /// `None` while Cloud Map does not know it, and without a health check.
    pub(super) healthy: Option<bool>,
}

/// A request about one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InstanceRequest {
    Deregister,
    /// Sets the custom health to healthy or unhealthy.
    SetHealth(bool),
    /// Registers the instance with these attributes, or replaces its attributes.
    Register(Attributes),
}

/// A request with its instance and the node on whose behalf it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstanceAction {
    pub(super) node: ObjectRef,
    pub(super) id: String,
    pub(super) request: InstanceRequest,
}

/// The work of one round.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RegistrationPlan {
    /// Requests to send; deregistrations come before registrations, because a service holds a limited number.
    pub(super) actions: Vec<InstanceAction>,
    /// Gates whose value changes.
    pub(super) gates: Vec<GateUpdate>,
    /// Terminating nodes without instances.
    pub(super) gone: Vec<ObjectRef>,
    /// Messages by node.
    pub(super) problems: BTreeMap<ObjectRef, String>,
    /// Whether a later listing will differ: something was requested, or a node is terminating.
    pub(super) is_unsettled: bool,
}

/// The plan for one service. `sent` holds the requests, by instance, that no listing shows yet.
pub(super) fn plan(
    nodes: &[&NodeRegistration],
    listing: &InstanceListing,
    sent: &BTreeMap<String, InstanceAction>,
) -> RegistrationPlan {
    let mut plan = RegistrationPlan::default();
    let wanted = wanted(nodes, listing.health_check, &mut plan.problems);
    let mut registrations = Vec::new();
    for (id, (node, pod)) in &wanted {
        let request = request_for(node, pod, listing.instances.get(id), listing.health_check);
        let Some(request) = request else { continue };
        plan.is_unsettled = true;
        let action = InstanceAction {
            node: node.object.clone(),
            id: id.clone(),
            request,
        };
        if sent.get(id) == Some(&action) {
            continue;
        }
        match &action.request {
            InstanceRequest::Register(_) => registrations.push(action),
            InstanceRequest::SetHealth(_) | InstanceRequest::Deregister => {
                plan.actions.push(action);
            }
        }
    }
    let mut remaining: BTreeSet<&ObjectRef> = sent.values().map(|action| &action.node).collect();
    for (id, listed) in &listing.instances {
        let owner = nodes
            .iter()
            .find(|node| instance::is_of(node, &listed.attributes));
        let Some(owner) = owner.filter(|_| !wanted.contains_key(id)) else {
            continue;
        };
        plan.is_unsettled = true;
        remaining.insert(&owner.object);
        let action = InstanceAction {
            node: owner.object.clone(),
            id: id.clone(),
            request: InstanceRequest::Deregister,
        };
        if sent.get(id) != Some(&action) {
            plan.actions.push(action);
        }
    }
    plan.actions.append(&mut registrations);
    for node in nodes.iter().filter(|node| node.terminating) {
        if !remaining.contains(&node.object) {
            plan.gone.push(node.object.clone());
        }
    }
    plan.is_unsettled |= nodes.iter().any(|node| node.terminating);
    for node in nodes {
        for pod in &node.pods {
            let holder = wanted.get(&instance::id(pod)).map(|(_, pod)| *pod);
            plan.gates.extend(gate::decide(node, pod, holder, listing));
        }
    }
    plan
}

/// Whether a listing shows the result of a request.
pub(super) fn is_done(action: &InstanceAction, listing: &InstanceListing) -> bool {
    let listed = listing.instances.get(&action.id);
    match &action.request {
        InstanceRequest::Deregister => listed.is_none(),
        InstanceRequest::SetHealth(healthy) => {
            listed.is_some_and(|it| it.healthy == Some(*healthy))
        }
        InstanceRequest::Register(attributes) => {
            listed.is_some_and(|it| instance::is_same(attributes, &it.attributes))
        }
    }
}

/// The instances that should exist, by ID. Pods that are not ready are included only with a custom health check, which
/// can mark them as unhealthy. Of two pods with the same address the ready one, or else the first one, wins.
fn wanted<'a>(
    nodes: &[&'a NodeRegistration],
    health_check: HealthCheck,
    problems: &mut BTreeMap<ObjectRef, String>,
) -> BTreeMap<String, (&'a NodeRegistration, &'a PodRegistration)> {
    let mut wanted: BTreeMap<String, (&NodeRegistration, &PodRegistration)> = BTreeMap::new();
    let pods = nodes
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (*node, pod)));
    for (node, pod) in pods.filter(|(_, pod)| pod.ready || health_check == HealthCheck::Custom) {
        let id = instance::id(pod);
        let mut loser = (node, pod);
        match wanted.get_mut(&id) {
            None => {
                wanted.insert(id, loser);
                continue;
            }
            Some(winner) if pod.ready && !winner.1.ready => std::mem::swap(winner, &mut loser),
            Some(_) => {}
        }
        let (winner_node, winner) = wanted[&id];
        let message = format!(
            "{} is not registered because {} of {} has the same IP address {id}",
            loser.1.object, winner.object, winner_node.object
        );
        problems.insert(loser.0.object.clone(), message);
    }
    wanted
}

/// The request that brings one instance in line with its pod, if one is needed.
fn request_for(
    node: &NodeRegistration,
    pod: &PodRegistration,
    listed: Option<&ListedInstance>,
    health_check: HealthCheck,
) -> Option<InstanceRequest> {
    let attributes = instance::attributes(node, pod);
    match listed {
        Some(listed) if instance::is_same(&attributes, &listed.attributes) => {
            (health_check == HealthCheck::Custom && listed.healthy != Some(pod.ready))
                .then_some(InstanceRequest::SetHealth(pod.ready))
        }
        _ => Some(InstanceRequest::Register(attributes)),
    }
}
