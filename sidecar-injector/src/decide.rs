//! Which pods get a sidecar: the mode of pod and namespace, and the one node or gateway that selects the pod.
//!
//! The API server asks only about pods of namespaces whose label says `enabled` or `disabled`. A namespace that is known
//! as anything else is known as it was: no pod may go its way by that.
//!
//! Must not look at what the sidecar will be.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_ingest::{
    admission::{ClusterSnapshot, aws_name},
    local_ports::{is_intercepted, unprotected},
    membership::{Labels, list, mismatches},
};
use evermesh_model::{Kind, ObjectRef, ProxyKind, ResourceName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::{annotation::INJECTION, settings::WithoutMember};

/// How many nodes and gateways a message says something about.
const SHOWN: usize = 8;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It stays as it is. The text, if any, is for whoever created it.
    Skip(Option<String>),
    /// It becomes a member.
    Inject(Member),
    /// It must not be created.
    Reject(RejectedPod),
    /// It must not be created before what the text names is known.
    Unready(String),
}

/// What a pod is in its mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node's or gateway's name.
    pub name: ResourceName,
    /// Its name with the mesh's owner, if it has one: `mesh/M[@OWNER]/virtualNode/N`.
    pub id: String,
    /// The object.
    pub object: ObjectRef,
    /// The ports of its listeners, in their order, each once.
    pub ports: Vec<u16>,
    /// Whether it is found in Cloud Map.
    pub in_cloud_map: bool,
    /// Whether its traffic is sent through the proxy, rather than calling it on ports that the node names.
    pub is_intercepted: bool,
}

/// Why a pod must not be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RejectedPod {
    /// What is wrong, and what to do.
    pub message: String,
    /// Whether other objects are the reason, of which newer ones may be on their way.
    pub may_be_stale: bool,
}

impl RejectedPod {
    /// By the pod itself.
    pub(crate) fn of_pod(message: String) -> Self {
        Self {
            message,
            may_be_stale: false,
        }
    }

    fn by_others(message: String) -> Self {
        Self {
            message,
            may_be_stale: true,
        }
    }
}

/// What pod and namespace say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `enabled`, and who says so.
    Enabled(&'static str),
    Disabled,
    /// The pod says anything else.
    Open,
}

/// Nothing if it depends on a namespace of which the API server knows more.
fn mode(pod: &Value, namespace: &str, surroundings: &ClusterSnapshot) -> Option<Mode> {
    let annotation = pod["metadata"]["annotations"][INJECTION].as_str();
    match annotation.map(str::to_lowercase).as_deref() {
        Some("enabled") => Some(Mode::Enabled("its annotation")),
        Some("disabled") => Some(Mode::Disabled),
        Some(_) => of_namespace(namespace, surroundings).map(|_| Mode::Open),
        None => of_namespace(namespace, surroundings),
    }
}

/// What the label of a namespace says, in the words that the API server looks for.
fn of_namespace(namespace: &str, surroundings: &ClusterSnapshot) -> Option<Mode> {
    match surroundings.labels(namespace)?.get(INJECTION)?.as_str() {
        "enabled" => Some(Mode::Enabled("the label of its namespace")),
        "disabled" => Some(Mode::Disabled),
        _ => None,
    }
}

/// Whether a namespace is known as one about whose pods the API server asks.
pub fn has_injection_label(namespace: &str, surroundings: &ClusterSnapshot) -> bool {
    of_namespace(namespace, surroundings).is_some()
}

/// Whether the answer for this pod depends on what else is in the cluster.
pub fn depends_on_cluster(pod: &Value) -> bool {
    pod["metadata"]["annotations"][INJECTION]
        .as_str()
        .is_none_or(|value| value.to_lowercase() != "disabled")
}

