//! The decision about a pod: injected, left alone, rejected, or not possible yet.
//!
//! The annotation of the pod or the label of its namespace says whether a sidecar is wanted. The label selectors of the
//! nodes and gateways in the namespace say which of them the pod belongs to.
//!
//! The API server asks only about pods of namespaces whose label is `enabled` or `disabled`. If the snapshot does not
//! have such a label, the snapshot is older than the API server's view, and the decision has to wait.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_ingest::{
    admission::{ClusterSnapshot, aws_name},
    local_ports::{is_intercepted, strict_ports, unprotected},
    membership::{Labels, list, mismatches},
};
use evermesh_model::{Kind, ObjectRef, ProxyKind, ResourceName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::{annotation::INJECTION, settings::WithoutMember};

/// Limit for the nodes and gateways that a message explains, and for those that it only names.
const SHOWN: usize = 8;

/// The annotation of mirror pods, by which the kubelet shows static pods of its Kubernetes node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The decision about a pod that is to be created.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Leave the pod unchanged, possibly with a warning for its creator.
    Skip(Option<String>),
    /// Make the pod a member of a mesh.
    Inject(Member),
    /// Do not create the pod.
    Reject(RejectedPod),
    /// Do not create the pod until Evermesh has read what the message names.
    Unready(String),
}

/// The node or gateway that a pod belongs to, as far as its sidecar needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub struct Member {
    /// The mesh and the node or gateway, by their names in AWS.
    pub name: ResourceName,
    /// The node ID of the proxy: the name, and the mesh's owner if it has one, as in `mesh/M[@OWNER]/virtualNode/N`.
    pub id: String,
    /// The object of the node or gateway, which selects the pod.
    pub object: ObjectRef,
    /// The ports of the node's listeners, in their order and without duplicates. Empty for gateways.
    pub ports: Vec<u16>,
    /// Whether the node is discovered through AWS Cloud Map.
    pub in_cloud_map: bool,
    /// Whether the proxy accepts IPv6 connections: whether the mesh has an `ipPreference`.
    pub listens_on_ipv6: bool,
    /// The ports among `ports` whose listeners forbid plaintext (TLS mode `STRICT`).
    pub strict_ports: Vec<u16>,
    /// Whether the mesh closes outbound connections that no backend covers (`DROP_ALL`).
    pub drops_egress: bool,
    /// Whether the pod's traffic is redirected to the proxy. If not, the application calls the proxy on local ports.
    pub is_intercepted: bool,
}

/// The reason why a pod must not be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RejectedPod {
    /// The problem and what to do, for the creator of the pod.
    pub message: String,
    /// Whether other objects are the reason. The snapshot may lack a newer version of them, so the decision may change
    /// within moments.
    pub may_be_stale: bool,
}

impl RejectedPod {
    pub(crate) fn because_of_pod(message: String) -> Self {
        Self {
            message,
            may_be_stale: false,
        }
    }

    fn because_of_others(message: String) -> Self {
        Self {
            message,
            may_be_stale: true,
        }
    }
}

/// Whether a sidecar is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InjectionMode {
    /// `enabled`, by the annotation or label that the text names.
    Enabled(&'static str),
    Disabled,
    /// The annotation of the pod has another value: the pod gets a sidecar if a node or gateway selects it.
    IfSelected,
}

/// The mode of a pod. Nothing if the mode depends on the namespace and the snapshot does not have its label.
fn injection_mode(
    pod: &Value,
    namespace: &str,
    snapshot: &ClusterSnapshot,
) -> Option<InjectionMode> {
    let annotation = pod["metadata"]["annotations"][INJECTION].as_str();
    match annotation.map(str::to_lowercase).as_deref() {
        Some("enabled") => Some(InjectionMode::Enabled("the annotation of the pod")),
        Some("disabled") => Some(InjectionMode::Disabled),
        Some(_) => namespace_mode(namespace, snapshot).map(|_| InjectionMode::IfSelected),
        None => namespace_mode(namespace, snapshot),
    }
}

/// The mode that the label of a namespace sets. The label has to be in lower case, as in the selector of the webhook.
fn namespace_mode(namespace: &str, snapshot: &ClusterSnapshot) -> Option<InjectionMode> {
    match snapshot.labels(namespace)?.get(INJECTION)?.as_str() {
        "enabled" => Some(InjectionMode::Enabled("the label of the namespace")),
        "disabled" => Some(InjectionMode::Disabled),
        _ => None,
    }
}

/// Whether the snapshot has a namespace with the label for which the API server asks about pods.
pub fn has_injection_label(namespace: &str, snapshot: &ClusterSnapshot) -> bool {
    namespace_mode(namespace, snapshot).is_some()
}

