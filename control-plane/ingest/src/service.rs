//! `VirtualService` → [`ResolvedService`].
//!
//! [`parse`] reads the object alone, [`look_up`] looks up its provider, and [`resolve`] combines both.

use std::{net::IpAddr, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    Kind, ObjectRef, Reason, ResolvedService, ResourceName, ServiceName, problem::FieldPath,
    service::ServiceProvider,
};

use crate::{
    membership::Membership,
    name_index::{IndexEntry, Lookup, NameIndex, UnresolvedRef},
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
    unique_names::Unresolved,
    values,
    virtual_ips::{self, VirtualIps},
};

/// A parsed virtual service whose provider was not looked up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedService {
    name: ServiceName,
    object: ObjectRef,
    age: ObjectAge,
    provider: Option<(Kind, UnresolvedRef)>,
}

impl Contender for UnresolvedService {
    fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

impl Unresolved for UnresolvedService {
    type Name = ServiceName;

    fn name(&self) -> &ServiceName {
        &self.name
    }
}

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
    let rejections = Vec::new(); // admission has no rules for services
    let (mesh, hostname) =
        membership.mesh_and_name(mesh_ref.as_ref(), aws_name.as_deref(), rejections, problems)?;
    Some(UnresolvedService {
        name: ServiceName {
            mesh: Arc::clone(&mesh.name),
            hostname,
        },
        object: object.clone(),
        age: ObjectAge::of(&service.metadata),
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
                "both virtualNode and virtualRouter are set, so neither is used; keep one",
            );
            None
        }
        (None, None) => None,
    }
}

/// The results of looking up the references of a service.
#[derive(Debug, PartialEq)]
pub(crate) struct ServiceLookups {
    provider: Option<Lookup<ResourceName>>,
    virtual_ips: Vec<IpAddr>,
}

/// Looks up the provider, and the Kubernetes Service to which the host name refers.
pub(crate) fn look_up(
    unresolved: &UnresolvedService,
    nodes: &NameIndex<ResourceName>,
    routers: &NameIndex<ResourceName>,
    virtual_ips: &VirtualIps,
) -> ServiceLookups {
    let UnresolvedService {
        name,
        provider,
        object: _,
        age: _,
    } = unresolved;
    let provider = provider.as_ref().map(|(kind, reference)| {
        let directory = match kind {
            Kind::VirtualRouter => routers,
            _ => nodes,
        };
        directory.look_up(reference, &name.mesh)
    });
    ServiceLookups {
        provider,
        virtual_ips: virtual_ips::find(&name.hostname, virtual_ips),
    }
}

/// Combines a service with the results of its lookups.
pub(crate) fn resolve(
    unresolved: &UnresolvedService,
    lookups: &ServiceLookups,
) -> WithProblems<ResolvedService> {
    let mut problems = Problems::of(&unresolved.object);
    let (provider, mut ports) = match (&unresolved.provider, &lookups.provider) {
        (Some((kind, _)), Some(Ok(entry))) => {
            let provider = match kind {
                Kind::VirtualRouter => ServiceProvider::Router(entry.name.clone()),
                _ => ServiceProvider::Node(entry.name.clone()),
            };
            (provider, entry.ports.clone())
        }
        (Some((kind, reference)), Some(Err(error))) => {
            let field = FieldPath::spec().field("provider").field(match kind {
                Kind::VirtualRouter => "virtualRouter",
                _ => "virtualNode",
            });
            let consequence = "requests for this service are answered with 404";
            error.report(reference, *kind, field, consequence, &mut problems);
            (ServiceProvider::None, Vec::new())
        }
        (_, _) => (ServiceProvider::None, Vec::new()),
    };
    ports.sort();
    let service = ResolvedService {
        name: unresolved.name.clone(),
        object: unresolved.object.clone(),
        provider,
        ports,
        virtual_ips: lookups.virtual_ips.clone(),
    };
    WithProblems::new(Some(service), problems)
}

/// The index entry for backends and gateway routes.
pub(crate) fn index_entry(
    unresolved: &UnresolvedService,
    service: &ResolvedService,
) -> IndexEntry<ServiceName> {
    IndexEntry {
        name: service.name.clone(),
        object: service.object.clone(),
        ports: service.ports.clone(),
        virtual_ips: service.virtual_ips.clone(),
        age: unresolved.age.clone(),
    }
}
