//! What is planned for pods and listings, without a cluster and without AWS.

mod client;
mod gate;
mod plan;

use std::collections::BTreeMap;

use evermesh_ingest::registration::{Gate, Pod, Registrant};
use evermesh_model::{Kind, ObjectRef, ProxyKind, ResourceName};

use super::{
    instance,
    plan::{Checks, Listed, Listing, Plan, plan},
};

pub(super) fn node(name: &str, pods: Vec<Pod>) -> Registrant {
    Registrant {
        name: ResourceName::new("shop", ProxyKind::VirtualNode, format!("{name}_ns")),
        object: ObjectRef::new(Kind::VirtualNode, "ns", name),
        uid: format!("uid-of-{name}"),
        leaving: false,
        port: Some(8080),
        attributes: BTreeMap::new(),
        service_arn: None,
        pods,
    }
}

pub(super) fn leaving(name: &str) -> Registrant {
    Registrant {
        leaving: true,
        ..node(name, Vec::new())
    }
}

pub(super) fn pod(name: &str, ip: &str) -> Pod {
    Pod {
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

pub(super) fn starting(name: &str, ip: &str) -> Pod {
    Pod {
        ready: false,
        ..pod(name, ip)
    }
}

pub(super) fn gated(pod: Pod, gate: Gate) -> Pod {
    Pod {
        gate: Some(gate),
        ..pod
    }
}

/// A listing with the instances of these pods as they should be.
pub(super) fn holding(checks: Checks, nodes: &[&Registrant]) -> Listing {
    let pods = nodes
        .iter()
        .flat_map(|node| node.pods.iter().map(move |pod| (node, pod)));
    let instances = pods.map(|(node, pod)| {
        let listed = Listed {
            attributes: instance::attributes(node, pod),
            healthy: (checks != Checks::None).then_some(pod.ready),
        };
        (instance::id(pod), listed)
    });
    Listing {
        checks,
        instances: instances.collect(),
    }
}

pub(super) fn empty(checks: Checks) -> Listing {
    holding(checks, &[])
}

pub(super) fn plan_of(nodes: &[&Registrant], listing: &Listing) -> Plan {
    plan(nodes, listing, &BTreeMap::new())
}

pub(super) fn reasons(plan: &Plan) -> Vec<(bool, &str)> {
    let gates = plan.gates.iter();
    gates.map(|it| (it.open, it.reason)).collect()
}
