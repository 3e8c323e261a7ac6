//! Pods that cannot get what Evermesh adds: their Kubernetes nodes cannot run it, or their fields contradict it.
//!
//! Without these checks the API server would refuse the patched pod with the names of fields that its author never wrote,
//! or the pod would never become ready.

use evermesh_model::ProxyKind;
use serde_json::Value;

use super::{
    ENVOY, PROXY_INIT, PROXY_USER, PatchContext, XRAY_DAEMON, containers, has_container,
    interception::{EGRESS_PORT, INGRESS_PORT},
    xray_tracing,
};
use crate::{annotation::INJECTION, decide::RejectedPod};

/// Repository of the default image of Envoy, with the host of the registry or without.
const DEFAULT_REPOSITORIES: [&str; 2] = ["envoyproxy/envoy", "docker.io/envoyproxy/envoy"];
/// The architectures of that image.
const ARCHITECTURES: &[&str] = &["amd64", "arm64"];
const OPERATING_SYSTEMS: &[&str] = &["linux"];
/// Labels of Kubernetes nodes, current and former.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
const ARCHITECTURE_LABELS: [&str; 2] = ["kubernetes.io/arch", "beta.kubernetes.io/arch"];
/// Prefix of annotations that set the seccomp profile of the container whose name follows.
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Values of these annotations for the profile that Evermesh sets.
const DEFAULT_SECCOMP: [&str; 2] = ["runtime/default", "docker/default"];
/// Bytes that Kubernetes allows for all annotations of an object.
const ANNOTATION_BYTES: usize = 256 << 10;

/// Checks a pod before anything is added to it. Adds warnings about what works only if it is not used.
pub(super) fn check(
    pod: &Value,
    context: PatchContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), RejectedPod> {
    let found = platform(pod, context)
        .or_else(|| interception_without_proxy(pod, context))
        .or_else(|| container_of_another_kind(pod, context))
        .or_else(|| proxy_of_another_user(pod, context))
        .or_else(|| seccomp_profile(pod, context));
    if let Some(message) = found {
        return Err(RejectedPod::because_of_pod(message));
    }
    warnings.extend(users_of_the_proxy(pod, context));
    occupied_ports(pod, context, warnings)
}

/// Checks the annotations of a patched pod, to which those for the CNI plugin belong.
pub(super) fn check_annotations(pod: &Value) -> Result<(), RejectedPod> {
    let annotations = pod["metadata"]["annotations"].as_object();
    let sizes = annotations
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    let size: usize = sizes.sum();
    if size <= ANNOTATION_BYTES {
        return Ok(());
    }
    Err(RejectedPod::because_of_pod(format!(
        "the annotations of the pod take {size} bytes with those for the CNI plugin (`appmesh.k8s.aws/appmeshCNI`), and Kubernetes allows {ANNOTATION_BYTES}; shorten the annotations of the pod template"
    )))
}

/// The message for a pod that only runs where there is no image of Envoy.
fn platform(pod: &Value, context: PatchContext<'_>) -> Option<String> {
    let spec = &pod["spec"];
    let remedy = format!(
        "let the pod run on other Kubernetes nodes, or annotate it with `{INJECTION}: disabled`"
    );
    let object = &context.member.object;
    let reason = if spec["os"]["name"] == "windows" {
        Some("spec.os.name of the pod is `windows`")
    } else if has_host_process(pod) {
        Some("securityContext.windowsOptions.hostProcess of the pod is true")
    } else if !runs_on(spec, &OS_LABELS, OPERATING_SYSTEMS) {
        Some("spec.nodeSelector or spec.affinity of the pod demands another system than `linux`")
    } else {
        None
    };
    if let Some(reason) = reason {
        return Some(format!(
            "{object} selects this pod, and {reason}: Envoy and the interception need Linux; {remedy}"
        ));
    }
    let image = &context.settings.envoy.image;
    let is_default = DEFAULT_REPOSITORIES.iter().any(|repository| {
        let tag = image.strip_prefix(repository);
        tag.is_some_and(|tag| tag.starts_with([':', '@']))
    });
    if is_default && !runs_on(spec, &ARCHITECTURE_LABELS, ARCHITECTURES) {
        return Some(format!(
            "{object} selects this pod, and spec.nodeSelector or spec.affinity of the pod demands an architecture for which `{image}` has no image, other than {}; {remedy}",
            ARCHITECTURES.join(" and ")
        ));
    }
    None
}

