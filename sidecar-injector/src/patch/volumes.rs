//! Volumes and their mounts in Envoy's container: the token, the SDS socket, and those that annotations name.

use serde_json::{Value, json};

use super::{PatchContext, PodPatchBuilder};
use crate::annotation::{RequestedProxy, VOLUME_MOUNTS, XRAY_CONFIG};

const TOKEN_VOLUME: &str = "evermesh-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/evermesh.dev";
/// The file with the token that the proxy sends to the control plane.
pub(super) const TOKEN: &str = "/var/run/secrets/evermesh.dev/token";
/// Lifetime of the token, in seconds. The kubelet renews it earlier.
const TOKEN_LIFETIME: u32 = 3600;
const SDS_VOLUME: &str = "appmesh-sds-socket-volume";

const SCRATCH_VOLUME: &str = "evermesh-envoy-tmp";
const SCRATCH_FOLDER: &str = "/tmp";

/// Adds the only folder of Envoy that can be written to, for access logs, unless an annotation mounts another volume there.
pub(super) fn add_scratch(volumes: &mut Vec<Value>, mounts: &mut Vec<Value>) {
    let is_there = |mount: &Value| {
        let path = mount["mountPath"].as_str().unwrap_or_default();
        path.trim_end_matches('/') == SCRATCH_FOLDER
    };
    if !mounts.iter().any(is_there) {
        volumes.push(json!({ "name": SCRATCH_VOLUME, "emptyDir": {} }));
        mounts.push(json!({ "name": SCRATCH_VOLUME, "mountPath": SCRATCH_FOLDER }));
    }
}

/// The volumes of Envoy and their mounts.
pub(super) fn needed(context: PatchContext<'_>) -> (Vec<Value>, Vec<Value>) {
    let PatchContext {
        settings,
        requested,
        ..
    } = context;
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    if let Some(audience) = &settings.control_plane.token_audience {
        let token = json!({
            "audience": audience,
            "expirationSeconds": TOKEN_LIFETIME,
            "path": "token",
        });
        volumes.push(json!({
            "name": TOKEN_VOLUME,
            "projected": { "sources": [{ "serviceAccountToken": token }] },
        }));
        mounts.push(json!({ "name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true }));
    }
    if let Some(socket) = socket(context) {
        volumes.push(json!({
            "name": SDS_VOLUME,
            "hostPath": { "path": socket, "type": "Socket" },
        }));
        mounts.push(json!({ "name": SDS_VOLUME, "mountPath": socket }));
    }
    for mount in &requested.secret_mounts {
        volumes.push(json!({
            "name": mount.name,
            "secret": { "secretName": mount.name },
        }));
    }
    for mount in requested
        .secret_mounts
        .iter()
        .chain(&requested.volume_mounts)
    {
        mounts.push(json!({ "name": mount.name, "mountPath": mount.path, "readOnly": true }));
    }
    (volumes, mounts)
}

/// The SDS socket of this pod's proxy.
pub(super) fn socket(context: PatchContext<'_>) -> Option<&str> {
    let socket = context.settings.sds_socket.as_deref();
    socket.filter(|_| context.requested.sds)
}

/// Adds the volumes whose names the pod does not have.
pub(super) fn add(builder: &mut PodPatchBuilder, volumes: Vec<Value>) {
    for volume in volumes {
        if !has(builder.pod(), &volume["name"]) {
            builder.push(&["spec", "volumes"], volume);
        }
    }
}

fn has(pod: &Value, volume: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array();
    volumes.is_some_and(|all| all.iter().any(|one| one["name"] == *volume))
}

/// Warnings about volumes that annotations name and the pod does not have. Another webhook may still add them, so the
/// pod is not rejected.
pub(super) fn missing(pod: &Value, requested: &RequestedProxy) -> Vec<String> {
    let envoy = requested.volume_mounts.iter().map(|it| (VOLUME_MOUNTS, it));
    let xray = requested.xray_config.iter().map(|it| (XRAY_CONFIG, it));
    envoy
        .chain(xray)
        .filter(|(_, mount)| !has(pod, &mount.name.as_str().into()))
        .map(|(annotation, mount)| {
            format!(
                "the annotation `{annotation}` names the volume `{}`, which the pod does not have; unless another webhook adds the volume, the API server rejects the pod",
                mount.name
            )
        })
        .collect()
}
