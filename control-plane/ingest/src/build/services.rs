//! The stages of virtual services.

use std::{net::IpAddr, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Memo, ObjectRef, ResolvedService, ServiceName};
use k8s_openapi::api::core::v1::Service;

use super::{
    ResourceIndex, ServiceIndex, SharedOutput, UnresolvedByName,
    members::{MembershipIndex, UnresolvedMemo},
};
use crate::{
    inputs::{Inputs, ObjectMap},
    name_index::NameIndexMemo,
    service::{self, ServiceLookups, UnresolvedService},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput},
    virtual_ips::{self, VirtualIps},
};

/// The nodes, routers and Kubernetes Services to which services refer.
type LookupContext = (ResourceIndex, ResourceIndex, VirtualIps);
type ResolveInput = (Arc<UnresolvedService>, LookupContext);
type StageInput = (
    UnresolvedByName<ServiceName, UnresolvedService>,
    LookupContext,
);

/// Memo of these stages.
#[derive(Debug, Default)]
pub(super) struct ServiceMemo {
    unresolved: UnresolvedMemo<v1beta2::VirtualService, UnresolvedService>,
    /// The last Kubernetes Services, from which the virtual IPs were read.
    kubernetes_services: ObjectMap<Service>,
    virtual_ips: Memo<ObjectRef, Arc<Service>, Vec<IpAddr>>,
    resolved: KeyedStage<ServiceName, ResolveInput, ResolvedService, ServiceLookups>,
    output: CachedValue<StageInput, StageOutput<ServiceName, ResolvedService>>,
    index: NameIndexMemo<ServiceName, UnresolvedService, ResolvedService>,
}

impl ServiceMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        (nodes, routers): (&ResourceIndex, &ResourceIndex),
        problems: &mut ProblemLists,
    ) -> (SharedOutput<ServiceName, ResolvedService>, ServiceIndex) {
        let by_name = self.unresolved.update(
            &inputs.virtual_services,
            members,
            |service| service.spec.mesh_ref.as_ref(),
            service::parse,
            problems,
        );
        if !Arc::ptr_eq(&self.kubernetes_services, &inputs.services) {
            self.kubernetes_services = Arc::clone(&inputs.services);
            self.virtual_ips.update(&*inputs.services, |_, service| {
                virtual_ips::of_service(service)
            });
        }
        let virtual_ips = Arc::clone(self.virtual_ips.outputs());
        let resolved = &mut self.resolved;
        let context = (Arc::clone(nodes), Arc::clone(routers), virtual_ips);
        let output = self
            .output
            .update((Arc::clone(&by_name), context), |(by_name, context)| {
                let inputs = by_name.values.iter();
                let mut problems = ProblemLists::new();
                let values = resolved.update_with_lookup(
                    inputs.map(|(name, unresolved)| (name, (unresolved, context))),
                    |unresolved, (nodes, routers, virtual_ips)| {
                        service::look_up(unresolved, nodes, routers, virtual_ips)
                    },
                    |unresolved, lookups| service::resolve(unresolved, lookups),
                    &mut problems,
                );
                StageOutput { values, problems }
            });
        problems.extend(output.problems.iter().cloned());
        let index = self
            .index
            .update(&by_name.values, &output.values, service::index_entry);
        (output, index)
    }
}
