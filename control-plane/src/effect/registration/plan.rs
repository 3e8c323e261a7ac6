//! What has to be done so that a Cloud Map service holds the pods that belong there. Pure.
//!
//! In: the nodes that share the service, what Cloud Map lists for it, and what it was asked for a moment ago. Out:
//! [`InstanceRequest`]s, what the readiness gates should say, and which nodes have nothing left there.
//! An instance belongs to the node whose names it carries; those of nobody here are left alone.
//!
//! Must not trust that what was asked for is done: only a listing says so.

use std::collections::{BTreeMap, BTreeSet};

use evermesh_ingest::registration::{NodeRegistration, PodRegistration};
use evermesh_model::ObjectRef;

use super::{
    gate::{self, GateUpdate},
    instance::{self, Attributes},
};

/// What Cloud Map holds of a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct InstanceListing {
    pub(super) checks: HealthChecks,
    /// By id.
    pub(super) instances: BTreeMap<String, ListedInstance>,
}

/// Who says whether an instance is healthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum HealthChecks {
    /// Nobody: an instance that is there is healthy.
    #[default]
    None,
    /// We do.
    Custom,
    /// Route 53 does.
    Route53,
}

/// An instance that Cloud Map holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ListedInstance {
    pub(super) attributes: Attributes,
    /// None while it is not known, or if nobody checks.
    pub(super) healthy: Option<bool>,
}

/// What is asked of Cloud Map for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InstanceRequest {
    /// That it is not there.
    Deregister,
    /// That it is healthy, or is not.
    SetHealth(bool),
    /// That it is there, as this.
    Register(Attributes),
}

/// A request, and the node it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstanceAction {
    pub(super) node: ObjectRef,
    pub(super) id: String,
    pub(super) request: InstanceRequest,
}

/// What there is to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RegistrationPlan {
    /// What makes room first.
    pub(super) actions: Vec<InstanceAction>,
    /// Those that differ from what the pods say.
    pub(super) gates: Vec<GateUpdate>,
    /// Leaving nodes of which nothing is left.
    pub(super) gone: Vec<ObjectRef>,
    /// What is wrong, by node.
    pub(super) problems: BTreeMap<ObjectRef, String>,
    /// Whether something is under way that a later listing will show.
    pub(super) is_unsettled: bool,
}

/// The plan for one service. `sent` is what it was asked for and has not shown yet, by instance.
pub(super) fn plan(
    nodes: &[&NodeRegistration],
    listing: &InstanceListing,
    sent: &BTreeMap<String, InstanceAction>,
) -> RegistrationPlan {
    let mut plan = RegistrationPlan::default();
    let wanted = wanted(nodes, listing.checks, &mut plan.problems);
    let mut registrations = Vec::new();
    for (id, (node, pod)) in &wanted {
        let request = next(node, pod, listing.instances.get(id), listing.checks);
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
                plan.actions.push(action)
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
            plan.gates.extend(gate::judge(node, pod, holder, listing));
        }
    }
    plan
}

/// Whether a listing shows what was asked for.
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

/// The instances that there should be, by id. Pods that are not ready are among them only if their health can be
/// told.
fn wanted<'a>(
    nodes: &[&'a NodeRegistration],
    checks: HealthChecks,
    problems: &mut BTreeMap<ObjectRef, String>,
) -> BTreeMap<String, (&'a NodeRegistration, &'a PodRegistration)> {
    let mut wanted: BTreeMap<String, (&NodeRegistration, &PodRegistration)> = BTreeMap::new();
    let pods = nodes
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (*node, pod)));
    for (node, pod) in pods.filter(|(_, pod)| pod.ready || checks == HealthChecks::Custom) {
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
            "{} is not registered: its address {id} is that of {} of {}",
            loser.1.object, winner.object, winner_node.object
        );
        problems.insert(loser.0.object.clone(), message);
    }
    wanted
}

fn next(
    node: &NodeRegistration,
    pod: &PodRegistration,
    listed: Option<&ListedInstance>,
    checks: HealthChecks,
) -> Option<InstanceRequest> {
    let attributes = instance::attributes(node, pod);
    match listed {
        Some(listed) if instance::is_same(&attributes, &listed.attributes) => {
            (checks == HealthChecks::Custom && listed.healthy != Some(pod.ready))
                .then_some(InstanceRequest::SetHealth(pod.ready))
        }
        _ => Some(InstanceRequest::Register(attributes)),
    }
}
