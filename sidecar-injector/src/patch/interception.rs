//! Interception of the pod's traffic: the init container `proxyinit`, or annotations for the CNI plugin of the platform.

use serde_json::{Value, json};

use super::{PROXY_INIT, PROXY_USER, PatchContext, PodPatchBuilder, has_container, resources};
use crate::annotation::{IGNORED_IPS, IGNORED_PORTS, INJECTION, PORTS, joined};

/// Envoy's port for intercepted inbound connections.
pub(super) const INGRESS_PORT: u16 = 15000;
/// Envoy's port for intercepted outbound connections.
pub(super) const EGRESS_PORT: u16 = 15001;

pub(super) fn patch(builder: &mut PodPatchBuilder, context: PatchContext<'_>) {
    if context.requested.cni {
        annotate(builder, context);
    } else if !has_container(builder.pod(), PROXY_INIT) {
        builder.push(&["spec", "initContainers"], container(context));
    }
}

/// Writes the annotations that the plugin reads. Annotations of the user stay unchanged if their values are in force.
fn annotate(builder: &mut PodPatchBuilder, context: PatchContext<'_>) {
    let requested = context.requested;
    for (name, value) in [
        (PORTS, joined(&requested.ports)),
        (IGNORED_IPS, requested.ignored_ips.join(",")),
        (IGNORED_PORTS, joined(&requested.ignored_ports)),
    ] {
        let is_replaced = requested.replaced.iter().any(|key| key == name);
        if is_replaced || builder.pod()["metadata"]["annotations"][name].is_null() {
            builder.set(&["metadata", "annotations", name], value.into());
        }
    }
    for (name, value) in [
        ("appmesh.k8s.aws/proxyEgressPort", EGRESS_PORT.to_string()),
        ("appmesh.k8s.aws/proxyIngressPort", INGRESS_PORT.to_string()),
        ("appmesh.k8s.aws/ignoredUID", PROXY_USER.to_string()),
        (INJECTION, "enabled".to_owned()),
    ] {
        builder.set(&["metadata", "annotations", name], value.into());
    }
}

/// The init container. It runs as root, whatever the pod's security context says, because a capability has no effect
/// for other users.
fn container(context: PatchContext<'_>) -> Value {
    let requested = context.requested;
    let env: Vec<Value> = [
        ("APPMESH_START_ENABLED", "1".to_owned()),
        ("APPMESH_IGNORE_UID", PROXY_USER.to_string()),
        ("APPMESH_ENVOY_INGRESS_PORT", INGRESS_PORT.to_string()),
        ("APPMESH_ENVOY_EGRESS_PORT", EGRESS_PORT.to_string()),
        ("APPMESH_APP_PORTS", joined(&requested.ports)),
        ("APPMESH_EGRESS_IGNORED_IP", requested.ignored_ips.join(",")),
        (
            "APPMESH_EGRESS_IGNORED_PORTS",
            joined(&requested.ignored_ports),
        ),
        ("APPMESH_ENABLE_IPV6", u8::from(requested.ipv6).to_string()),
    ]
    .into_iter()
    .map(|(name, value)| json!({ "name": name, "value": value }))
    .collect();
    json!({
        "name": PROXY_INIT,
        "image": context.settings.init_image,
        "env": env,
        "resources": resources(&requested.init_resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}
