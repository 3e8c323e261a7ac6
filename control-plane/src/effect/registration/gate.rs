//! Decides the readiness gate of a pod from what Cloud Map lists. Pure.
//!
//! A gate opens when Cloud Map lists the pod's instance, and lists it as healthy if the service has a health check. An
//! open gate closes only when the pod's containers are not ready or its Route 53 health check fails. Neither an outage of
//! Cloud Map nor the removal of the instance by another client takes a running pod out of service.

use evermesh_ingest::registration::{GateState, NodeRegistration, PodRegistration};
use evermesh_model::ObjectRef;

use super::{
    instance,
    plan::{HealthCheck, InstanceListing},
};
use crate::effect::reasons::GateReason;

/// A new value for the readiness gate of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GateUpdate {
    /// The virtual node of the pod.
    pub(super) node: ObjectRef,
    pub(super) pod: ObjectRef,
    pub(super) uid: String,
    pub(super) open: bool,
    pub(super) reason: GateReason,
    pub(super) message: String,
}

/// The value that the readiness gate should have, if it differs from the current one. `holder` is the pod for which the
/// pod's IP address is or will be registered. `None` for a pod without the gate.
pub(super) fn decide(
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
        let message = "the pod's containers are not ready";
        (false, GateReason::ContainersNotReady, message)
    } else if listing.health_check == HealthCheck::Route53 && healthy == Some(false) {
        let message = "the Route 53 health check of the pod's instance fails";
        (false, GateReason::Unhealthy, message)
    } else if *current == GateState::Open {
        return None;
    } else if holder.is_some_and(|holder| holder.object != pod.object) {
        let message = "another pod with the same IP address is registered in Cloud Map";
        (false, GateReason::AddressTaken, message)
    } else if !is_registered {
        let message = "Cloud Map does not list the pod's instance yet";
        (false, GateReason::NotRegistered, message)
    } else if listing.health_check != HealthCheck::None && healthy != Some(true) {
        let message = "Cloud Map does not list the pod's instance as healthy yet";
        (false, GateReason::NotHealthy, message)
    } else {
        let message = "Cloud Map lists the pod's instance";
        (true, GateReason::Registered, message)
    };
    let update = update(node, pod, open, reason, message);
    differs(current, &update).then_some(update)
}

/// The updates of all closed gates while Cloud Map is unavailable. `message` says why it is.
pub(super) fn unavailable(nodes: &[&NodeRegistration], message: &str) -> Vec<GateUpdate> {
    let pods = nodes
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (*node, pod)));
    pods.filter_map(|(node, pod)| {
        let current = pod.gate.as_ref().filter(|gate| **gate != GateState::Open)?;
        let update = update(node, pod, false, GateReason::CloudMapUnavailable, message);
        differs(current, &update).then_some(update)
    })
    .collect()
}

fn update(
    node: &NodeRegistration,
    pod: &PodRegistration,
    open: bool,
    reason: GateReason,
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

fn differs(current: &GateState, update: &GateUpdate) -> bool {
    match current {
        GateState::Unset => true,
        GateState::Open => !update.open,
        GateState::Closed(reason) => update.open || reason != update.reason.as_str(),
    }
}
