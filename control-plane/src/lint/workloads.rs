//! Findings about a mesh that the workloads of its folder show: pods that no node selects, nodes that select no pod, and container
//! ports that no listener has.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_ingest::{
    membership::{Labels, mismatches},
    object::Object,
};
use evermesh_injector::INJECTION;
use evermesh_model::{FieldPath, Kind, ObjectRef, Problem, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::source::{
    SourceChange,
    file::{ManifestObject, is_mesh_version},
};

/// Kinds that make pods, with the path of their pod template.
const WORKLOADS: [(&str, &str, &[&str]); 7] = [
    ("v1", "Pod", &[]),
    ("apps/v1", "Deployment", &["spec", "template"]),
    ("apps/v1", "StatefulSet", &["spec", "template"]),
    ("apps/v1", "DaemonSet", &["spec", "template"]),
    ("apps/v1", "ReplicaSet", &["spec", "template"]),
    ("batch/v1", "Job", &["spec", "template"]),
    (
        "batch/v1",
        "CronJob",
        &["spec", "jobTemplate", "spec", "template"],
    ),
];

/// Returns whether an object of a kind that Evermesh does not serve may be meant for Evermesh.
pub(super) fn is_meant_for_mesh(object: &Value) -> bool {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (version, word) = (text("apiVersion"), text("kind"));
    let is_mesh_kind = |kind: Kind| {
        kind.as_str() == word && is_mesh_version(kind.api_version()) && kind != Kind::Route
    };
    is_mesh_version(version) || Kind::ALL.into_iter().any(is_mesh_kind)
}

/// The pods of a Deployment or the like.
struct Workload<'a> {
    origin: &'a Arc<str>,
    /// Kind, namespace and name, as messages show them.
    name: String,
    namespace: String,
    /// The field of the pod template, from the document's root.
    field: FieldPath,
    pod: &'a Value,
    labels: Labels,
}

impl<'a> Workload<'a> {
    fn of(object: &'a ManifestObject) -> Option<Self> {
        let value = &object.value;
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let (_, kind, steps) = WORKLOADS
            .iter()
            .find(|(version, kind, _)| text("apiVersion") == *version && text("kind") == *kind)?;
        let (field, pod) = steps
            .iter()
            .fold((object.field(), value), |(field, value), step| {
                (field.field(step), &value[*step])
            });
        let metadata = &value["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        let labels = pod["metadata"]["labels"].as_object();
        let labels = labels.into_iter().flatten();
        Some(Self {
            origin: &object.origin,
            name: format!(
                "{kind}/{namespace}/{}",
                metadata["name"].as_str().unwrap_or_default()
            ),
            namespace: namespace.to_owned(),
            field,
            pod,
            labels: labels
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        })
    }

    /// The label or annotation that asks for a sidecar.
    fn injection(&self, namespaces: &BTreeMap<&str, Option<&str>>) -> Option<&'static str> {
        let annotation = self.pod["metadata"]["annotations"][INJECTION].as_str();
        match annotation.map(str::to_lowercase).as_deref() {
            Some("enabled") => Some("its annotation"),
            Some(_) => None,
            None => {
                let label = namespaces.get(self.namespace.as_str()).copied().flatten();
                (label == Some("enabled")).then_some("the label of its namespace")
            }
        }
    }

    /// Each TCP port of a container, with its field.
    fn ports(&self) -> impl Iterator<Item = (FieldPath, u64)> {
        let containers = self.pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten();
        let field = self.field.field("spec.containers");
        containers.enumerate().flat_map(move |(index, container)| {
            let field = field.index(index).field("ports");
            let ports = container["ports"].as_array().into_iter().flatten();
            ports.enumerate().filter_map(move |(index, port)| {
                let is_tcp = port["protocol"].as_str().is_none_or(|it| it == "TCP");
                let number = port["containerPort"].as_u64().filter(|_| is_tcp)?;
                Some((field.index(index).field("containerPort"), number))
            })
        })
    }

    fn problem(&self, field: FieldPath, reason: Reason, message: &str) -> Problem {
        Problem {
            object: None,
            origin: Some(Arc::clone(self.origin)),
            field,
            reason,
            severity: reason.severity(),
            message: format!("{}: {message}", self.name),
        }
    }
}

/// The selectors of a folder's nodes and gateways, and the injection labels of its namespaces.
#[derive(Default)]
struct FolderMesh<'a> {
    nodes: BTreeMap<&'a ObjectRef, &'a v1beta2::VirtualNode>,
    origins: BTreeMap<&'a ObjectRef, &'a Arc<str>>,
    selectors: BTreeMap<&'a ObjectRef, &'a LabelSelector>,
    namespaces: BTreeMap<&'a str, Option<&'a str>>,
}

