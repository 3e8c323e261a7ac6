//! The container `xray-daemon`, which receives traces from Envoy and sends them to AWS X-Ray. Added only if traces go to
//! X-Ray.

use serde_json::{Value, json};

use super::{
    PatchContext, PodPatchBuilder, add_sidecar, has_container, resources, unprivileged,
    xray_tracing,
};

const NAME: &str = "xray-daemon";
/// The default port of the daemon's image.
const DEFAULT_PORT: u16 = 2000;

/// Adds the daemon and returns whether it was missing. It then precedes Envoy.
pub(super) fn patch(builder: &mut PodPatchBuilder, context: PatchContext<'_>) -> bool {
    match xray_tracing(context.settings) {
        Some((port, _)) if !has_container(builder.pod(), NAME) => {
            add_sidecar(builder, context, container(context, port), 0);
            true
        }
        _ => false,
    }
}

fn container(context: PatchContext<'_>, port: u16) -> Value {
    let daemon = &context.settings.xray;
    let mut arguments = vec![format!("--log-level={}", daemon.log_level)];
    if let Some(role) = &daemon.role_arn {
        arguments.push(format!("--role-arn={role}"));
    }
    if port != DEFAULT_PORT {
        arguments.push(format!("--bind=0.0.0.0:{port}"));
    }
    let config = context.requested.xray_config.as_ref();
    if let Some(mount) = config {
        let folder = mount.path.trim_end_matches('/');
        arguments.push(format!("--config={folder}/xray-daemon.yaml"));
    }
    let mut container = json!({
        "name": NAME,
        "image": daemon.image,
        "args": arguments,
        "ports": [{ "name": "xray", "containerPort": port, "protocol": "UDP" }],
        "resources": resources(&context.requested.resources),
        "securityContext": unprivileged(),
    });
    if !context.settings.region.is_empty() {
        container["env"] = json!([{ "name": "AWS_REGION", "value": context.settings.region }]);
    }
    if let Some(mount) = config {
        container["volumeMounts"] =
            json!([{ "name": mount.name, "mountPath": mount.path, "readOnly": true }]);
    }
    container
}
