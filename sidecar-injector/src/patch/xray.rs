//! The daemon that takes traces for X-Ray.
//!
//! Must not be there unless traces go to X-Ray.

use serde_json::{Value, json};

use super::{
    PatchContext, PodPatchBuilder, has_container, place, resources, traces_to_xray, unprivileged,
};

const NAME: &str = "xray-daemon";
/// Where the daemon's image listens unless told otherwise.
const PORT: u16 = 2000;

/// Returns whether the daemon was put in, ahead of Envoy.
pub(super) fn patch(draft: &mut PodPatchBuilder, task: PatchContext<'_>) -> bool {
    match traces_to_xray(task.settings) {
        Some((port, _)) if !has_container(draft.pod(), NAME) => {
            place(draft, task, container(task, port), 0);
            true
        }
        _ => false,
    }
}

fn container(task: PatchContext<'_>, port: u16) -> Value {
    let daemon = &task.settings.xray;
    let mut arguments = vec![format!("--log-level={}", daemon.log_level)];
    if let Some(role) = &daemon.role_arn {
        arguments.push(format!("--role-arn={role}"));
    }
    if port != PORT {
        arguments.push(format!("--bind=0.0.0.0:{port}"));
    }
    let config = task.wishes.xray_config.as_ref();
    if let Some(mount) = config {
        let folder = mount.path.trim_end_matches('/');
        arguments.push(format!("--config={folder}/xray-daemon.yaml"));
    }
    let mut made = json!({
        "name": NAME,
        "image": daemon.image,
        "args": arguments,
        "ports": [{ "name": "xray", "containerPort": port, "protocol": "UDP" }],
        "resources": resources(&task.wishes.resources),
        "securityContext": unprivileged(),
    });
    if !task.settings.region.is_empty() {
        made["env"] = json!([{ "name": "AWS_REGION", "value": task.settings.region }]);
    }
    if let Some(mount) = config {
        made["volumeMounts"] =
            json!([{ "name": mount.name, "mountPath": mount.path, "readOnly": true }]);
    }
    made
}
