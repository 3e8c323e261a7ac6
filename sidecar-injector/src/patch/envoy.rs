//! Envoy's container beside an application, and what Envoy is told in any pod: variables, arguments, probes.
//!
//! Must not know a listener or cluster of the mesh.

use serde_json::{Value, json};

use super::{
    ENVOY, PatchContext, PodPatchBuilder, has_container, place, resources, unprivileged, volumes,
};
use crate::{
    annotation::SAMPLING_RATE,
    bootstrap::{
        AdminAddress, Authority, BootstrapOptions, ControlPlaneTls, HostPort, StatsD, Tracing,
        bootstrap, render_line,
    },
    settings::SidecarOrder,
};
use evermesh_proto::json::JsonError;

/// Says how the patch was made, for whoever looks at a proxy: counted up when what proxies report changes.
const GENERATION: &str = "2";
/// How long a pod may take to end that does not say so, in seconds: Kubernetes' default.
const GRACE_PERIOD: i64 = 30;
/// What of that is left to Envoy, in seconds: it ends at once when it is told to.
const ENDING: i64 = 1;
/// Such a value is a field of the pod, read when the container starts: `ref:status.hostIP`.
const REFERENCE: &str = "ref:";

const POD_NAME: &str = "EVERMESH_POD_NAME";
const POD_NAMESPACE: &str = "EVERMESH_POD_NAMESPACE";
const POD_UID: &str = "APPMESH_PLATFORM_K8S_POD_UID";
const ZONE: &str = "EVERMESH_ZONE";
const STATSD_ADDRESS: &str = "STATSD_ADDRESS";
const DATADOG_ADDRESS: &str = "DATADOG_TRACER_ADDRESS";
const EXPANDED: [&str; 6] = [
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ZONE,
    STATSD_ADDRESS,
    DATADOG_ADDRESS,
];

pub(super) fn patch(
    draft: &mut PodPatchBuilder,
    task: PatchContext<'_>,
    position: usize,
    warnings: &mut Vec<String>,
) -> Result<(), JsonError> {
    if has_container(draft.pod(), ENVOY) {
        return Ok(());
    }
    let (made, mounts) = volumes::needed(task);
    let envoy = &task.settings.envoy;
    let mut container = json!({
        "name": ENVOY,
        "image": envoy.image,
        "command": [ENVOY],
        "args": arguments(task, &envoy.image)?,
        "env": environment(task, warnings),
        "ports": [{ "name": "stats", "containerPort": envoy.admin_port, "protocol": "TCP" }],
        "readinessProbe": readiness(task),
        "resources": resources(&task.wishes.resources),
        "securityContext": unprivileged(),
    });
    let pause = pause(draft.pod(), task, warnings);
    if pause > 0 {
        container["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": pause } } });
    }
    if task.settings.order == SidecarOrder::Native {
        let period = envoy.start_interval.max(1);
        container["startupProbe"] = json!({
            "httpGet": { "path": "/ready", "port": envoy.admin_port },
            "periodSeconds": period,
            "failureThreshold": envoy.start_timeout.div_ceil(period).max(1),
        });
    }
    if !mounts.is_empty() {
        container["volumeMounts"] = mounts.into();
    }
    volumes::add(draft, made);
    place(draft, task, container, position);
    Ok(())
}

/// How long Envoy goes on serving once the pod is to end, in seconds. The API server takes no pod with a pause that
/// is longer than the pod may take to end.
fn pause(pod: &Value, task: PatchContext<'_>, warnings: &mut Vec<String>) -> i64 {
    let spec = &pod["spec"];
    let ends_by_itself = spec["restartPolicy"]
        .as_str()
        .is_some_and(|it| it != "Always");
    // The kubelet ends a native sidecar after the application, and its pause would begin then.
    if ends_by_itself && task.settings.order == SidecarOrder::Native {
        return 0;
    }
    let wanted = i64::from(task.settings.envoy.prestop_delay);
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let grace = grace.unwrap_or(GRACE_PERIOD);
    let pause = wanted.min(grace.saturating_sub(ENDING)).max(0);
    if pause < wanted {
        warnings.push(format!(
            "once the pod is to end, its Envoy serves for another {pause} seconds instead of {wanted}: terminationGracePeriodSeconds is {grace}, of which Envoy takes the last to end; {} would be long enough",
            wanted + ENDING
        ));
    }
    pause
}

