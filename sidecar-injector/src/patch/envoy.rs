//! The container `envoy` beside an application; and Envoy's variables, arguments and readiness probe, which gateways
//! have as well.

use serde_json::{Value, json};

use super::{
    ENVOY, PatchContext, PatchError, PodPatchBuilder, add_sidecar, containers, has_container,
    resources, unprivileged, volumes,
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

/// The value of the node metadata `injection`. Increased when the metadata of injected proxies changes.
const INJECTION_VERSION: &str = "2";
/// The page for probes, which answers 200 once Envoy has its configuration.
pub(super) const READY: &str = "/ready";
/// Kubernetes' default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_PERIOD: i64 = 30;
/// Part of the grace period that is left for Envoy to end after SIGTERM, in seconds. Envoy ends within 20 ms.
const ENVOY_SHUTDOWN: i64 = 1;
/// Prefix of an address that is a field of the pod, as in `ref:status.hostIP`.
const REFERENCE: &str = "ref:";

const POD_NAME: &str = "EVERMESH_POD_NAME";
const POD_NAMESPACE: &str = "EVERMESH_POD_NAMESPACE";
const POD_UID: &str = "APPMESH_PLATFORM_K8S_POD_UID";
const ZONE: &str = "EVERMESH_ZONE";
const STATSD_ADDRESS: &str = "STATSD_ADDRESS";
const DATADOG_ADDRESS: &str = "DATADOG_TRACER_ADDRESS";
const OPENTELEMETRY_ADDRESS: &str = "EVERMESH_OPENTELEMETRY_ADDRESS";
/// The variables that the kubelet expands in Envoy's arguments.
const EXPANDED: [&str; 7] = [
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ZONE,
    STATSD_ADDRESS,
    DATADOG_ADDRESS,
    OPENTELEMETRY_ADDRESS,
];

pub(super) fn patch(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    position: usize,
    warnings: &mut Vec<String>,
) -> Result<(), PatchError> {
    if has_container(builder.pod(), ENVOY) {
        if is_injected(builder.pod()) {
            volumes::mount_late(builder, context, ENVOY, warnings);
        }
        return Ok(());
    }
    let mut mounts = volumes::add(builder, context)?;
    volumes::add_scratch(builder, &mut mounts)?;
    let mut security_context = unprivileged();
    security_context["readOnlyRootFilesystem"] = true.into();
    let envoy = &context.settings.envoy;
    let mut container = json!({
        "name": ENVOY,
        "image": envoy.image,
        "command": [ENVOY],
        "args": arguments(context, &envoy.image)?,
        "env": environment(context, warnings),
        "ports": [{ "name": "stats", "containerPort": envoy.admin_port, "protocol": "TCP" }],
        "readinessProbe": readiness(context),
        "resources": resources(&context.requested.resources),
        "securityContext": security_context,
        "volumeMounts": mounts,
    });
    let pause = termination_pause(builder.pod(), context, warnings);
    if pause > 0 {
        container["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": pause } } });
    }
    if context.settings.order == SidecarOrder::Native {
        container["startupProbe"] = startup(context);
    }
    add_sidecar(builder, context, container, position);
    Ok(())
}

/// Whether Evermesh has added Envoy's container, in an earlier call for the same pod.
fn is_injected(pod: &Value) -> bool {
    let envoy = containers(pod).filter(|it| it["name"] == ENVOY);
    let mut variables = envoy.flat_map(|it| it["env"].as_array().into_iter().flatten());
    variables.any(|variable| variable["name"] == POD_NAME)
}

/// The time for which Envoy keeps serving after the pod starts to terminate, in seconds. The API server rejects a pause
/// that is longer than the grace period of the pod.
fn termination_pause(pod: &Value, context: PatchContext<'_>, warnings: &mut Vec<String>) -> i64 {
    let spec = &pod["spec"];
    let runs_to_completion = spec["restartPolicy"]
        .as_str()
        .is_some_and(|it| it != "Always");
    // The kubelet ends a native sidecar after the application has ended; a pause would only delay the end of the pod.
    if runs_to_completion && context.settings.order == SidecarOrder::Native {
        return 0;
    }
    let wanted = i64::from(context.settings.envoy.prestop_delay);
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let grace = grace.unwrap_or(DEFAULT_GRACE_PERIOD);
    let pause = wanted.min(grace.saturating_sub(ENVOY_SHUTDOWN)).max(0);
    if pause < wanted {
        warnings.push(format!(
            "Envoy keeps serving for {pause} seconds after the pod starts to terminate, instead of {wanted}, because terminationGracePeriodSeconds is {grace}; set terminationGracePeriodSeconds to {} or more",
            wanted + ENVOY_SHUTDOWN
        ));
    }
    pause
}

/// The probe that succeeds once Envoy has its configuration.
pub(super) fn startup(context: PatchContext<'_>) -> Value {
    let envoy = &context.settings.envoy;
    let period = envoy.start_interval.max(1);
    json!({
        "httpGet": { "path": READY, "port": envoy.admin_port },
        "periodSeconds": period,
        "failureThreshold": envoy.start_timeout.div_ceil(period).max(1),
    })
}

