//! The stages of meshes and namespaces: who belongs to which mesh; and the first stage of every member.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, Memo, ObjectRef, ResolvedMesh, Shared};
use k8s_openapi::api::core::v1::Namespace;

use crate::{
    directory::{ByName, Draft},
    inputs::{Inputs, Objects},
    membership::{Labels, Membership, namespace_labels},
    mesh::{self, MeshDraft, MeshIndex},
    stage::{Checked, Findings, Once, Stage, Turned},
};

type IndexInput = (
    Shared<ObjectRef, ResolvedMesh>,
    Shared<ObjectRef, MeshDraft>,
);
type MembershipInput = (Arc<Labels>, Arc<MeshIndex>);
type OfNamespace = Shared<Arc<str>, Membership>;
type MembersInput = (Arc<MeshIndex>, Shared<Arc<str>, Labels>, OfNamespace);
type MemberObjects = (
    Objects<v1beta2::VirtualNode>,
    Objects<v1beta2::VirtualService>,
    Objects<v1beta2::VirtualRouter>,
    Objects<v1beta2::VirtualGateway>,
    Objects<v1beta2::GatewayRoute>,
);

/// Meshes, namespaces, and who belongs to which.
#[derive(Debug, Default)]
pub(super) struct MemberMemo {
    drafts: Stage<ObjectRef, Arc<v1beta2::Mesh>, MeshDraft>,
    meshes: Memo<ObjectRef, Arc<MeshDraft>, ResolvedMesh>,
    index: Once<IndexInput, MeshIndex>,
    namespaces: Once<MemberObjects, BTreeSet<Arc<str>>>,
    labels: Memo<Arc<str>, Option<Arc<Namespace>>, Labels>,
    memberships: Memo<Arc<str>, MembershipInput, Membership>,
    members: Once<MembersInput, Members>,
}

/// Who belongs to which mesh.
#[derive(Debug, PartialEq)]
pub(super) struct Members {
    pub(super) meshes: Arc<MeshIndex>,
    pub(super) labels: Shared<Arc<str>, Labels>,
    of_namespace: OfNamespace,
}

impl MemberMemo {
    pub(super) fn turn(&mut self, inputs: &Inputs, findings: &mut Findings) -> Arc<Members> {
        let drafts = self.drafts.turn(
            &*inputs.meshes,
            |object, mesh| mesh::draft(object, mesh),
            findings,
        );
        let meshes = self.meshes.turn(&*drafts, |_, draft| draft.mesh.clone());
        let index = self.index.turn((meshes, drafts), |(meshes, drafts)| {
            MeshIndex::new(meshes, drafts)
        });
        if !index.problems.is_empty() {
            findings.push(Arc::clone(&index.problems));
        }

        let objects = (
            Arc::clone(&inputs.virtual_nodes),
            Arc::clone(&inputs.virtual_services),
            Arc::clone(&inputs.virtual_routers),
            Arc::clone(&inputs.virtual_gateways),
            Arc::clone(&inputs.gateway_routes),
        );
        let namespaces = self.namespaces.turn(objects, namespaces);
        let pairs = namespaces.iter().map(|name| {
            let object = ObjectRef::new(Kind::Namespace, "", Arc::clone(name));
            (name, inputs.namespaces.get(&object))
        });
        let labels = self.labels.turn(pairs, |name, namespace| {
            namespace_labels(name, namespace.as_deref())
        });
        let pairs = labels.iter().map(|(name, labels)| (name, (labels, &index)));
        let of_namespace = self.memberships.turn(pairs, |_, (labels, index)| {
            index.membership.of_namespace(labels)
        });
        self.members.turn(
            (index, labels, of_namespace),
            |(meshes, labels, members)| Members {
                meshes: Arc::clone(meshes),
                labels: Arc::clone(labels),
                of_namespace: Arc::clone(members),
            },
        )
    }
}

/// The namespaces that members of meshes live in.
fn namespaces(
    (nodes, services, routers, gateways, gateway_routes): &MemberObjects,
) -> BTreeSet<Arc<str>> {
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
    add(&mut nodes.keys());
    add(&mut services.keys());
    add(&mut routers.keys());
    add(&mut gateways.keys());
    add(&mut gateway_routes.keys());
    names
}

impl Members {
    /// Members with what they belong to.
    pub(super) fn of<'a, T>(
        &'a self,
        objects: &'a Objects<T>,
        reference: impl Fn(&T) -> Option<&v1beta2::MeshReference> + 'a,
    ) -> impl Iterator<Item = (&'a ObjectRef, (&'a Arc<T>, &'a Arc<Membership>))> {
        objects.iter().map(move |(object, value)| {
            let membership = match reference(value) {
                Some(mesh) => self.meshes.membership.of_reference(&mesh.name),
                None => self
                    .of_namespace
                    .get(&object.namespace)
                    .expect("the namespace of every member is walked"),
            };
            (object, (value, membership))
        })
    }
}

type Turns<D> = Arc<Turned<ObjectRef, D>>;

/// The stage of the drafts of one kind, skipped as a whole while neither the objects nor the members change.
#[derive(Debug)]
pub(super) struct DraftMemo<T, D: Draft> {
    drafts: Stage<ObjectRef, (Arc<T>, Arc<Membership>), D>,
    turned: Once<(Objects<T>, Arc<Members>), Turned<ObjectRef, D>>,
    named: Once<Turns<D>, ByName<D::Name, D>>,
}

impl<T, D: Draft> Default for DraftMemo<T, D> {
    fn default() -> Self {
        Self {
            drafts: Stage::default(),
            turned: Once::default(),
            named: Once::default(),
        }
    }
}

impl<T, D: Draft + PartialEq> DraftMemo<T, D> {
    pub(super) fn turn(
        &mut self,
        objects: &Objects<T>,
        members: &Arc<Members>,
        reference: impl Fn(&T) -> Option<&v1beta2::MeshReference>,
        draft: impl Fn(&ObjectRef, &T, &Membership) -> Checked<D>,
        findings: &mut Findings,
    ) -> Arc<ByName<D::Name, D>> {
        let drafts = &mut self.drafts;
        let input = (Arc::clone(objects), Arc::clone(members));
        let turned = self.turned.turn(input, |(objects, members)| {
            let mut findings = Findings::new();
            let values = drafts.turn(
                members.of(objects, reference),
                |object, (value, membership)| draft(object, value, membership),
                &mut findings,
            );
            Turned { values, findings }
        });
        let named = self
            .named
            .turn(Arc::clone(&turned), |turned| ByName::new(&turned.values));
        findings.extend(turned.findings.iter().cloned());
        if !named.problems.is_empty() {
            findings.push(Arc::clone(&named.problems));
        }
        named
    }
}
