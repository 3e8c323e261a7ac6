//! The stages of virtual services.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{ResolvedService, ResourceName, ServiceName};

use super::{
    ResourceIndex, ServiceIndex, SharedOutput, UnresolvedByName,
    members::{MembershipIndex, UnresolvedMemo},
};
use crate::{
    inputs::Inputs,
    name_index::{Lookup, NameIndexMemo},
    service::{self, UnresolvedService},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput},
};

type ServiceProvider = Option<Lookup<ResourceName>>;
type Input = (Arc<UnresolvedService>, (ResourceIndex, ResourceIndex));
type TurnInput = (
    UnresolvedByName<ServiceName, UnresolvedService>,
    (ResourceIndex, ResourceIndex),
);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct ServiceMemo {
    drafts: UnresolvedMemo<v1beta2::VirtualService, UnresolvedService>,
    resolved: KeyedStage<ServiceName, Input, ResolvedService, ServiceProvider>,
    output: CachedValue<TurnInput, StageOutput<ServiceName, ResolvedService>>,
    directory: NameIndexMemo<ServiceName, ResolvedService>,
}

impl ServiceMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        (nodes, routers): (&ResourceIndex, &ResourceIndex),
        findings: &mut ProblemLists,
    ) -> (SharedOutput<ServiceName, ResolvedService>, ServiceIndex) {
        let named = self.drafts.update(
            &inputs.virtual_services,
            members,
            |service| service.spec.mesh_ref.as_ref(),
            service::parse,
            findings,
        );
        let resolved = &mut self.resolved;
        let surroundings = (Arc::clone(nodes), Arc::clone(routers));
        let output = self
            .output
            .update((named, surroundings), |(named, surroundings)| {
                let inputs = named.values.iter();
                let mut findings = ProblemLists::new();
                let values = resolved.update_with_lookup(
                    inputs.map(|(name, draft)| (name, (draft, surroundings))),
                    |draft, (nodes, routers)| service::look_up(draft, nodes, routers),
                    |draft, found| service::resolve(draft, found.as_ref()),
                    &mut findings,
                );
                StageOutput { values, findings }
            });
        findings.extend(output.findings.iter().cloned());
        let directory = self.directory.update(&output.values, service::index_entry);
        (output, directory)
    }
}