/// The old probe's numbers on plain Envoy's page.
pub(super) fn readiness(task: PatchContext<'_>) -> Value {
    let envoy = &task.settings.envoy;
    json!({
        "httpGet": { "path": "/ready", "port": envoy.admin_port },
        "initialDelaySeconds": envoy.readiness_initial_delay,
        "periodSeconds": envoy.readiness_period,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    })
}

/// The variables: those of the controller, and then what the pod asks for besides.
pub(super) fn environment(task: PatchContext<'_>, warnings: &mut Vec<String>) -> Vec<Value> {
    let mut env = managed(task);
    for (name, value) in &task.wishes.env {
        let taken = env.iter().position(|one| one["name"] == name.as_str());
        let variable = json!({ "name": name, "value": value });
        match taken {
            None => env.push(variable),
            Some(index) if name == SAMPLING_RATE => env[index] = variable,
            Some(_) => warnings.push(format!(
                "the variable `{name}` of the Envoy container is the control plane's and keeps its value"
            )),
        }
    }
    env
}

fn managed(task: PatchContext<'_>) -> Vec<Value> {
    let settings = task.settings;
    let envoy = &settings.envoy;
    let mut env = vec![
        variable("APPMESH_RESOURCE_ARN", &task.member.id),
        variable("APPMESH_VIRTUAL_NODE_NAME", &task.member.id),
        variable("ENVOY_LOG_LEVEL", &envoy.log_level),
        variable("ENVOY_ADMIN_ACCESS_PORT", envoy.admin_port),
        variable("ENVOY_ADMIN_ACCESS_LOG_FILE", &envoy.admin_access_log),
        variable("ENVOY_ADMIN_ACCESS_ENABLE_IPV6", envoy.admin_ipv6),
        reference(POD_UID, "metadata.uid"),
        reference(POD_NAME, "metadata.name"),
        reference(POD_NAMESPACE, "metadata.namespace"),
        reference(ZONE, "metadata.labels['topology.kubernetes.io/zone']"),
    ];
    if !settings.region.is_empty() {
        env.push(variable("AWS_REGION", &settings.region));
    }
    if let Some(socket) = volumes::socket(task) {
        env.push(variable("APPMESH_SDS_SOCKET_PATH", socket));
    }
    if settings.stats_tags {
        env.push(variable("ENABLE_ENVOY_STATS_TAGS", 1));
    }
    match &settings.tracing {
        None => {}
        Some(Tracing::XRay {
            port,
            sampling_rate,
        }) => env.extend([
            variable("ENABLE_ENVOY_XRAY_TRACING", 1),
            variable("XRAY_DAEMON_PORT", port),
            variable(SAMPLING_RATE, sampling_rate),
        ]),
        Some(Tracing::Jaeger(address)) => env.extend([
            variable("ENABLE_ENVOY_JAEGER_TRACING", 1),
            variable("JAEGER_TRACER_PORT", address.port),
            variable("JAEGER_TRACER_ADDRESS", &address.host),
        ]),
        Some(Tracing::Datadog(address)) => env.extend([
            variable("ENABLE_ENVOY_DATADOG_TRACING", 1),
            variable("DATADOG_TRACER_PORT", address.port),
            address_variable(DATADOG_ADDRESS, &address.host),
        ]),
    }
    match &settings.statsd {
        None => {}
        Some(StatsD::Udp(address)) => env.extend([
            variable("ENABLE_ENVOY_DOG_STATSD", 1),
            variable("STATSD_PORT", address.port),
            address_variable(STATSD_ADDRESS, &address.host),
        ]),
        Some(StatsD::Socket(path)) => env.extend([
            variable("ENABLE_ENVOY_DOG_STATSD", 1),
            variable("STATSD_SOCKET_PATH", path),
        ]),
    }
    env
}

