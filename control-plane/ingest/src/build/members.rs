//! The stages of meshes and namespaces: who belongs to which mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, Memo, Mesh, ObjectRef};
use k8s_openapi::api::core::v1::Namespace;

use crate::{
    inputs::{Inputs, Objects},
    membership::{Labels, Membership, namespace_labels},
    mesh::{self, MeshDraft, MeshIndex},
    stage::{Findings, Once, Stage},
};

type IndexInput = (
    BTreeMap<ObjectRef, Arc<Mesh>>,
    BTreeMap<ObjectRef, Arc<MeshDraft>>,
);
type MembershipInput = (Arc<Labels>, Arc<MeshIndex>);

/// Meshes, namespaces, and who belongs to which.
#[derive(Debug, Default)]
pub(super) struct MemberMemo {
    drafts: Stage<ObjectRef, Arc<v1beta2::Mesh>, MeshDraft>,
    meshes: Memo<ObjectRef, Arc<MeshDraft>, Arc<Mesh>>,
    index: Once<IndexInput, MeshIndex>,
    labels: Memo<Arc<str>, Option<Arc<Namespace>>, Arc<Labels>>,
    memberships: Memo<Arc<str>, MembershipInput, Arc<Membership>>,
}

/// Who belongs to which mesh.
pub(super) struct Members {
    pub(super) meshes: Arc<MeshIndex>,
    pub(super) labels: BTreeMap<Arc<str>, Arc<Labels>>,
    of_namespace: BTreeMap<Arc<str>, Arc<Membership>>,
}

impl MemberMemo {
    pub(super) fn turn(&mut self, inputs: &Inputs, findings: &mut Findings) -> Members {
        let objects = inputs
            .meshes
            .iter()
            .map(|(object, mesh)| (object.clone(), Arc::clone(mesh)));
        let drafts = self
            .drafts
            .turn(objects, |object, mesh| mesh::draft(object, mesh), findings);
        let pairs = drafts
            .iter()
            .map(|(object, draft)| (object.clone(), Arc::clone(draft)));
        let meshes = self.meshes.turn(pairs, |_, draft| draft.mesh.clone());
        let index = self.index.turn((meshes, drafts), |(meshes, drafts)| {
            MeshIndex::new(meshes, drafts)
        });
        if !index.problems.is_empty() {
            findings.push(Arc::clone(&index.problems));
        }

        let namespaces = namespaces(inputs).into_iter().map(|name| {
            let object = ObjectRef::new(Kind::Namespace, "", Arc::clone(&name));
            (name, inputs.namespaces.get(&object).cloned())
        });
        let labels = self.labels.turn(namespaces, |name, namespace| {
            namespace_labels(name, namespace.as_deref())
        });
        let pairs = labels
            .iter()
            .map(|(name, labels)| (Arc::clone(name), (Arc::clone(labels), Arc::clone(&index))));
        let of_namespace = self.memberships.turn(pairs, |_, (labels, index)| {
            index.membership.of_namespace(labels)
        });
        Members {
            meshes: index,
            labels,
            of_namespace,
        }
    }
}

/// The namespaces that members of meshes live in.
fn namespaces(inputs: &Inputs) -> BTreeSet<Arc<str>> {
    let mut names = BTreeSet::new();
    let mut add = |objects: &mut dyn Iterator<Item = &ObjectRef>| {
        let mut last: Option<&Arc<str>> = None;
        for object in objects {
            if last != Some(&object.namespace) {
                names.insert(Arc::clone(&object.namespace));
                last = Some(&object.namespace);
            }
        }
    };
    add(&mut inputs.virtual_nodes.keys());
    add(&mut inputs.virtual_services.keys());
    add(&mut inputs.virtual_routers.keys());
    add(&mut inputs.virtual_gateways.keys());
    add(&mut inputs.gateway_routes.keys());
    names
}

impl Members {
    /// Members with what they belong to.
    pub(super) fn of<'a, T>(
        &'a self,
        objects: &'a Objects<T>,
        reference: impl Fn(&T) -> Option<&v1beta2::MeshReference> + 'a,
    ) -> impl Iterator<Item = (ObjectRef, (Arc<T>, Arc<Membership>))> + 'a {
        objects.iter().map(move |(object, value)| {
            let membership = match reference(value) {
                Some(mesh) => self.meshes.membership.of_reference(&mesh.name),
                None => self
                    .of_namespace
                    .get(&object.namespace)
                    .expect("the namespace of every member is walked"),
            };
            (object.clone(), (Arc::clone(value), Arc::clone(membership)))
        })
    }
}
