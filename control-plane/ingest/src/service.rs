//! `VirtualService` → [`ResolvedService`].
//!
//! [`draft`] reads the object alone, [`find`] follows its provider, [`resolve`] puts both together.
//!
//! Must not know what stands behind a provider but its name and ports.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    Kind, ObjectRef, Reason, ResolvedService, ResourceName, ServiceName, problem::FieldPath,
    service::ServiceProvider,
};

use crate::{
    membership::Membership,
    name_index::{IndexEntry, Lookup, NameIndex, Unresolved, UnresolvedRef},
    stage::{Problems, WithProblems},
    values,
};

/// A virtual service whose provider is not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedService {
    name: ServiceName,
    object: ObjectRef,
    provider: Option<(Kind, UnresolvedRef)>,
}

impl Unresolved for UnresolvedService {
    type Name = ServiceName;

    fn name(&self) -> &ServiceName {
        &self.name
    }
}

/// Reads the object.
pub(crate) fn parse(
    object: &ObjectRef,
    service: &v1beta2::VirtualService,
    membership: &Membership,
) -> WithProblems<UnresolvedService> {
    let mut problems = Problems::of(object);
    let value = try_parse(service, membership, &mut problems);
    WithProblems::new(value, problems)
}

fn try_parse(
    service: &v1beta2::VirtualService,
    membership: &Membership,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedService> {
    let object = problems.object();
    let v1beta2::VirtualServiceSpec {
        aws_name,
        provider,
        mesh_ref,
    } = &service.spec;
    let refusals = Vec::new(); // a service of any spec is admitted
    let (mesh, hostname) =
        membership.place(mesh_ref.as_ref(), aws_name.as_deref(), refusals, problems)?;
    Some(UnresolvedService {
        name: ServiceName {
            mesh: Arc::clone(&mesh.name),
            hostname,
        },
        object: object.clone(),
        provider: provider
            .as_ref()
            .and_then(|provider| read_provider(provider, problems)),
    })
}

fn read_provider(
    provider: &v1beta2::VirtualServiceProvider,
    problems: &mut Problems<'_>,
) -> Option<(Kind, UnresolvedRef)> {
    let v1beta2::VirtualServiceProvider {
        virtual_node,
        virtual_router,
    } = provider;
    let field = FieldPath::spec().field("provider");
    match (virtual_node, virtual_router) {
        (Some(node), None) => {
            let v1beta2::VirtualNodeServiceProvider {
                virtual_node_ref,
                virtual_node_arn,
            } = node;
            let kind = Kind::VirtualNode;
            values::ref_or_arn(kind, virtual_node_ref.as_ref(), virtual_node_arn.as_ref())
                .read(&field.field("virtualNode"), problems)
                .map(|reference| (kind, reference))
        }
        (None, Some(router)) => {
            let v1beta2::VirtualRouterServiceProvider {
                virtual_router_ref,
                virtual_router_arn,
            } = router;
            let kind = Kind::VirtualRouter;
            values::ref_or_arn(
                kind,
                virtual_router_ref.as_ref(),
                virtual_router_arn.as_ref(),
            )
            .read(&field.field("virtualRouter"), problems)
            .map(|reference| (kind, reference))
        }
        (Some(_), Some(_)) => {
            problems.add(
                field,
                Reason::InvalidUnion,
                "both virtualNode and virtualRouter are set and neither counts: keep one",
            );
            None
        }
        (None, None) => None,
    }
}

/// What a draft's provider leads to.
pub(crate) fn look_up(
    draft: &UnresolvedService,
    nodes: &NameIndex<ResourceName>,
    routers: &NameIndex<ResourceName>,
) -> Option<Lookup<ResourceName>> {
    let (kind, reference) = draft.provider.as_ref()?;
    let directory = match kind {
        Kind::VirtualRouter => routers,
        _ => nodes,
    };
    Some(directory.look_up(reference, &draft.name.mesh))
}

/// Puts a draft and what its provider leads to together.
pub(crate) fn resolve(
    draft: &UnresolvedService,
    found: Option<&Lookup<ResourceName>>,
) -> WithProblems<ResolvedService> {
    let mut problems = Problems::of(&draft.object);
    let (provider, mut ports) = match (&draft.provider, found) {
        (Some((kind, _)), Some(Ok(face))) => {
            let provider = match kind {
                Kind::VirtualRouter => ServiceProvider::Router(face.name.clone()),
                _ => ServiceProvider::Node(face.name.clone()),
            };
            (provider, face.ports.clone())
        }
        (Some((kind, reference)), Some(Err(miss))) => {
            let field = FieldPath::spec().field("provider").field(match kind {
                Kind::VirtualRouter => "virtualRouter",
                _ => "virtualNode",
            });
            let consequence = "the name is reserved and requests get 404";
            miss.report(reference, *kind, field, consequence, &mut problems);
            (ServiceProvider::None, Vec::new())
        }
        (_, _) => (ServiceProvider::None, Vec::new()),
    };
    ports.sort();
    let service = ResolvedService {
        name: draft.name.clone(),
        object: draft.object.clone(),
        provider,
        ports,
    };
    WithProblems::new(Some(service), problems)
}

/// What backends and gateway routes may know of a service.
pub(crate) fn index_entry(service: &ResolvedService) -> IndexEntry<ServiceName> {
    IndexEntry {
        name: service.name.clone(),
        object: service.object.clone(),
        ports: service.ports.clone(),
    }
}
