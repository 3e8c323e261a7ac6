//! Pods of a gateway: configures the container `envoy` that they already have. No container is added except the
//! X-Ray daemon, and nothing is intercepted.

use serde_json::{Value, json};

use super::{ENVOY, PatchContext, PatchError, PodPatchBuilder, envoy, volumes, xray};

/// The admin page that the probes of App Mesh's manifests read, with a program that the image of plain Envoy lacks. Other
/// hosts than the pod's own cannot read it.
const SERVER_INFO: &str = "server_info";

pub(super) fn patch(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), PatchError> {
    let containers = builder.pod()["spec"]["containers"].as_array();
    let found = containers
        .into_iter()
        .flatten()
        .position(|container| container["name"] == ENVOY);
    let Some(index) = found else {
        warnings.push(format!(
            "{} selects this pod, but the pod has no container named `{ENVOY}` and is not changed",
            context.member.object
        ));
        return Ok(());
    };
    let position = index.to_string();
    let container = ["spec", "containers", position.as_str()];
    let field =
        |rest: &[&'static str]| -> Vec<&str> { container.iter().chain(rest).copied().collect() };
    let current =
        |builder: &PodPatchBuilder, name: &'static str| at(builder.pod(), &field(&[name]));
    if !context.requested.keeps_image {
        builder.set(
            &field(&["image"]),
            context.settings.envoy.image.clone().into(),
        );
    }
    let has_own_command =
        !current(builder, "command").is_null() || !current(builder, "args").is_null();
    if !(context.requested.keeps_image && has_own_command) {
        builder.set(&field(&["command"]), json!([ENVOY]));
        let image = current(builder, "image");
        let image = image.as_str().unwrap_or_default();
        builder.set(&field(&["args"]), envoy::arguments(context, image)?.into());
    }
    for variable in envoy::environment(context, warnings) {
        set_variable(builder, &field(&["env"]), variable);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        rewrite_probe(builder, context, &field(&[]), probe);
    }
    // The admin port accepts connections once Envoy has its configuration; liveness counts from then on.
    let is_probed = reads_admin_port(&at(builder.pod(), &container), "livenessProbe", context);
    if is_probed && current(builder, "startupProbe").is_null() {
        builder.set(&field(&["startupProbe"]), envoy::startup(context));
    }
    if current(builder, "readinessProbe").is_null() {
        builder.set(&field(&["readinessProbe"]), envoy::readiness(context));
    }
    let mounts = volumes::add(builder, context)?;
    volumes::mount_in(builder, container, mounts, warnings);
    xray::patch(builder, context, warnings);
    Ok(())
}

/// Sets a variable, or adds it if the container does not have it.
fn set_variable(builder: &mut PodPatchBuilder, list: &[&str], variable: Value) {
    let pointer = format!("/{}", list.join("/"));
    let variables = builder.pod().pointer(&pointer).and_then(Value::as_array);
    let found = variables
        .into_iter()
        .flatten()
        .position(|one| one["name"] == variable["name"]);
    match found {
        Some(index) => builder.set(&[list, &[index.to_string().as_str()]].concat(), variable),
        None => builder.push(list, variable),
    }
}

/// Lets a probe read [`envoy::READY`] if it reads another admin page, with or without a program.
fn rewrite_probe(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    container: &[&str],
    probe: &str,
) {
    let [exec, page] = ["exec", "httpGet"].map(|it| [container, &[probe, it]].concat());
    let current = at(builder.pod(), container);
    if current[probe]["exec"]["command"]
        .to_string()
        .contains(SERVER_INFO)
    {
        builder.remove(&exec);
        let port = context.settings.envoy.admin_port;
        builder.set(&page, json!({ "path": envoy::READY, "port": port }));
        return;
    }
    let path = &current[probe]["httpGet"]["path"];
    if reads_admin_port(&current, probe, context) && !path.is_null() && path != envoy::READY {
        builder.set(&[&page[..], &["path"]].concat(), envoy::READY.into());
    }
}

/// Whether a probe uses the port of the admin pages, by its number or its name.
fn reads_admin_port(container: &Value, probe: &str, context: PatchContext<'_>) -> bool {
    let admin = u64::from(context.settings.envoy.admin_port);
    let probe = &container[probe];
    let port = [&probe["httpGet"]["port"], &probe["tcpSocket"]["port"]];
    port.into_iter().any(|port| match port {
        Value::String(name) => {
            let ports = container["ports"].as_array();
            let named = ports.into_iter().flatten().find(|it| it["name"] == **name);
            named.is_some_and(|it| it["containerPort"] == admin)
        }
        port => *port == admin,
    })
}

fn at(pod: &Value, path: &[&str]) -> Value {
    let found = pod.pointer(&format!("/{}", path.join("/")));
    found.cloned().unwrap_or_default()
}
