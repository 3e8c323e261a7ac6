//! Who redirects the pod's traffic to the proxy: an init container, or the platform, told by annotations.
//!
//! Must not know the rules: variables and annotations are the contract.

use serde_json::{Value, json};

use super::{PROXY_USER, PatchContext, PodPatchBuilder, has_container, resources};
use crate::annotation::{IGNORED_IPS, IGNORED_PORTS, INJECTION, PORTS};

/// Where the proxy takes what comes in.
const INGRESS_PORT: u16 = 15000;
/// Where it takes what goes out.
const EGRESS_PORT: u16 = 15001;
const NAME: &str = "proxyinit";

pub(super) fn patch(draft: &mut PodPatchBuilder, task: PatchContext<'_>) {
    if task.wishes.cni {
        annotate(draft, task);
    } else if !has_container(draft.pod(), NAME) {
        draft.push(&["spec", "initContainers"], container(task));
    }
}

/// What the platform's plugin reads. What the user wrote stays as it is written, if it can be read.
fn annotate(draft: &mut PodPatchBuilder, task: PatchContext<'_>) {
    let wishes = task.wishes;
    for (name, value) in [
        (PORTS, joined(&wishes.ports)),
        (IGNORED_IPS, wishes.ignored_ips.join(",")),
        (IGNORED_PORTS, joined(&wishes.ignored_ports)),
    ] {
        let is_unread = wishes.malformed.iter().any(|key| key == name);
        if is_unread || draft.pod()["metadata"]["annotations"][name].is_null() {
            draft.set(&["metadata", "annotations", name], value.into());
        }
    }
    for (name, value) in [
        ("appmesh.k8s.aws/proxyEgressPort", EGRESS_PORT.to_string()),
        ("appmesh.k8s.aws/proxyIngressPort", INGRESS_PORT.to_string()),
        ("appmesh.k8s.aws/ignoredUID", PROXY_USER.to_string()),
        (INJECTION, "enabled".to_owned()),
    ] {
        draft.set(&["metadata", "annotations", name], value.into());
    }
}

/// It has to be root, whatever the pod says of its containers: a capability is of no use to anybody else.
fn container(task: PatchContext<'_>) -> Value {
    let wishes = task.wishes;
    let env: Vec<Value> = [
        ("APPMESH_START_ENABLED", "1".to_owned()),
        ("APPMESH_IGNORE_UID", PROXY_USER.to_string()),
        ("APPMESH_ENVOY_INGRESS_PORT", INGRESS_PORT.to_string()),
        ("APPMESH_ENVOY_EGRESS_PORT", EGRESS_PORT.to_string()),
        ("APPMESH_APP_PORTS", joined(&wishes.ports)),
        ("APPMESH_EGRESS_IGNORED_IP", wishes.ignored_ips.join(",")),
        (
            "APPMESH_EGRESS_IGNORED_PORTS",
            joined(&wishes.ignored_ports),
        ),
        ("APPMESH_ENABLE_IPV6", u8::from(wishes.ipv6).to_string()),
    ]
    .into_iter()
    .map(|(name, value)| json!({ "name": name, "value": value }))
    .collect();
    json!({
        "name": NAME,
        "image": task.settings.init_image,
        "env": env,
        "resources": resources(&task.settings.envoy.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    })
}

fn joined(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}