/// Whether a container is a process of its Windows host.
fn has_host_process(pod: &Value) -> bool {
    let contexts = containers(pod).map(|it| &it["securityContext"]);
    let mut contexts = contexts.chain([&pod["spec"]["securityContext"]]);
    contexts.any(|context| context["windowsOptions"]["hostProcess"] == true)
}

/// Whether the scheduler may choose a Kubernetes node with one of these values of a label.
fn runs_on(spec: &Value, labels: &[&str], values: &[&str]) -> bool {
    let affinity = &spec["affinity"]["nodeAffinity"];
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array();
    values.iter().any(|value| {
        let is_selected = labels.iter().all(|label| {
            let selected = spec["nodeSelector"][label].as_str();
            selected.is_none_or(|it| it == *value)
        });
        let permits = |term: &Value| {
            let expressions = term["matchExpressions"].as_array();
            let mut expressions = expressions.into_iter().flatten();
            expressions.all(|expression| permits_value(expression, labels, value))
        };
        is_selected && terms.is_none_or(|terms| terms.iter().any(permits))
    })
}

/// Whether an expression about Kubernetes nodes permits a value of one of these labels.
fn permits_value(expression: &Value, labels: &[&str], value: &str) -> bool {
    let key = expression["key"].as_str().unwrap_or_default();
    let listed = expression["values"].as_array();
    let is_listed = listed.is_some_and(|values| values.iter().any(|it| it == value));
    match expression["operator"].as_str() {
        Some("In") if labels.contains(&key) => is_listed,
        Some("NotIn") if labels.contains(&key) => !is_listed,
        _ => true,
    }
}

/// Whether an init container sets up interception.
fn has_proxy_init(context: PatchContext<'_>) -> bool {
    context.member.is_intercepted && !context.requested.cni
}

/// The message for a pod with a container that has a name of Evermesh and cannot do the work of that container.
fn container_of_another_kind(pod: &Value, context: PatchContext<'_>) -> Option<String> {
    if context.member.name.kind == ProxyKind::VirtualGateway {
        return None;
    }
    let xray = xray_tracing(context.settings).is_some();
    let ends = |it: &Value| it["restartPolicy"] != "Always";
    let list = |name: &str| pod["spec"][name].as_array().into_iter().flatten();
    let ended = list("initContainers").filter(|it| ends(it));
    let mut ended = ended.filter_map(|it| it["name"].as_str());
    if let Some(name) = ended.find(|name| *name == ENVOY || xray && *name == XRAY_DAEMON) {
        return Some(format!(
            "the init container `{name}` of the pod has the name of a sidecar and ends before the application starts; give it another name, or set its restartPolicy to `Always` if it is the sidecar"
        ));
    }
    let running = list("initContainers").filter(|it| !ends(it));
    let running = running.chain(list("containers"));
    let is_proxy_init = |it: &Value| it["name"] == PROXY_INIT;
    (has_proxy_init(context) && running.into_iter().any(is_proxy_init)).then(|| {
        format!(
            "the container `{PROXY_INIT}` of the pod has the name of the init container that sets up interception, and runs beside the application; give it another name, or move it to initContainers without a restartPolicy if it sets up interception"
        )
    })
}

/// The message for a pod with an init container that redirects its traffic, although Envoy does not listen where it
/// arrives.
fn interception_without_proxy(pod: &Value, context: PatchContext<'_>) -> Option<String> {
    (!context.member.is_intercepted && has_container(pod, PROXY_INIT)).then(|| {
        format!(
            "the pod has the container `{PROXY_INIT}`, which redirects the traffic of the pod to the ports {INGRESS_PORT} and {EGRESS_PORT}, where no Envoy of {} listens; remove the container",
            context.member.object
        )
    })
}

/// The user of a container; absent if the image decides.
fn user(pod: &Value, container: &Value) -> Option<i64> {
    let own = container["securityContext"]["runAsUser"].as_i64();
    own.or_else(|| pod["spec"]["securityContext"]["runAsUser"].as_i64())
}

/// The message for an intercepted pod with an Envoy of its own whose connections would be redirected to itself.
fn proxy_of_another_user(pod: &Value, context: PatchContext<'_>) -> Option<String> {
    let mut envoys = containers(pod).filter(|it| it["name"] == ENVOY);
    let user = envoys.find_map(|it| user(pod, it));
    let user =
        user.filter(|user| context.member.is_intercepted && *user != i64::from(PROXY_USER))?;
    Some(format!(
        "the container `{ENVOY}` of the pod runs as user {user}, so its connections would be redirected to itself; set its securityContext.runAsUser to {PROXY_USER}, or remove the container, and Evermesh adds one"
    ))
}

