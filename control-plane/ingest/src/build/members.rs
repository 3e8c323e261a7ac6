//! The stages of meshes and namespaces: who belongs to which mesh; and the first stage of every member.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, Memo, ObjectRef, ResolvedMesh, SharedMap};
use k8s_openapi::api::core::v1::Namespace;

use crate::{
    inputs::{Inputs, ObjectMap},
    membership::{Labels, Membership, namespace_labels},
    mesh::{self, MeshIndex, UnresolvedMesh},
    name_index::{UniqueByName, Unresolved},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput, WithProblems},
};

type IndexInput = (
    SharedMap<ObjectRef, ResolvedMesh>,
    SharedMap<ObjectRef, UnresolvedMesh>,
);
type MembershipInput = (Arc<Labels>, Arc<MeshIndex>);
type OfNamespace = SharedMap<Arc<str>, Membership>;
type MembersInput = (Arc<MeshIndex>, SharedMap<Arc<str>, Labels>, OfNamespace);
type MemberObjects = (
    ObjectMap<v1beta2::VirtualNode>,
    ObjectMap<v1beta2::VirtualService>,
    ObjectMap<v1beta2::VirtualRouter>,
    ObjectMap<v1beta2::VirtualGateway>,
    ObjectMap<v1beta2::GatewayRoute>,
);

/// Meshes, namespaces, and who belongs to which.
#[derive(Debug, Default)]
pub(super) struct MemberMemo {
    drafts: KeyedStage<ObjectRef, Arc<v1beta2::Mesh>, UnresolvedMesh>,
    meshes: Memo<ObjectRef, Arc<UnresolvedMesh>, ResolvedMesh>,
    index: CachedValue<IndexInput, MeshIndex>,
    namespaces: CachedValue<MemberObjects, BTreeSet<Arc<str>>>,
    labels: Memo<Arc<str>, Option<Arc<Namespace>>, Labels>,
    memberships: Memo<Arc<str>, MembershipInput, Membership>,
    members: CachedValue<MembersInput, MembershipIndex>,
}

/// Who belongs to which mesh.
#[derive(Debug, PartialEq)]
pub(super) struct MembershipIndex {
    pub(super) meshes: Arc<MeshIndex>,
    pub(super) labels: SharedMap<Arc<str>, Labels>,
    of_namespace: OfNamespace,
}

impl MemberMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        findings: &mut ProblemLists,
    ) -> Arc<MembershipIndex> {
        let drafts = self.drafts.update(
            &*inputs.meshes,
            |object, mesh| mesh::parse(object, mesh),
            findings,
        );
        let meshes = self.meshes.update(&*drafts, |_, draft| draft.mesh.clone());
        let index = self.index.update((meshes, drafts), |(meshes, drafts)| {
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
        let namespaces = self.namespaces.update(objects, namespaces);
        let pairs = namespaces.iter().map(|name| {
            let object = ObjectRef::new(Kind::Namespace, "", Arc::clone(name));
            (name, inputs.namespaces.get(&object))
        });
        let labels = self.labels.update(pairs, |name, namespace| {
            namespace_labels(name, namespace.as_deref())
        });
        let pairs = labels.iter().map(|(name, labels)| (name, (labels, &index)));
        let of_namespace = self.memberships.update(pairs, |_, (labels, index)| {
            index.membership.of_namespace(labels)
        });
        self.members.update(
            (index, labels, of_namespace),
            |(meshes, labels, members)| MembershipIndex {
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

impl MembershipIndex {
    /// Members with what they belong to.
    pub(super) fn of<'a, T>(
        &'a self,
        objects: &'a ObjectMap<T>,
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

type Turns<D> = Arc<StageOutput<ObjectRef, D>>;

/// The stage of the drafts of one kind, skipped as a whole while neither the objects nor the members change.
#[derive(Debug)]
pub(super) struct UnresolvedMemo<T, D: Unresolved> {
    drafts: KeyedStage<ObjectRef, (Arc<T>, Arc<Membership>), D>,
    output: CachedValue<(ObjectMap<T>, Arc<MembershipIndex>), StageOutput<ObjectRef, D>>,
    named: CachedValue<Turns<D>, UniqueByName<D::Name, D>>,
}

impl<T, D: Unresolved> Default for UnresolvedMemo<T, D> {
    fn default() -> Self {
        Self {
            drafts: KeyedStage::default(),
            output: CachedValue::default(),
            named: CachedValue::default(),
        }
    }
}

impl<T, D: Unresolved + PartialEq> UnresolvedMemo<T, D> {
    pub(super) fn update(
        &mut self,
        objects: &ObjectMap<T>,
        members: &Arc<MembershipIndex>,
        reference: impl Fn(&T) -> Option<&v1beta2::MeshReference>,
        draft: impl Fn(&ObjectRef, &T, &Membership) -> WithProblems<D>,
        findings: &mut ProblemLists,
    ) -> Arc<UniqueByName<D::Name, D>> {
        let drafts = &mut self.drafts;
        let input = (Arc::clone(objects), Arc::clone(members));
        let output = self.output.update(input, |(objects, members)| {
            let mut findings = ProblemLists::new();
            let values = drafts.update(
                members.of(objects, reference),
                |object, (value, membership)| draft(object, value, membership),
                &mut findings,
            );
            StageOutput { values, findings }
        });
        let named = self.named.update(Arc::clone(&output), |output| {
            UniqueByName::new(&output.values)
        });
        findings.extend(output.findings.iter().cloned());
        if !named.problems.is_empty() {
            findings.push(Arc::clone(&named.problems));
        }
        named
    }
}
