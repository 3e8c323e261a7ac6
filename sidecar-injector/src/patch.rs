//! The patch that makes a pod a member: minimal JSON operations, each made only where it is missing, so that what
//! our types do not know survives and a second patch is empty.
//!
//! Must not decide whether a pod is a member.

mod builder;
mod envoy;
mod gateway;
mod interception;
mod volumes;
mod xray;

use evermesh_ingest::registration::READINESS_GATE;
use evermesh_model::ProxyKind;
use evermesh_proto::json::JsonError;
use json_patch::Patch;
use serde_json::{Value, json};

use self::builder::PodPatchBuilder;
use crate::{
    annotation::{self, RequestedProxy},
    bootstrap::Tracing,
    decide::{Member, RejectedPod},
    settings::{InjectorSettings, MalformedAnnotation, Resources, SidecarOrder},
};

/// The user that interception leaves alone.
const PROXY_USER: u32 = 1337;
/// The container that Prometheus' configurations and SPIRE's registrations select.
const ENVOY: &str = "envoy";

/// What is done to a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodPatch {
    /// The operations; none if everything is there.
    pub patch: Patch,
    /// What whoever created it should know.
    pub warnings: Vec<String>,
}

/// Why there is no patch.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The pod is at fault.
    #[error(transparent)]
    Rejected(#[from] RejectedPod),
    /// Envoy's configuration cannot be written: a mistake of ours.
    #[error("Envoy's bootstrap: {0}")]
    Bootstrap(#[from] JsonError),
}

/// What every part of the patch reads.
#[derive(Clone, Copy)]
struct PatchContext<'a> {
    member: &'a Member,
    settings: &'a InjectorSettings,
    wishes: &'a RequestedProxy,
}

/// What makes this pod the member.
pub fn patch(
    pod: &Value,
    member: &Member,
    settings: &InjectorSettings,
) -> Result<PodPatch, PatchError> {
    let (wishes, mut warnings) = annotation::read(pod, member, settings);
    if settings.malformed == MalformedAnnotation::Refuse && !warnings.is_empty() {
        return Err(RejectedPod::of_pod(warnings.join("; ")).into());
    }
    let task = PatchContext {
        member,
        settings,
        wishes: &wishes,
    };
    let mut draft = PodPatchBuilder::new(pod);
    match member.name.kind {
        ProxyKind::VirtualGateway => gateway::patch(&mut draft, task, &mut warnings)?,
        ProxyKind::VirtualNode | ProxyKind::VirtualRouter => {
            if member.is_intercepted {
                interception::patch(&mut draft, task);
            }
            let position = usize::from(xray::patch(&mut draft, task));
            envoy::patch(&mut draft, task, position, &mut warnings)?;
            if member.in_cloud_map && settings.cloud_map_gate {
                gate(&mut draft);
            }
            let context = &draft.pod()["spec"]["securityContext"];
            if settings.fs_group && context["fsGroup"].is_null() {
                draft.set(&["spec", "securityContext", "fsGroup"], json!(PROXY_USER));
            }
        }
    }
    warnings.extend(volumes::missing(draft.pod(), &wishes));
    Ok(PodPatch {
        patch: draft.into_patch(),
        warnings,
    })
}

fn gate(draft: &mut PodPatchBuilder) {
    let gates = draft.pod()["spec"]["readinessGates"].as_array();
    let is_there = |gate: &Value| gate["conditionType"] == READINESS_GATE;
    if !gates.is_some_and(|gates| gates.iter().any(is_there)) {
        let gate = json!({ "conditionType": READINESS_GATE });
        draft.push(&["spec", "readinessGates"], gate);
    }
}

/// Whether any container of the pod, of whichever sort, has this name.
fn has_container(pod: &Value, name: &str) -> bool {
    ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .any(|container| container["name"] == name)
}

/// Puts a sidecar where it belongs. Where the platform intercepts from the beginning, native ones stand first, so
/// that the pod's own init containers have a network; otherwise last, as App Mesh's interception did, so that
/// these have the network they always had.
fn place(
    draft: &mut PodPatchBuilder,
    task: PatchContext<'_>,
    mut container: Value,
    position: usize,
) {
    match task.settings.order {
        SidecarOrder::Native => {
            container["restartPolicy"] = "Always".into();
            let list = ["spec", "initContainers"];
            if task.wishes.cni && task.member.is_intercepted {
                draft.insert(&list, position, container);
            } else {
                draft.push(&list, container);
            }
        }
        SidecarOrder::Container => draft.push(&["spec", "containers"], container),
    }
}

/// What a container may use, without what is not said.
fn resources(resources: &Resources) -> Value {
    let Resources {
        cpu_request,
        memory_request,
        cpu_limit,
        memory_limit,
    } = resources;
    let mut made = json!({});
    for (group, resource, quantity) in [
        ("requests", "cpu", cpu_request),
        ("requests", "memory", memory_request),
        ("limits", "cpu", cpu_limit),
        ("limits", "memory", memory_limit),
    ] {
        if !quantity.is_empty() {
            made[group][resource] = quantity.as_str().into();
        }
    }
    made
}

/// What Pod Security's `restricted` asks of a container.
fn unprivileged() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true,
        "runAsUser": PROXY_USER,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// Whether the daemon of X-Ray is wanted.
fn traces_to_xray(settings: &InjectorSettings) -> Option<(u16, f64)> {
    match settings.tracing {
        Some(Tracing::XRay {
            port,
            sampling_rate,
        }) => Some((port, sampling_rate)),
        _ => None,
    }
}
