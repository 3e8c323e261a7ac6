//! The stages of meshes and namespaces, which decide membership, and the parsing stage of all members.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, Memo, ObjectRef, ResolvedMesh, SharedMap};
use k8s_openapi::api::core::v1::Namespace;

use crate::{
    consent::RouteNamespace,
    inputs::{Inputs, ObjectMap, namespaces},
    membership::{Labels, Membership, namespace_labels},
    mesh::{self, MeshIndex, UnresolvedMesh},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput, WithProblems},
    unique_names::{UniqueByName, UniqueByNameMemo, Unresolved},
};

type IndexInput = (
    SharedMap<ObjectRef, ResolvedMesh>,
    SharedMap<ObjectRef, UnresolvedMesh>,
);
type MembershipInput = (Arc<Labels>, Arc<MeshIndex>);
type OfNamespace = SharedMap<Arc<str>, Membership>;
type MembersInput = (Arc<MeshIndex>, SharedMap<Arc<str>, Labels>, OfNamespace);
/// The namespaces of the objects of one kind.
type NamespacesOfKind<T> = CachedValue<ObjectMap<T>, BTreeSet<Arc<str>>>;

/// Memo of the stages of meshes and namespaces.
#[derive(Debug, Default)]
pub(super) struct MemberMemo {
    unresolved: KeyedStage<ObjectRef, Arc<v1beta2::Mesh>, UnresolvedMesh>,
    meshes: Memo<ObjectRef, Arc<UnresolvedMesh>, ResolvedMesh>,
    index: CachedValue<IndexInput, MeshIndex>,
    namespaces: MemberNamespaces,
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

        let of_members = self.namespaces.update(inputs);
        let of_members = of_members.iter().flat_map(|names| names.iter());
        let of_routes = inputs.routes.namespaces();
        let namespaces: BTreeSet<&Arc<str>> = of_members.chain(of_routes).collect();
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

/// The namespaces that contain members of meshes, by kind: a changed object costs a look at those of its kind only.
#[derive(Debug, Default)]
struct MemberNamespaces {
    nodes: NamespacesOfKind<v1beta2::VirtualNode>,
    services: NamespacesOfKind<v1beta2::VirtualService>,
    routers: NamespacesOfKind<v1beta2::VirtualRouter>,
    gateways: NamespacesOfKind<v1beta2::VirtualGateway>,
    gateway_routes: NamespacesOfKind<v1beta2::GatewayRoute>,
    backend_groups: NamespacesOfKind<v1beta2::BackendGroup>,
}

impl MemberNamespaces {
    fn update(&mut self, inputs: &Inputs) -> [Arc<BTreeSet<Arc<str>>>; 6] {
        fn update<T>(
            memo: &mut NamespacesOfKind<T>,
            objects: &ObjectMap<T>,
        ) -> Arc<BTreeSet<Arc<str>>> {
            memo.update(Arc::clone(objects), |objects| {
                namespaces(objects).cloned().collect()
            })
        }
        [
            update(&mut self.nodes, &inputs.virtual_nodes),
            update(&mut self.services, &inputs.virtual_services),
            update(&mut self.routers, &inputs.virtual_routers),
            update(&mut self.gateways, &inputs.virtual_gateways),
            update(&mut self.gateway_routes, &inputs.gateway_routes),
            update(&mut self.backend_groups, &inputs.backend_groups),
        ]
    }
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

/// The parsing stage of one kind. The stage is skipped as a whole while neither objects nor memberships change.
#[derive(Debug)]
pub(super) struct UnresolvedMemo<T, D: Unresolved> {
    unresolved: KeyedStage<ObjectRef, (Arc<T>, Arc<Membership>), D>,
    output: CachedValue<(ObjectMap<T>, Arc<MembershipIndex>), StageOutput<ObjectRef, D>>,
    by_name: UniqueByNameMemo<D>,
}

impl<T, D: Unresolved> Default for UnresolvedMemo<T, D> {
    fn default() -> Self {
        Self {
            unresolved: KeyedStage::default(),
            output: CachedValue::default(),
            by_name: UniqueByNameMemo::default(),
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
        let by_name = self.by_name.update(&output.values);
        problems.extend(output.problems.iter().cloned());
        if !by_name.problems.is_empty() {
            problems.push(Arc::clone(&by_name.problems));
        }
        by_name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::parse;

    #[test]
    fn changed_object_costs_a_look_at_the_namespaces_of_its_kind_only() {
        let mut inputs = Inputs::default();
        let put = |inputs: &mut Inputs, kind: &str, namespace: &str| {
            let (object, value) = parse(json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2",
                "kind": kind,
                "metadata": {"name": "x", "namespace": namespace},
                "spec": {},
            }))
            .object
            .unwrap();
            inputs.apply(object, Some(value));
        };
        let mut memo = MemberNamespaces::default();
        put(&mut inputs, "VirtualNode", "a");
        memo.update(&inputs);
        put(&mut inputs, "VirtualRouter", "b");
        let found = memo.update(&inputs);
        assert_eq!((memo.nodes.runs, memo.routers.runs), (1, 2));
        let names: Vec<&str> = found
            .iter()
            .flat_map(|it| it.iter().map(|it| &**it))
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
