//! Pods of a gateway: configures the container `envoy` that they already have. No container is added except the
//! X-Ray daemon, and nothing is intercepted.

use evermesh_proto::json::JsonError;
use serde_json::{Value, json};

use super::{ENVOY, PatchContext, PodPatchBuilder, envoy, volumes, xray};

/// The admin page that the probes of App Mesh's manifests read, with a program that the image of plain Envoy lacks.
const SERVER_INFO: &str = "server_info";

pub(super) fn patch(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), JsonError> {
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
    let current = |builder: &PodPatchBuilder, field: &str| {
        builder.pod()["spec"]["containers"][index][field].clone()
    };
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
    if current(builder, "readinessProbe").is_null() {
        builder.set(&field(&["readinessProbe"]), envoy::readiness(context));
    }
    let (volumes, mounts) = volumes::needed(context);
    for mount in mounts {
        let same_path = |one: &Value| one["mountPath"] == mount["mountPath"];
        let existing = current(builder, "volumeMounts");
        if !existing
            .as_array()
            .is_some_and(|all| all.iter().any(same_path))
        {
            builder.push(&field(&["volumeMounts"]), mount);
        }
    }
    volumes::add(builder, volumes);
    xray::patch(builder, context);
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

/// Replaces a probe that runs a program to read Envoy's admin page by a probe of the page itself.
fn rewrite_probe(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    container: &[&str],
    probe: &str,
) {
    let exec = [container, &[probe, "exec"]].concat();
    let command = builder.pod().pointer(&format!("/{}", exec.join("/")));
    let reads_admin_page =
        command.is_some_and(|exec| exec["command"].to_string().contains(SERVER_INFO));
    if !reads_admin_page {
        return;
    }
    let page = match probe {
        "livenessProbe" => "/server_info",
        _ => "/ready",
    };
    builder.remove(&exec);
    builder.set(
        &[container, &[probe, "httpGet"]].concat(),
        json!({ "path": page, "port": context.settings.envoy.admin_port }),
    );
}