/// Decides about a pod that is to be created in a namespace.
pub fn decide(
    pod: &Value,
    namespace: &str,
    surroundings: &ClusterSnapshot,
    without_member: WithoutMember,
) -> Decision {
    let mode = match mode(pod, namespace, surroundings) {
        Some(Mode::Disabled) => return Decision::Skip(None),
        Some(mode) => mode,
        None => {
            return Decision::Unready(format!(
                "it is not known here yet what the label `{INJECTION}` of the namespace `{namespace}` says: try again in a moment"
            ));
        }
    };
    let labels = labels(pod);
    let candidates = candidates(namespace, surroundings);
    let matching: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.misses(&labels).is_empty())
        .collect();
    match matching.as_slice() {
        [candidate] => match candidate.member(surroundings) {
            Ok(member) => of_member(pod, member),
            Err(refusal) => Decision::Reject(refusal),
        },
        [] => match (mode, without_member) {
            (Mode::Enabled(who), WithoutMember::Refuse) => Decision::Reject(
                RejectedPod::by_others(nobody(namespace, who, &candidates, &labels)),
            ),
            (Mode::Enabled(who), WithoutMember::Skip) => {
                Decision::Skip(Some(nobody(namespace, who, &candidates, &labels)))
            }
            (Mode::Open | Mode::Disabled, _) => Decision::Skip(None),
        },
        several => {
            let names: Vec<_> = several.iter().map(|it| it.object.to_string()).collect();
            Decision::Reject(RejectedPod::by_others(format!(
                "a pod belongs to one VirtualNode or VirtualGateway, and these select this pod: {}. Narrow their podSelectors, or the labels of the pod's template, to one",
                names.join(", ")
            )))
        }
    }
}

/// A pod in the network of its host has no interception of its own.
fn of_member(pod: &Value, member: Member) -> Decision {
    if member.is_intercepted && pod["spec"]["hostNetwork"] == true {
        return Decision::Reject(RejectedPod::of_pod(format!(
            "{} selects this pod, which uses the network of its host (spec.hostNetwork): the traffic of the whole host would be intercepted. Leave hostNetwork out, or annotate the pod with `{INJECTION}: disabled`",
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

/// A node or gateway of the pod's namespace.
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

fn candidates<'a>(namespace: &str, surroundings: &'a ClusterSnapshot) -> Vec<Candidate<'a>> {
    let nodes = surroundings
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
                .is_some_and(|found| found.aws_cloud_map.is_some()),
            is_intercepted: is_intercepted(&node.metadata),
        });
    let gateways = surroundings
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
    /// Why it does not take a pod with these labels; empty if it does.
    fn misses(&self, labels: &Labels) -> Vec<String> {
        let Some(selector) = self.selector else {
            return vec!["it has no podSelector".to_owned()];
        };
        let mut misses = mismatches(selector, labels);
        if self.mesh.is_none() {
            misses.push("it belongs to no mesh: its meshRef is empty".to_owned());
        }
        misses
    }

    fn member(&self, surroundings: &ClusterSnapshot) -> Result<Member, RejectedPod> {
        let reference = self.mesh.map_or("", |mesh| mesh.name.as_str());
        let object = ObjectRef::new(Kind::Mesh, "", reference);
        let Some(mesh) = surroundings.meshes.get(&object) else {
            return Err(RejectedPod::by_others(format!(
                "{} selects this pod and belongs to the Mesh `{reference}`, which does not exist: create it",
                self.object
            )));
        };
        let node = surroundings.virtual_nodes.get(self.object);
        let unprotected = node.map(|node| unprotected(node)).unwrap_or_default();
        if let [port, ..] = unprotected.as_slice() {
            return Err(RejectedPod::by_others(format!(
                "{} selects this pod and is not intercepted, and nothing would keep its listener {port} from being called in plaintext, which its tls forbids: give it a port in the annotation `evermesh.dev/application-ports`",
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
            is_intercepted: self.is_intercepted,
        })
    }
}

/// Nobody selects the pod: who is there, and why each does not.
fn nobody(namespace: &str, who: &str, candidates: &[Candidate<'_>], labels: &Labels) -> String {
    // Whoever misses least is most likely meant.
    let mut misses: Vec<_> = candidates
        .iter()
        .map(|candidate| (candidate.object, candidate.misses(labels)))
        .collect();
    misses.sort_by_key(|(_, misses)| misses.len());
    let (shown, others) = misses.split_at(misses.len().min(SHOWN));
    let mut there: Vec<String> = shown
        .iter()
        .map(|(object, misses)| format!("{} `{}`: {}", object.kind, object.name, misses.join(", ")))
        .collect();
    let others: Vec<Arc<str>> = others
        .iter()
        .map(|(object, _)| Arc::clone(&object.name))
        .collect();
    match others.as_slice() {
        [] if there.is_empty() => there.push("there is none".to_owned()),
        [] => {}
        few if few.len() <= SHOWN => there.push(format!("nor {}", list(few))),
        many => there.push(format!("nor {} others", many.len())),
    }
    format!(
        "{who} says `{INJECTION}: enabled`, and no VirtualNode or VirtualGateway of the namespace `{namespace}` selects this pod: {}. Create a VirtualNode whose podSelector selects it, or change a podSelector or the labels of the pod's template; or annotate the template with `{INJECTION}: disabled`",
        there.join("; ")
    )
}
