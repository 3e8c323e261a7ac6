//! `BackendGroup`: backends that several virtual nodes share.
//!
//! [`parse`] reads a group alone. [`look_up`] finds its members for one node, because a member without a namespace
//! belongs to the namespace of the *node*, as in App Mesh's controller.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, ObjectRef, ServiceName, SharedMap};

use crate::{
    membership::Membership,
    name_index::{Lookup, LookupError, NameIndex, UnresolvedRef},
    stage::{Problems, WithProblems},
};

/// The name in a node's `spec.backendGroups` that stands for every virtual service of a namespace.
const EVERY_SERVICE: &str = "*";

/// A parsed group.
#[derive(Debug, PartialEq)]
pub(crate) struct UnresolvedGroup {
    mesh: Arc<str>,
    /// Names of virtual services, with their namespaces if these are given.
    members: Vec<(Arc<str>, Option<Arc<str>>)>,
}

/// The valid groups.
pub(crate) type GroupIndex = SharedMap<ObjectRef, UnresolvedGroup>;

/// The members of a group for one node, or the reason why the group cannot be used.
pub(crate) type GroupLookup = Result<Vec<GroupMember>, LookupError>;

/// A virtual service of a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupMember {
    pub(crate) reference: UnresolvedRef,
    pub(crate) found: Lookup<ServiceName>,
}

pub(crate) fn parse(
    object: &ObjectRef,
    group: &v1beta2::BackendGroup,
    membership: &Membership,
) -> WithProblems<UnresolvedGroup> {
    let mut problems = Problems::of(object);
    let v1beta2::BackendGroupSpec {
        virtualservices,
        mesh_ref,
    } = &group.spec;
    let mesh = mesh_ref.as_ref().map(|mesh| mesh.name.as_str());
    let value = membership
        .mesh(mesh, &mut problems)
        .map(|mesh| UnresolvedGroup {
            mesh: Arc::clone(&mesh.name),
            members: virtualservices
                .iter()
                .flatten()
                .map(|v1beta2::Reference { name, namespace }| {
                    (name.as_str().into(), namespace.as_deref().map(Into::into))
                })
                .collect(),
        });
    WithProblems::new(value, problems)
}

/// The group to which an entry of `spec.backendGroups` of a node refers.
pub(crate) fn reference(
    v1beta2::Reference { name, namespace }: &v1beta2::Reference,
    node: &ObjectRef,
) -> ObjectRef {
    let namespace = match namespace {
        Some(namespace) => namespace.as_str().into(),
        None => Arc::clone(&node.namespace),
    };
    ObjectRef::new(Kind::BackendGroup, namespace, name.as_str())
}

/// Looks up the members of a group for `node`, which belongs to `mesh`.
pub(crate) fn look_up(
    group: &ObjectRef,
    node: &ObjectRef,
    mesh: &Arc<str>,
    groups: &GroupIndex,
    services: &NameIndex<ServiceName>,
) -> GroupLookup {
    if &*group.name == EVERY_SERVICE {
        let services = services.in_namespace(Kind::VirtualService, &group.namespace, mesh);
        return Ok(services
            .map(|entry| GroupMember {
                reference: UnresolvedRef::Object(entry.object.clone()),
                found: Ok(Arc::clone(entry)),
            })
            .collect());
    }
    let found = groups.get(group).ok_or(LookupError::NotFound)?;
    if found.mesh != *mesh {
        return Err(LookupError::OtherMesh(Arc::clone(&found.mesh)));
    }
    let members = found.members.iter().map(|(name, namespace)| {
        let namespace = namespace.as_ref().unwrap_or(&node.namespace);
        let reference = UnresolvedRef::Object(ObjectRef::new(
            Kind::VirtualService,
            Arc::clone(namespace),
            Arc::clone(name),
        ));
        let found = services.look_up(&reference, mesh);
        GroupMember { reference, found }
    });
    Ok(members.collect())
}