/// The readiness probe of App Mesh's Envoy, with the page of plain Envoy.
pub(super) fn readiness(context: PatchContext<'_>) -> Value {
    let envoy = &context.settings.envoy;
    json!({
        "httpGet": { "path": READY, "port": envoy.admin_port },
        "initialDelaySeconds": envoy.readiness_initial_delay,
        "periodSeconds": envoy.readiness_period,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    })
}

/// The variables of Evermesh, followed by those that the pod requests.
pub(super) fn environment(context: PatchContext<'_>, warnings: &mut Vec<String>) -> Vec<Value> {
    let mut env = own_variables(context);
    for (name, value) in &context.requested.env {
        let existing = env.iter().position(|one| one["name"] == name.as_str());
        let variable = variable(name, value);
        match existing {
            None => env.push(variable),
            Some(index) if name == SAMPLING_RATE => env[index] = variable,
            Some(_) => warnings.push(format!(
                "the variable `{name}` of the Envoy container is set by Evermesh, and the value in the annotation is ignored"
            )),
        }
    }
    env
}

fn own_variables(context: PatchContext<'_>) -> Vec<Value> {
    let settings = context.settings;
    let envoy = &settings.envoy;
    let mut env = vec![
        variable("APPMESH_RESOURCE_ARN", &context.member.id),
        variable("APPMESH_VIRTUAL_NODE_NAME", &context.member.id),
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
    if let Some(socket) = volumes::socket(context) {
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
        Some(Tracing::OpenTelemetry(address)) => {
            env.push(address_variable(OPENTELEMETRY_ADDRESS, &address.host));
        }
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

#[allow(clippy::needless_pass_by_value)] // callers pass numbers, texts and references
fn variable(name: &str, value: impl ToString) -> Value {
    let value = value.to_string();
    // The API server leaves out an empty value. A second patch has to find the variable as it is.
    if value.is_empty() {
        json!({ "name": name })
    } else {
        json!({ "name": name, "value": value })
    }
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

/// Envoy's arguments. Plain Envoy reads no variables, so the kubelet expands them in the arguments.
pub(super) fn arguments(context: PatchContext<'_>, image: &str) -> Result<Vec<String>, JsonError> {
    let envoy = &context.settings.envoy;
    let config = render_line(&bootstrap(&options(context, image)))?;
    let concurrency = context.requested.concurrency.unwrap_or(envoy.concurrency);
    Ok(vec![
        "--config-yaml".to_owned(),
        expandable(&config),
        "--log-level".to_owned(),
        envoy.log_level.clone(),
        "--concurrency".to_owned(),
        concurrency.to_string(),
        // Hot restart uses sockets in the network namespace, which pods with hostNetwork share.
        "--disable-hot-restart".to_owned(),
    ])
}

/// Escapes a text for the kubelet, which expands `$(NAME)` in arguments. Only [`EXPANDED`] stay unescaped.
fn expandable(text: &str) -> String {
    EXPANDED.iter().fold(text.replace('$', "$$"), |text, name| {
        text.replace(&format!("$$({name})"), &format!("$({name})"))
    })
}

fn options(context: PatchContext<'_>, image: &str) -> BootstrapOptions {
    let settings = context.settings;
    let envoy = &settings.envoy;
    let control_plane = &settings.control_plane;
    let expanded = |name: &str| format!("$({name})");
    let by_reference = |address: &HostPort, name: &str| HostPort {
        host: if address.host.starts_with(REFERENCE) {
            expanded(name)
        } else {
            address.host.clone()
        },
        port: address.port,
    };
    let rate = context.requested.sampling_rate;
    BootstrapOptions {
        id: Some(context.member.id.clone()),
        metadata: [
            ("pod", expanded(POD_NAME)),
            ("namespace", expanded(POD_NAMESPACE)),
            ("uid", expanded(POD_UID)),
            ("image", image.to_owned()),
            ("injection", INJECTION_VERSION.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        zone: Some(expanded(ZONE)),
        tls: control_plane.authority.clone().map(|pem| ControlPlaneTls {
            authority: Authority::Inline(pem),
            identity: None,
        }),
        token: control_plane
            .token_audience
            .as_ref()
            .map(|_| volumes::TOKEN.to_owned()),
        admin: AdminAddress::LoopbackWithPages(HostPort {
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
            Tracing::OpenTelemetry(address) => {
                Tracing::OpenTelemetry(by_reference(address, OPENTELEMETRY_ADDRESS))
            }
            Tracing::XRay {
                port,
                sampling_rate,
            } => Tracing::XRay {
                port: *port,
                sampling_rate: rate.unwrap_or(*sampling_rate),
            },
        }),
        sds_socket: volumes::socket(context).map(str::to_owned),
        ..BootstrapOptions::new(context.member.name.clone(), control_plane.xds.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_of_evermesh_are_expanded() {
        assert_eq!(
            expandable("$(EVERMESH_POD_NAME) $(HOME) $x $$(y)"),
            "$(EVERMESH_POD_NAME) $$(HOME) $$x $$$$(y)"
        );
    }
}
