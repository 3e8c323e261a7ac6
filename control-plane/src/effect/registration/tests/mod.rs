//! Tests of registration without a Kubernetes cluster and without AWS.

mod client;
mod gate;
mod plan;

use std::collections::BTreeMap;

use evermesh_ingest::registration::{GateState, NodeRegistration, PodRegistration};
use evermesh_model::{Kind, ObjectRef, ProxyKind, ResourceName};

use super::{
    instance,
    plan::{HealthCheck, InstanceListing, ListedInstance, RegistrationPlan, plan},
};
use crate::effect::reasons::GateReason;

pub(super) fn node(name: &str, pods: Vec<PodRegistration>) -> NodeRegistration {
    NodeRegistration {
        name: ResourceName::new("shop", ProxyKind::VirtualNode, format!("{name}_ns")),
        object: ObjectRef::new(Kind::VirtualNode, "ns", name),
        uid: format!("uid-of-{name}"),
        allowed: true,
        terminating: false,
        port: Some(8080),
        attributes: BTreeMap::new(),
        service_arn: None,
        pods,
    }
}

pub(super) fn terminating(name: &str) -> NodeRegistration {
    NodeRegistration {
        terminating: true,
        ..node(name, Vec::new())
    }
}

pub(super) fn pod(name: &str, ip: &str) -> PodRegistration {
    PodRegistration {
        object: ObjectRef::new(Kind::Pod, "ns", name),
        uid: format!("uid-of-{name}"),
        ip: ip.parse().unwrap(),
        ready: true,
        labels: BTreeMap::new(),
        region: None,
        zone: None,
        gate: None,
    }
}

pub(super) fn starting(name: &str, ip: &str) -> PodRegistration {
    PodRegistration {
        ready: false,
        ..pod(name, ip)
    }
}

pub(super) fn gated(pod: PodRegistration, gate: GateState) -> PodRegistration {
    PodRegistration {
        gate: Some(gate),
        ..pod
    }
}

/// A listing that holds exactly the wanted instances of these nodes.
pub(super) fn holding(health_check: HealthCheck, nodes: &[&NodeRegistration]) -> InstanceListing {
    let pods = nodes
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (node, pod)));
    let instances = pods.map(|(node, pod)| {
        let listed = ListedInstance {
            attributes: instance::attributes(node, pod),
            healthy: (health_check != HealthCheck::None).then_some(pod.ready),
        };
        (instance::id(pod), listed)
    });
    InstanceListing {
        health_check,
        instances: instances.collect(),
    }
}

pub(super) fn empty(health_check: HealthCheck) -> InstanceListing {
    holding(health_check, &[])
}

pub(super) fn plan_of(nodes: &[&NodeRegistration], listing: &InstanceListing) -> RegistrationPlan {
    plan(nodes, listing, &BTreeMap::new())
}

pub(super) fn reasons(plan: &RegistrationPlan) -> Vec<(bool, GateReason)> {
    let gates = plan.gates.iter();
    gates.map(|it| (it.open, it.reason)).collect()
}
