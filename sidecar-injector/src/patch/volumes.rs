//! What Envoy's container mounts, and the volumes that are made for it.
//!
//! Must not read what is in them.

use serde_json::{Value, json};

use super::{PatchContext, PodPatchBuilder};
use crate::annotation::{RequestedProxy, VOLUME_MOUNTS, XRAY_CONFIG};

const TOKEN_VOLUME: &str = "evermesh-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/evermesh.dev";
/// The file with the token that the proxy shows to the control plane.
pub(super) const TOKEN: &str = "/var/run/secrets/evermesh.dev/token";
const TOKEN_SECONDS: u32 = 3600;
const SDS_VOLUME: &str = "appmesh-sds-socket-volume";

/// The volumes that Envoy needs, and where it mounts them.
pub(super) fn needed(task: PatchContext<'_>) -> (Vec<Value>, Vec<Value>) {
    let PatchContext {
        settings, wishes, ..
    } = task;
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    if let Some(audience) = &settings.control_plane.token_audience {
        let token = json!({
            "audience": audience,
            "expirationSeconds": TOKEN_SECONDS,
            "path": "token",
        });
        volumes.push(json!({
            "name": TOKEN_VOLUME,
            "projected": { "sources": [{ "serviceAccountToken": token }] },
        }));
        mounts.push(json!({ "name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true }));
    }
    if let Some(socket) = socket(task) {
        volumes.push(json!({
            "name": SDS_VOLUME,
            "hostPath": { "path": socket, "type": "Socket" },
        }));
        mounts.push(json!({ "name": SDS_VOLUME, "mountPath": socket }));
    }
    for mount in &wishes.secret_mounts {
        volumes.push(json!({
            "name": mount.name,
            "secret": { "secretName": mount.name },
        }));
    }
    for mount in wishes.secret_mounts.iter().chain(&wishes.volume_mounts) {
        mounts.push(json!({ "name": mount.name, "mountPath": mount.path, "readOnly": true }));
    }
    (volumes, mounts)
}

/// The socket on which the pod's proxy gets secrets.
pub(super) fn socket(task: PatchContext<'_>) -> Option<&str> {
    let socket = task.settings.sds_socket.as_deref();
    socket.filter(|_| task.wishes.sds)
}

/// Adds the volumes that the pod has none of that name for.
pub(super) fn add(draft: &mut PodPatchBuilder, volumes: Vec<Value>) {
    for volume in volumes {
        if !has(draft.pod(), &volume["name"]) {
            draft.push(&["spec", "volumes"], volume);
        }
    }
}

fn has(pod: &Value, volume: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array();
    volumes.is_some_and(|all| all.iter().any(|one| one["name"] == *volume))
}

/// What to say of volumes that annotations name and the pod has not. Another webhook may still add them: it is the
/// API server that refuses a pod without.
pub(super) fn missing(pod: &Value, wishes: &RequestedProxy) -> Vec<String> {
    let of_envoy = wishes.volume_mounts.iter().map(|it| (VOLUME_MOUNTS, it));
    let of_xray = wishes.xray_config.iter().map(|it| (XRAY_CONFIG, it));
    of_envoy
        .chain(of_xray)
        .filter(|(_, mount)| !has(pod, &mount.name.as_str().into()))
        .map(|(annotation, mount)| {
            format!(
                "the annotation `{annotation}` names the volume `{}`, which the pod does not have: unless another webhook adds it, the API server refuses the pod",
                mount.name
            )
        })
        .collect()
}