/// Whether the decision depends on other objects in the Kubernetes cluster. A pod with the annotation `disabled` is left
/// alone, and so is a mirror pod: its containers run already, and it may have no token.
pub fn depends_on_cluster(pod: &Value) -> bool {
    let annotations = &pod["metadata"]["annotations"];
    let injection = annotations[INJECTION].as_str();
    let is_disabled = injection.is_some_and(|value| value.to_lowercase() == "disabled");
    !is_disabled && annotations[MIRROR].is_null()
}

/// Decides about a pod that is to be created in a namespace.
pub fn decide(
    pod: &Value,
    namespace: &str,
    snapshot: &ClusterSnapshot,
    without_member: WithoutMember,
) -> Decision {
    if !depends_on_cluster(pod) {
        return Decision::Skip(None);
    }
    let mode = match injection_mode(pod, namespace, snapshot) {
        Some(InjectionMode::Disabled) => return Decision::Skip(None),
        Some(mode) => mode,
        None => {
            return Decision::Unready(format!(
                "Evermesh has not read the label `{INJECTION}` of the namespace `{namespace}` yet; try again in a moment"
            ));
        }
    };
    let labels = labels(pod);
    let candidates = candidates(namespace, snapshot);
    let selecting: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.mismatches(&labels).is_empty())
        .collect();
    match selecting.as_slice() {
        [candidate] => match candidate.member(snapshot) {
            Ok(member) => inject(pod, member),
            Err(rejected) => Decision::Reject(rejected),
        },
        [] => match (mode, without_member) {
            (InjectionMode::Enabled(by), WithoutMember::Refuse) => Decision::Reject(
                RejectedPod::because_of_others(not_selected(namespace, by, &candidates, &labels)),
            ),
            (InjectionMode::Enabled(by), WithoutMember::Skip) => {
                Decision::Skip(Some(not_selected(namespace, by, &candidates, &labels)))
            }
            (InjectionMode::IfSelected | InjectionMode::Disabled, _) => Decision::Skip(None),
        },
        several => {
            let names: Vec<_> = several.iter().map(|it| it.object.to_string()).collect();
            Decision::Reject(RejectedPod::because_of_others(format!(
                "several objects select this pod, and a pod belongs to one VirtualNode or VirtualGateway: {}; narrow their podSelectors, or change the labels of the pod template, until one of them selects the pod",
                names.join(", ")
            )))
        }
    }
}

/// Injects unless the pod shares the network of its Kubernetes node and interception would affect the whole node.
fn inject(pod: &Value, member: Member) -> Decision {
    if member.is_intercepted && pod["spec"]["hostNetwork"] == true {
        return Decision::Reject(RejectedPod::because_of_pod(format!(
            "{} selects this pod, and spec.hostNetwork of the pod is true: interception would redirect the traffic of the whole host; remove hostNetwork, or annotate the pod with `{INJECTION}: disabled`",
            member.object
        )));
    }
    Decision::Inject(member)
}

fn labels(pod: &Value) -> Labels {
    let labels = pod["metadata"]["labels"].as_object();
    labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A node or gateway in the pod's namespace.
struct Candidate<'a> {
    object: &'a ObjectRef,
    selector: Option<&'a LabelSelector>,
    mesh: Option<&'a v1beta2::MeshReference>,
    aws_name: Option<&'a str>,
    kind: ProxyKind,
    ports: Vec<u16>,
    in_cloud_map: bool,
    is_intercepted: bool,
}

fn candidates<'a>(namespace: &str, snapshot: &'a ClusterSnapshot) -> Vec<Candidate<'a>> {
    let nodes = snapshot
        .virtual_nodes
        .range(ObjectRef::new(Kind::VirtualNode, namespace, "")..)
        .take_while(|(object, _)| &*object.namespace == namespace)
        .map(|(object, node)| Candidate {
            object,
            selector: node.spec.pod_selector.as_ref(),
            mesh: node.spec.mesh_ref.as_ref(),
            aws_name: node.spec.aws_name.as_deref(),
            kind: ProxyKind::VirtualNode,
            ports: node
                .spec
                .listeners
                .iter()
                .flatten()
                .map(|listener| listener.port_mapping.port)
                .collect(),
            in_cloud_map: node
                .spec
                .service_discovery
                .as_ref()
                .is_some_and(|discovery| discovery.aws_cloud_map.is_some()),
            is_intercepted: is_intercepted(&node.metadata),
        });
    let gateways = snapshot
        .virtual_gateways
        .range(ObjectRef::new(Kind::VirtualGateway, namespace, "")..)
        .take_while(|(object, _)| &*object.namespace == namespace)
        .map(|(object, gateway)| Candidate {
            object,
            selector: gateway.spec.pod_selector.as_ref(),
            mesh: gateway.spec.mesh_ref.as_ref(),
            aws_name: gateway.spec.aws_name.as_deref(),
            kind: ProxyKind::VirtualGateway,
            ports: Vec::new(),
            in_cloud_map: false,
            is_intercepted: false,
        });
    nodes.chain(gateways).collect()
}

