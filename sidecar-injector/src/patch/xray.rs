//! The container `xray-daemon`, which receives traces from Envoy and sends them to AWS X-Ray. Added only if traces go to
//! X-Ray.

use serde_json::{Value, json};

use super::{
    PatchContext, PodPatchBuilder, XRAY_DAEMON, add_sidecar, container_path, resources,
    unprivileged, volumes, xray_tracing,
};
use crate::annotation::{Mount, XRAY_CONFIG};

/// The default port of the daemon's image.
const DEFAULT_PORT: u16 = 2000;

/// Adds the daemon and returns whether it was missing. It then precedes Envoy.
pub(super) fn patch(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    warnings: &mut Vec<String>,
) -> bool {
    let Some((port, _)) = xray_tracing(context.settings) else {
        return false;
    };
    let requested = context.requested.xray_config.as_slice();
    warnings.extend(volumes::missing(builder.pod(), XRAY_CONFIG, requested));
    let config = requested
        .first()
        .filter(|it| volumes::has(builder.pod(), &it.name));
    match container_path(builder.pod(), XRAY_DAEMON) {
        None => {
            add_sidecar(builder, context, container(context, port, config), 0);
            true
        }
        Some((list, index)) => {
            if let Some(mount) = config {
                let path = ["spec", list, &index.to_string()];
                configure_late(builder, context, path, mount, warnings);
            }
            false
        }
    }
}

/// Lets the daemon that Evermesh added read a file in a volume that another webhook added after it.
fn configure_late(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    container: [&str; 3],
    mount: &Mount,
    warnings: &mut Vec<String>,
) {
    let list = [&container[..], &["args"]].concat();
    let arguments = builder.pod().pointer(&format!("/{}", list.join("/")));
    let arguments = arguments.and_then(Value::as_array);
    let is_injected = arguments.is_some_and(|all| all.first() == Some(&log_level(context).into()));
    let config = Value::from(config_argument(mount));
    if is_injected && arguments.is_some_and(|all| !all.contains(&config)) {
        builder.push(&list, config);
        let mounts = vec![volumes::read_only(&mount.name, &mount.path)];
        volumes::mount_in(builder, container, mounts, warnings);
    }
}

fn log_level(context: PatchContext<'_>) -> String {
    format!("--log-level={}", context.settings.xray.log_level)
}

fn config_argument(mount: &Mount) -> String {
    let folder = mount.path.trim_end_matches('/');
    format!("--config={folder}/xray-daemon.yaml")
}

fn container(context: PatchContext<'_>, port: u16, config: Option<&Mount>) -> Value {
    let daemon = &context.settings.xray;
    let mut arguments = vec![log_level(context)];
    if let Some(role) = &daemon.role_arn {
        arguments.push(format!("--role-arn={role}"));
    }
    if port != DEFAULT_PORT {
        arguments.push(format!("--bind=0.0.0.0:{port}"));
    }
    arguments.extend(config.map(config_argument));
    let mut container = json!({
        "name": XRAY_DAEMON,
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
        container["volumeMounts"] = json!([volumes::read_only(&mount.name, &mount.path)]);
    }
    container
}
