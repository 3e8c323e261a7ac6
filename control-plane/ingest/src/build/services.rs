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
type ResolveInput = (Arc<UnresolvedService>, (ResourceIndex, ResourceIndex));
type StageInput = (
    UnresolvedByName<ServiceName, UnresolvedService>,
    (ResourceIndex, ResourceIndex),
);

/// Memo of these stages.
#[derive(Debug, Default)]
pub(super) struct ServiceMemo {
    unresolved: UnresolvedMemo<v1beta2::VirtualService, UnresolvedService>,
    resolved: KeyedStage<ServiceName, ResolveInput, ResolvedService, ServiceProvider>,
    output: CachedValue<StageInput, StageOutput<ServiceName, ResolvedService>>,
    index: NameIndexMemo<ServiceName, ResolvedService>,
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
        let resolved = &mut self.resolved;
        let context = (Arc::clone(nodes), Arc::clone(routers));
        let output = self
            .output
            .update((by_name, context), |(by_name, context)| {
                let inputs = by_name.values.iter();
                let mut problems = ProblemLists::new();
                let values = resolved.update_with_lookup(
                    inputs.map(|(name, unresolved)| (name, (unresolved, context))),
                    |unresolved, (nodes, routers)| service::look_up(unresolved, nodes, routers),
                    |unresolved, found| service::resolve(unresolved, found.as_ref()),
                    &mut problems,
                );
                StageOutput { values, problems }
            });
        problems.extend(output.problems.iter().cloned());
        let index = self.index.update(&output.values, service::index_entry);
        (output, index)
    }
}
