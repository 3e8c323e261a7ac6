//! The pods of a virtual gateway: their own container `envoy` is told what to do, everything else stays.
//!
//! Must not add an Envoy, and must not intercept.

use evermesh_proto::json::JsonError;
use serde_json::{Value, json};

use super::{ENVOY, PatchContext, PodPatchBuilder, envoy, volumes, xray};

/// The page that the old image's probes asked by a program that plain Envoy's image has not.
const SERVER_INFO: &str = "server_info";

pub(super) fn patch(
    draft: &mut PodPatchBuilder,
    task: PatchContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), JsonError> {
    let containers = draft.pod()["spec"]["containers"].as_array();
    let found = containers
        .into_iter()
        .flatten()
        .position(|container| container["name"] == ENVOY);
    let Some(index) = found else {
        warnings.push(format!(
            "{} selects this pod, which has no container named `{ENVOY}`: it stays as it is",
            task.member.object
        ));
        return Ok(());
    };
    let position = index.to_string();
    let container = ["spec", "containers", position.as_str()];
    let place =
        |rest: &[&'static str]| -> Vec<&str> { container.iter().chain(rest).copied().collect() };
    let at = |draft: &PodPatchBuilder, field: &str| {
        draft.pod()["spec"]["containers"][index][field].clone()
    };
    if !task.wishes.keeps_image {
        draft.set(&place(&["image"]), task.settings.envoy.image.clone().into());
    }
    let is_own_program = !at(draft, "command").is_null() || !at(draft, "args").is_null();
    if !(task.wishes.keeps_image && is_own_program) {
        draft.set(&place(&["command"]), json!([ENVOY]));
        let image = at(draft, "image");
        let image = image.as_str().unwrap_or_default();
        draft.set(&place(&["args"]), envoy::arguments(task, image)?.into());
    }
    for variable in envoy::environment(task, warnings) {
        merge(draft, &place(&["env"]), variable);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        rewrite(draft, task, &place(&[]), probe);
    }
    if at(draft, "readinessProbe").is_null() {
        draft.set(&place(&["readinessProbe"]), envoy::readiness(task));
    }
    let (made, mounts) = volumes::needed(task);
    for mount in mounts {
        let same = |one: &Value| one["mountPath"] == mount["mountPath"];
        let has = at(draft, "volumeMounts");
        if !has.as_array().is_some_and(|all| all.iter().any(same)) {
            draft.push(&place(&["volumeMounts"]), mount);
        }
    }
    volumes::add(draft, made);
    xray::patch(draft, task);
    Ok(())
}

/// Makes a variable have this value.
fn merge(draft: &mut PodPatchBuilder, list: &[&str], variable: Value) {
    let at = format!("/{}", list.join("/"));
    let variables = draft.pod().pointer(&at).and_then(Value::as_array);
    let found = variables
        .into_iter()
        .flatten()
        .position(|one| one["name"] == variable["name"]);
    match found {
        Some(index) => draft.set(&[list, &[index.to_string().as_str()]].concat(), variable),
        None => draft.push(list, variable),
    }
}

/// A probe that runs a program to ask Envoy becomes one that asks Envoy: whether it lives, or is ready.
fn rewrite(draft: &mut PodPatchBuilder, task: PatchContext<'_>, container: &[&str], probe: &str) {
    let place = [container, &[probe, "exec"]].concat();
    let command = draft.pod().pointer(&format!("/{}", place.join("/")));
    let asks = command.is_some_and(|exec| exec["command"].to_string().contains(SERVER_INFO));
    if !asks {
        return;
    }
    let page = match probe {
        "livenessProbe" => "/server_info",
        _ => "/ready",
    };
    draft.remove(&place);
    draft.set(
        &[container, &[probe, "httpGet"]].concat(),
        json!({ "path": page, "port": task.settings.envoy.admin_port }),
    );
}
