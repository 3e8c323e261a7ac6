//! The JSON patch that makes a pod a member of a mesh.
//!
//! The patch contains only what the pod lacks. Fields that Evermesh does not know survive, and the patch for a pod that
//! was patched before is empty. Pods of nodes get containers; pods of gateways already have an Envoy, which is
//! configured.

mod builder;
mod envoy;
mod gateway;
mod interception;
mod obstacle;
mod volumes;
mod xray;

use evermesh_ingest::registration::READINESS_GATE;
use evermesh_model::ProxyKind;
use evermesh_proto::json::JsonError;
use json_patch::Patch;
use serde_json::{Value, json};

use self::builder::PodPatchBuilder;
use crate::{
    annotation::{self, ReadAnnotations, RequestedProxy, VOLUME_MOUNTS},
    bootstrap::Tracing,
    decide::{Member, RejectedPod},
    settings::{InjectorSettings, MalformedAnnotation, Resources, SidecarOrder},
};

/// The user that Envoy runs as. Connections of this user are not intercepted.
const PROXY_USER: u32 = 1337;
/// Envoy's container. Existing configurations of Prometheus and SPIRE select it by this name.
const ENVOY: &str = "envoy";
/// The init container that sets up interception.
const PROXY_INIT: &str = "proxyinit";
/// The container that receives traces for AWS X-Ray.
const XRAY_DAEMON: &str = "xray-daemon";

/// A patch for a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodPatch {
    /// The operations. Empty if the pod has everything.
    pub patch: Patch,
    /// Warnings for the creator of the pod.
    pub warnings: Vec<String>,
}

/// The reason why there is no patch.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// An annotation of the pod is malformed, or the pod contradicts what would be added to it.
    #[error(transparent)]
    Rejected(#[from] RejectedPod),
    /// Envoy's bootstrap cannot be encoded, which is a bug in Evermesh.
    #[error("Envoy's bootstrap cannot be encoded: {0}")]
    Bootstrap(#[from] JsonError),
}

/// The inputs that all parts of the patch share.
#[derive(Clone, Copy)]
struct PatchContext<'a> {
    member: &'a Member,
    settings: &'a InjectorSettings,
    requested: &'a RequestedProxy,
}

/// Makes the patch that turns the pod into this member.
///
/// # Errors
/// If an annotation is malformed and the settings say to reject such a pod, or if the pod contradicts what would be added
/// to it. The API server accepts every other patched pod, provided that it accepts the pod without the patch.
pub fn patch(
    pod: &Value,
    member: &Member,
    settings: &InjectorSettings,
) -> Result<PodPatch, PatchError> {
    let ReadAnnotations {
        requested,
        malformed,
        warnings,
    } = annotation::read(pod, member, settings);
    if settings.malformed == MalformedAnnotation::Refuse && !malformed.is_empty() {
        return Err(RejectedPod::because_of_pod(malformed.join("; ")).into());
    }
    let mut warnings = [malformed, warnings].concat();
    let context = PatchContext {
        member,
        settings,
        requested: &requested,
    };
    obstacle::check(pod, context, &mut warnings)?;
    let mut builder = PodPatchBuilder::new(pod);
    match member.name.kind {
        ProxyKind::VirtualGateway => gateway::patch(&mut builder, context, &mut warnings)?,
        ProxyKind::VirtualNode | ProxyKind::VirtualRouter => {
            if member.is_intercepted {
                interception::patch(&mut builder, context);
            }
            let position = usize::from(xray::patch(&mut builder, context, &mut warnings));
            envoy::patch(&mut builder, context, position, &mut warnings)?;
            if member.in_cloud_map && settings.cloud_map_gate {
                add_readiness_gate(&mut builder);
            }
            let security_context = &builder.pod()["spec"]["securityContext"];
            if settings.fs_group && security_context["fsGroup"].is_null() {
                builder.set(&["spec", "securityContext", "fsGroup"], json!(PROXY_USER));
            }
        }
    }
    obstacle::check_annotations(builder.pod())?;
    let mounts = &requested.volume_mounts;
    warnings.extend(volumes::missing(builder.pod(), VOLUME_MOUNTS, mounts));
    Ok(PodPatch {
        patch: builder.into_patch(),
        warnings,
    })
}

fn add_readiness_gate(builder: &mut PodPatchBuilder) {
    let gates = builder.pod()["spec"]["readinessGates"].as_array();
    let is_present = |gate: &Value| gate["conditionType"] == READINESS_GATE;
    if !gates.is_some_and(|gates| gates.iter().any(is_present)) {
        let gate = json!({ "conditionType": READINESS_GATE });
        builder.push(&["spec", "readinessGates"], gate);
    }
}

/// The lists of a pod's containers.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The containers of a pod, and its init containers.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = LISTS.into_iter();
    lists
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
}

/// Whether a container or init container of the pod has this name.
fn has_container(pod: &Value, name: &str) -> bool {
    containers(pod).any(|container| container["name"] == name)
}

/// The list and the index of a container or init container with this name.
fn container_path(pod: &Value, name: &str) -> Option<(&'static str, usize)> {
    LISTS.into_iter().find_map(|list| {
        let mut containers = pod["spec"][list].as_array()?.iter();
        Some((list, containers.position(|it| it["name"] == name)?))
    })
}

/// Adds a sidecar to the pod.
///
/// A native sidecar comes after the pod's own init containers, whose network is then unchanged, as with App Mesh. If
/// the platform intercepts, it does so from the start of the pod; the sidecar then comes at `position`, before the init
/// containers, because they need a proxy to reach the network.
fn add_sidecar(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    mut container: Value,
    position: usize,
) {
    match context.settings.order {
        SidecarOrder::Native => {
            container["restartPolicy"] = "Always".into();
            let list = ["spec", "initContainers"];
            if context.requested.cni && context.member.is_intercepted {
                builder.insert(&list, position, container);
            } else {
                builder.push(&list, container);
            }
        }
        SidecarOrder::Container => builder.push(&["spec", "containers"], container),
    }
}

/// The field `resources` of a container. Empty settings are left out.
fn resources(resources: &Resources) -> Value {
    let Resources {
        cpu_request,
        memory_request,
        cpu_limit,
        memory_limit,
    } = resources;
    let mut fields = json!({});
    for (group, resource, quantity) in [
        ("requests", "cpu", cpu_request),
        ("requests", "memory", memory_request),
        ("limits", "cpu", cpu_limit),
        ("limits", "memory", memory_limit),
    ] {
        if !quantity.is_empty() {
            fields[group][resource] = quantity.as_str().into();
        }
    }
    fields
}

/// A security context that complies with the Pod Security level `restricted`.
fn unprivileged() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true,
        "runAsUser": PROXY_USER,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// The daemon's port and the sampling rate, if traces go to X-Ray.
fn xray_tracing(settings: &InjectorSettings) -> Option<(u16, f64)> {
    match settings.tracing {
        Some(Tracing::XRay {
            port,
            sampling_rate,
        }) => Some((port, sampling_rate)),
        _ => None,
    }
}