/// Warnings about containers whose user decides wrongly about their interception.
fn users_of_the_proxy(pod: &Value, context: PatchContext<'_>) -> Vec<String> {
    if !context.member.is_intercepted {
        return Vec::new();
    }
    let warning = |container: &Value| {
        let name = container["name"].as_str().unwrap_or_default();
        match user(pod, container) {
            None if name == ENVOY => Some(format!(
                "the container `{ENVOY}` of the pod stays as it is, and its image decides about its user; unless that is {PROXY_USER}, its connections are redirected to itself; set its securityContext.runAsUser to {PROXY_USER}"
            )),
            Some(user)
                if user == i64::from(PROXY_USER) && ![ENVOY, XRAY_DAEMON].contains(&name) =>
            {
                Some(format!(
                    "the container `{name}` of the pod runs as user {PROXY_USER} like Envoy, so its connections are not intercepted; give it another user"
                ))
            }
            _ => None,
        }
    };
    containers(pod).filter_map(warning).collect()
}

/// The message for a pod whose annotations set another seccomp profile for a container that Evermesh adds.
fn seccomp_profile(pod: &Value, context: PatchContext<'_>) -> Option<String> {
    let is_node = context.member.name.kind != ProxyKind::VirtualGateway;
    let added = [
        (ENVOY, is_node),
        (PROXY_INIT, has_proxy_init(context)),
        (XRAY_DAEMON, xray_tracing(context.settings).is_some()),
    ];
    let mut added = added
        .into_iter()
        .filter(|(name, is_needed)| *is_needed && !has_container(pod, name));
    added.find_map(|(name, _)| {
        let key = format!("{SECCOMP}{name}");
        let profile = pod["metadata"]["annotations"][&key].as_str()?;
        (!DEFAULT_SECCOMP.contains(&profile)).then(|| {
            format!(
                "the annotation `{key}` is `{profile}`, but Evermesh adds this container with the profile `runtime/default`; remove the annotation"
            )
        })
    })
}

/// Checks that no other container of the pod declares a port on which a sidecar listens. A declared port need not be used,
/// except in the network of the host, where Kubernetes reserves it.
fn occupied_ports(
    pod: &Value,
    context: PatchContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<(), RejectedPod> {
    let xray = xray_tracing(context.settings).map(|(port, _)| (port, "UDP", XRAY_DAEMON));
    let admin = (context.settings.envoy.admin_port, "TCP", ENVOY);
    let intercepted = [INGRESS_PORT, EGRESS_PORT].map(|port| (port, "TCP", ENVOY));
    let intercepted = intercepted
        .into_iter()
        .filter(|_| context.member.is_intercepted);
    for (port, protocol, sidecar) in [admin].into_iter().chain(intercepted).chain(xray) {
        let declares = |container: &&Value| {
            let ports = container["ports"].as_array();
            let mut ports = ports.into_iter().flatten();
            ports.any(|it| {
                let used = it["protocol"].as_str().unwrap_or("TCP");
                it["containerPort"] == port && used == protocol
            })
        };
        let mut others = containers(pod).filter(|it| it["name"] != sidecar);
        let Some(other) = others.find(declares) else {
            continue;
        };
        let message = format!(
            "the container `{}` of the pod declares the port {port}/{protocol}, on which the container `{sidecar}` listens",
            other["name"].as_str().unwrap_or_default()
        );
        if pod["spec"]["hostNetwork"] == true {
            return Err(RejectedPod::because_of_pod(format!(
                "{message}, and both share the network of the host; use another port"
            )));
        }
        warnings.push(format!(
            "{message}; if both listen on it, one of them fails"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_of_a_patched_pod_have_a_limit_of_size() {
        let pod = |length| json!({ "metadata": { "annotations": { "a": "x".repeat(length) } } });
        assert_eq!(check_annotations(&pod(ANNOTATION_BYTES - 1)), Ok(()));
        let rejected = check_annotations(&pod(ANNOTATION_BYTES)).unwrap_err();
        assert!(rejected.message.contains("262145 bytes"), "{rejected}");
        assert_eq!(check_annotations(&json!({})), Ok(()));
    }
}
