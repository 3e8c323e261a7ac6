//! The stages of meshes and namespaces, which decide membership, and the parsing stage of all members.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, Memo, ObjectRef, ResolvedMesh, SharedMap};
use k8s_openapi::api::core::v1::Namespace;

use crate::{
    consent::RouteNamespace,
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
    ObjectMap<v1beta2::BackendGroup>,
);

/// Memo of the stages of meshes and namespaces.
#[derive(Debug, Default)]
pub(super) struct MemberMemo {
    unresolved: KeyedStage<ObjectRef, Arc<v1beta2::Mesh>, UnresolvedMesh>,
    meshes: Memo<ObjectRef, Arc<UnresolvedMesh>, ResolvedMesh>,
    index: CachedValue<IndexInput, MeshIndex>,
    namespaces: CachedValue<MemberObjects, BTreeSet<Arc<str>>>,
    labels: Memo<Arc<str>, Option<Arc<Namespace>>, Labels>,
    memberships: Memo<Arc<str>, MembershipInput, Membership>,
    members: CachedValue<MembersInput, MembershipIndex>,
}

/// The mesh of each object.
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
        problems: &mut ProblemLists,
    ) -> Arc<MembershipIndex> {
        let unresolved = self.unresolved.update(
            &*inputs.meshes,
            |object, mesh| mesh::parse(object, mesh),
            problems,
        );
        let meshes = self
            .meshes
            .update(&*unresolved, |_, unresolved| unresolved.mesh.clone());
        let index = self
            .index
            .update((meshes, unresolved), |(meshes, unresolved)| {
                MeshIndex::new(meshes, unresolved)
            });
        if !index.problems.is_empty() {
            problems.push(Arc::clone(&index.problems));
        }

        let objects = (
            Arc::clone(&inputs.virtual_nodes),
            Arc::clone(&inputs.virtual_services),
            Arc::clone(&inputs.virtual_routers),
            Arc::clone(&inputs.virtual_gateways),
            Arc::clone(&inputs.gateway_routes),
            Arc::clone(&inputs.backend_groups),
        );
        let of_members = self.namespaces.update(objects, namespaces);
        let of_routes = inputs.routes.namespaces();
        let namespaces: BTreeSet<&Arc<str>> = of_members.iter().chain(of_routes).collect();
        let pairs = namespaces.into_iter().map(|name| {
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

/// The namespaces that contain members of meshes.
fn namespaces(
    (nodes, services, routers, gateways, gateway_routes, backend_groups): &MemberObjects,
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
    add(&mut backend_groups.keys());
    names
}

impl MembershipIndex {
    /// A namespace with `Route` objects.
    pub(super) fn of_routes(&self, namespace: &str) -> Option<RouteNamespace> {
        let mesh = match &**self.of_namespace.get(namespace)? {
            Membership::Member(mesh) => Some(Arc::clone(&mesh.name)),
            _ => None,
        };
        Some(RouteNamespace {
            labels: Arc::clone(self.labels.get(namespace)?),
            mesh,
        })
    }

    /// Pairs objects with their membership.
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
                    .expect("members and namespaces come from the same inputs"),
            };
            (object, (value, membership))
        })
    }
}

type ParsedKind<D> = Arc<StageOutput<ObjectRef, D>>;

/// The parsing stage of one kind. The stage is skipped as a whole while neither objects nor memberships change.
#[derive(Debug)]
pub(super) struct UnresolvedMemo<T, D: Unresolved> {
    unresolved: KeyedStage<ObjectRef, (Arc<T>, Arc<Membership>), D>,
    output: CachedValue<(ObjectMap<T>, Arc<MembershipIndex>), StageOutput<ObjectRef, D>>,
    by_name: CachedValue<ParsedKind<D>, UniqueByName<D::Name, D>>,
}

impl<T, D: Unresolved> Default for UnresolvedMemo<T, D> {
    fn default() -> Self {
        Self {
            unresolved: KeyedStage::default(),
            output: CachedValue::default(),
            by_name: CachedValue::default(),
        }
    }
}

impl<T, D: Unresolved + PartialEq> UnresolvedMemo<T, D> {
    pub(super) fn update(
        &mut self,
        objects: &ObjectMap<T>,
        members: &Arc<MembershipIndex>,
        reference: impl Fn(&T) -> Option<&v1beta2::MeshReference>,
        parse: impl Fn(&ObjectRef, &T, &Membership) -> WithProblems<D>,
        problems: &mut ProblemLists,
    ) -> Arc<UniqueByName<D::Name, D>> {
        let unresolved = &mut self.unresolved;
        let input = (Arc::clone(objects), Arc::clone(members));
        let output = self.output.update(input, |(objects, members)| {
            let mut problems = ProblemLists::new();
            let values = unresolved.update(
                members.of(objects, reference),
                |object, (value, membership)| parse(object, value, membership),
                &mut problems,
            );
            StageOutput { values, problems }
        });
        let by_name = self.by_name.update(Arc::clone(&output), |output| {
            UniqueByName::new(&output.values)
        });
        problems.extend(output.problems.iter().cloned());
        if !by_name.problems.is_empty() {
            problems.push(Arc::clone(&by_name.problems));
        }
        by_name
    }
}