impl Candidate<'_> {
    /// The reasons why the candidate does not select a pod with these labels. Empty if it does.
    fn mismatches(&self, labels: &Labels) -> Vec<String> {
        let Some(selector) = self.selector else {
            return vec!["podSelector is missing".to_owned()];
        };
        let mut mismatches = mismatches(selector, labels);
        if self.mesh.is_none() {
            mismatches.push("meshRef is empty, so it belongs to no mesh".to_owned());
        }
        mismatches
    }

    fn member(&self, snapshot: &ClusterSnapshot) -> Result<Member, RejectedPod> {
        let reference = self.mesh.map_or("", |mesh| mesh.name.as_str());
        let object = ObjectRef::new(Kind::Mesh, "", reference);
        let Some(mesh) = snapshot.meshes.get(&object) else {
            return Err(RejectedPod::because_of_others(format!(
                "{} selects this pod, but its Mesh `{reference}` does not exist; create the Mesh",
                self.object
            )));
        };
        let node = snapshot.virtual_nodes.get(self.object);
        let unprotected = node.map(|node| unprotected(node)).unwrap_or_default();
        if let [port, ..] = unprotected.as_slice() {
            return Err(RejectedPod::because_of_others(format!(
                "{} selects this pod and is not intercepted, and its listener {port} forbids plaintext but has no port in the annotation `evermesh.dev/application-ports`, so callers could reach the application in plaintext; add the listener to the annotation",
                self.object
            )));
        }
        let name = ResourceName::new(
            aws_name(&object, mesh.spec.aws_name.as_deref()),
            self.kind,
            aws_name(self.object, self.aws_name),
        );
        let owner = mesh.spec.mesh_owner.as_deref().filter(|it| !it.is_empty());
        let owner = owner.map(|owner| format!("@{owner}")).unwrap_or_default();
        let mut ports: Vec<u16> = Vec::new();
        for port in &self.ports {
            if !ports.contains(port) {
                ports.push(*port);
            }
        }
        Ok(Member {
            id: format!(
                "mesh/{}{owner}/{}/{}",
                name.mesh,
                self.kind.as_str(),
                name.name
            ),
            name,
            object: self.object.clone(),
            ports,
            in_cloud_map: self.in_cloud_map,
            listens_on_ipv6: mesh
                .spec
                .mesh_service_discovery
                .is_some_and(|it| it.ip_preference.is_some()),
            strict_ports: node.map(|node| strict_ports(node)).unwrap_or_default(),
            drops_egress: mesh
                .spec
                .egress_filter
                .is_none_or(|it| it.r#type == v1beta2::EgressFilterType::DropAll),
            is_intercepted: self.is_intercepted,
        })
    }
}

/// The message for a pod that wants a sidecar and that no node or gateway selects. It explains the nodes and gateways
/// with the fewest mismatches first, because one of them is most likely meant.
fn not_selected(
    namespace: &str,
    enabled_by: &str,
    candidates: &[Candidate<'_>],
    labels: &Labels,
) -> String {
    let mut mismatches: Vec<_> = candidates
        .iter()
        .map(|candidate| (candidate.object, candidate.mismatches(labels)))
        .collect();
    mismatches.sort_by_key(|(_, mismatches)| mismatches.len());
    let (shown, others) = mismatches.split_at(mismatches.len().min(SHOWN));
    let mut reasons: Vec<String> = shown
        .iter()
        .map(|(object, mismatches)| {
            format!(
                "{} `{}`: {}",
                object.kind,
                object.name,
                mismatches.join(", ")
            )
        })
        .collect();
    let others: Vec<Arc<str>> = others
        .iter()
        .map(|(object, _)| Arc::clone(&object.name))
        .collect();
    match others.as_slice() {
        [] if reasons.is_empty() => reasons.push("the namespace has none".to_owned()),
        [] => {}
        few if few.len() <= SHOWN => {
            reasons.push(format!("others that do not match: {}", list(few)));
        }
        many => reasons.push(format!("{} others that do not match", many.len())),
    }
    format!(
        "{enabled_by} is `{INJECTION}: enabled`, but no VirtualNode or VirtualGateway in the namespace `{namespace}` selects the pod: {}. Create a VirtualNode whose podSelector selects the pod, change a podSelector or the labels of the pod template, or annotate the template with `{INJECTION}: disabled`",
        reasons.join("; ")
    )
}