#[allow(clippy::needless_pass_by_value)] // numbers, texts and references
fn variable(name: &str, value: impl ToString) -> Value {
    json!({ "name": name, "value": value.to_string() })
}

fn reference(name: &str, field: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } } })
}

fn address_variable(name: &str, host: &str) -> Value {
    match host.strip_prefix(REFERENCE) {
        Some(field) => reference(name, field),
        None => variable(name, host),
    }
}

/// The arguments of an Envoy of this image. It reads no variables, so the kubelet puts their values in.
pub(super) fn arguments(task: PatchContext<'_>, image: &str) -> Result<Vec<String>, JsonError> {
    let envoy = &task.settings.envoy;
    let config = render_line(&bootstrap(&options(task, image)))?;
    let concurrency = task.wishes.concurrency.unwrap_or(envoy.concurrency);
    Ok(vec![
        "--config-yaml".to_owned(),
        expandable(&config),
        "--log-level".to_owned(),
        envoy.log_level.clone(),
        "--concurrency".to_owned(),
        concurrency.to_string(),
        // Its locks are the host's where a pod uses the host's network.
        "--disable-hot-restart".to_owned(),
    ])
}

/// The text as the kubelet must read it to pass it on: what looks like a variable is none, but for ours.
fn expandable(text: &str) -> String {
    EXPANDED.iter().fold(text.replace('$', "$$"), |text, name| {
        text.replace(&format!("$$({name})"), &format!("$({name})"))
    })
}

fn options(task: PatchContext<'_>, image: &str) -> BootstrapOptions {
    let settings = task.settings;
    let envoy = &settings.envoy;
    let control_plane = &settings.control_plane;
    let field = |name: &str| format!("$({name})");
    let by_reference = |address: &HostPort, name: &str| HostPort {
        host: if address.host.starts_with(REFERENCE) {
            field(name)
        } else {
            address.host.clone()
        },
        port: address.port,
    };
    let rate = task.wishes.sampling_rate;
    BootstrapOptions {
        id: Some(task.member.id.clone()),
        metadata: [
            ("pod", field(POD_NAME)),
            ("namespace", field(POD_NAMESPACE)),
            ("uid", field(POD_UID)),
            ("image", image.to_owned()),
            ("injection", GENERATION.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        zone: Some(field(ZONE)),
        tls: control_plane.authority.clone().map(|pem| ControlPlaneTls {
            authority: Authority::Inline(pem),
            identity: None,
        }),
        token: control_plane
            .token_audience
            .as_ref()
            .map(|_| volumes::TOKEN.to_owned()),
        admin: AdminAddress::Tcp(HostPort {
            host: if envoy.admin_ipv6 { "::" } else { "0.0.0.0" }.to_owned(),
            port: envoy.admin_port,
        }),
        admin_access_log: Some(envoy.admin_access_log.clone()).filter(|path| !path.is_empty()),
        stats_tags: settings.stats_tags,
        statsd: settings.statsd.as_ref().map(|statsd| match statsd {
            StatsD::Udp(address) => StatsD::Udp(by_reference(address, STATSD_ADDRESS)),
            StatsD::Socket(path) => StatsD::Socket(path.clone()),
        }),
        tracing: settings.tracing.as_ref().map(|tracing| match tracing {
            Tracing::Jaeger(address) => Tracing::Jaeger(address.clone()),
            Tracing::Datadog(address) => Tracing::Datadog(by_reference(address, DATADOG_ADDRESS)),
            Tracing::XRay {
                port,
                sampling_rate,
            } => Tracing::XRay {
                port: *port,
                sampling_rate: rate.unwrap_or(*sampling_rate),
            },
        }),
        sds_socket: volumes::socket(task).map(str::to_owned),
        ..BootstrapOptions::new(task.member.name.clone(), control_plane.xds.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_variables_are_expanded() {
        assert_eq!(
            expandable("$(EVERMESH_POD_NAME) $(HOME) $x $$(y)"),
            "$(EVERMESH_POD_NAME) $$(HOME) $$x $$$$(y)"
        );
    }
}