impl<'a> FolderMesh<'a> {
    fn of(changes: &'a [SourceChange]) -> Self {
        let mut mesh = Self::default();
        for change in changes {
            let SourceChange::Object {
                object: id,
                origin,
                value: Some(object),
            } = change
            else {
                continue;
            };
            mesh.origins
                .extend(origin.as_ref().map(|origin| (id, origin)));
            let selector = match object {
                Object::VirtualNode(node) => {
                    mesh.nodes.insert(id, node);
                    node.spec.pod_selector.as_ref()
                }
                Object::VirtualGateway(gateway) => gateway.spec.pod_selector.as_ref(),
                Object::Namespace(namespace) => {
                    let labels = namespace.metadata.labels.as_ref();
                    let label = labels.and_then(|labels| labels.get(INJECTION));
                    mesh.namespaces.insert(&id.name, label.map(String::as_str));
                    None
                }
                _ => None,
            };
            mesh.selectors
                .extend(selector.map(|selector| (id, selector)));
        }
        mesh
    }

    /// The nodes and gateways of a workload's namespace, with the reasons why they do not select it.
    fn candidates(&self, workload: &Workload<'_>) -> Vec<(&'a ObjectRef, Vec<String>)> {
        let of_namespace = self.selectors.iter();
        let of_namespace = of_namespace.filter(|(id, _)| *id.namespace == *workload.namespace);
        of_namespace
            .map(|(id, selector)| (*id, mismatches(selector, &workload.labels)))
            .collect()
    }
}

/// The problems of the pods that the folder's workloads make, and of nodes that get none of them.
pub(super) fn problems(files: &[ManifestObject], changes: &[SourceChange]) -> Vec<Problem> {
    let mesh = FolderMesh::of(changes);
    let workloads: Vec<_> = files.iter().filter_map(Workload::of).collect();
    if workloads.is_empty() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    let mut unused: BTreeMap<_, _> = mesh.nodes.clone();
    unused.retain(|id, _| mesh.selectors.contains_key(id));
    for workload in &workloads {
        let candidates = mesh.candidates(workload);
        let selecting = candidates.iter().filter(|(_, reasons)| reasons.is_empty());
        let selecting: Vec<&ObjectRef> = selecting.map(|(id, _)| *id).collect();
        for id in &selecting {
            unused.remove(id);
        }
        match (&selecting[..], workload.injection(&mesh.namespaces)) {
            ([], Some(by)) => problems.push(not_selected(workload, by, candidates)),
            ([id], _) => {
                if let Some(node) = mesh.nodes.get(id) {
                    problems.extend(unlisted_ports(workload, id, node));
                }
            }
            _ => {}
        }
    }
    problems.extend(unused.into_keys().map(|id| {
        let message = format!(
            "no workload of the folder in namespace `{}` has pods that the selector selects, so the node gets no pod; correct the selector, or the labels of the pod template",
            id.namespace
        );
        let field = FieldPath::spec().field("podSelector");
        Problem {
            origin: mesh.origins.get(id).map(|origin| Arc::clone(origin)),
            ..Problem::new(id, field, Reason::NoPodSelected, message)
        }
    }));
    problems
}

fn not_selected(
    workload: &Workload<'_>,
    by: &str,
    candidates: Vec<(&ObjectRef, Vec<String>)>,
) -> Problem {
    let nearest = candidates
        .into_iter()
        .min_by_key(|(_, reasons)| reasons.len());
    let nearest = nearest.map_or_else(
        || "the namespace has none with a podSelector".to_owned(),
        |(id, reasons)| format!("the nearest is {id}: {}", reasons.join(", ")),
    );
    let message = format!(
        "{by} asks for a sidecar, but no VirtualNode or VirtualGateway selects its pods, so they are not created; {nearest}"
    );
    let field = workload.field.field("metadata.labels");
    workload.problem(field, Reason::PodNotSelected, &message)
}

fn unlisted_ports(
    workload: &Workload<'_>,
    id: &ObjectRef,
    node: &v1beta2::VirtualNode,
) -> Vec<Problem> {
    let listeners = node.spec.listeners.iter().flatten();
    let listeners: Vec<u64> = listeners
        .map(|listener| u64::from(listener.port_mapping.port))
        .collect();
    let unlisted = workload
        .ports()
        .filter(|(_, port)| !listeners.contains(port));
    let problems = unlisted.map(|(field, port)| {
        let message = format!(
            "no listener of {id}, which selects the pods, has the container port {port}, so requests to it do not pass the mesh; add a listener, or remove the port"
        );
        workload.problem(field, Reason::ContainerPortUnlisted, &message)
    });
    problems.collect()
}
