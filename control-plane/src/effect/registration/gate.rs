//! The readiness gate of a pod: what it is to say, given what Cloud Map holds. Pure.
//!
//! It opens as soon as Cloud Map shows the pod's instance, healthy if somebody checks. Once open it closes only when
//! the containers are not ready any more or Route 53 finds the pod unhealthy: neither an outage of Cloud Map nor an
//! instance that somebody removed takes a pod out of service.
//!
//! Must not be asked about pods without the gate.

use evermesh_ingest::registration::{GateState, NodeRegistration, PodRegistration};
use evermesh_model::ObjectRef;

use super::{
    instance,
    plan::{HealthChecks, InstanceListing},
};

/// What the readiness gate of a pod is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GateUpdate {
    /// Of which node.
    pub(super) node: ObjectRef,
    pub(super) pod: ObjectRef,
    pub(super) uid: String,
    pub(super) open: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What it should say where that is not what it says. `holder` is the pod that its address is registered for.
pub(super) fn judge(
    node: &NodeRegistration,
    pod: &PodRegistration,
    holder: Option<&PodRegistration>,
    listing: &InstanceListing,
) -> Option<GateUpdate> {
    let current = pod.gate.as_ref()?;
    let listed = listing.instances.get(&instance::id(pod));
    let healthy = listed.and_then(|listed| listed.healthy);
    let is_registered =
        listed.is_some_and(|listed| instance::is_of_pod(node, pod, &listed.attributes));
    let (open, reason, message) = if !pod.ready {
        (false, "ContainersNotReady", "its containers are not ready")
    } else if listing.checks == HealthChecks::Route53 && healthy == Some(false) {
        (false, "Unhealthy", "Route 53 finds it unhealthy")
    } else if *current == GateState::Open {
        return None;
    } else if holder.is_some_and(|holder| holder.object != pod.object) {
        let message = "another pod with its address is registered in Cloud Map";
        (false, "AddressTaken", message)
    } else if !is_registered {
        (false, "NotRegistered", "Cloud Map does not show it yet")
    } else if listing.checks != HealthChecks::None && healthy != Some(true) {
        (
            false,
            "NotHealthy",
            "Cloud Map does not call it healthy yet",
        )
    } else {
        (true, "Registered", "Cloud Map shows it")
    };
    let verdict = verdict(node, pod, open, reason, message);
    differs(current, &verdict).then_some(verdict)
}

/// What the gates should say while Cloud Map gives no answer, where that is not what they say.
pub(super) fn unanswered(nodes: &[&NodeRegistration], words: &str) -> Vec<GateUpdate> {
    let pods = nodes
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (*node, pod)));
    pods.filter_map(|(node, pod)| {
        let current = pod.gate.as_ref().filter(|gate| **gate != GateState::Open)?;
        let verdict = verdict(node, pod, false, "CloudMapUnavailable", words);
        differs(current, &verdict).then_some(verdict)
    })
    .collect()
}

fn verdict(
    node: &NodeRegistration,
    pod: &PodRegistration,
    open: bool,
    reason: &'static str,
    message: &str,
) -> GateUpdate {
    GateUpdate {
        node: node.object.clone(),
        pod: pod.object.clone(),
        uid: pod.uid.clone(),
        open,
        reason,
        message: message.to_owned(),
    }
}

fn differs(current: &GateState, verdict: &GateUpdate) -> bool {
    match current {
        GateState::Unset => true,
        GateState::Open => !verdict.open,
        GateState::Closed(reason) => verdict.open || reason != verdict.reason,
    }
}
