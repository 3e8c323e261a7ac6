//! The stage of backend groups.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::ObjectRef;

use super::members::MembershipIndex;
use crate::{
    backend_group::{self, GroupIndex, UnresolvedGroup},
    inputs::{Inputs, ObjectMap},
    membership::Membership,
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput},
};

type StageInput = (ObjectMap<v1beta2::BackendGroup>, Arc<MembershipIndex>);

/// Memo of this stage.
#[derive(Debug, Default)]
pub(super) struct GroupMemo {
    unresolved:
        KeyedStage<ObjectRef, (Arc<v1beta2::BackendGroup>, Arc<Membership>), UnresolvedGroup>,
    output: CachedValue<StageInput, StageOutput<ObjectRef, UnresolvedGroup>>,
}

impl GroupMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        problems: &mut ProblemLists,
    ) -> GroupIndex {
        let unresolved = &mut self.unresolved;
        let input = (Arc::clone(&inputs.backend_groups), Arc::clone(members));
        let output = self.output.update(input, |(groups, members)| {
            let mut problems = ProblemLists::new();
            let values = unresolved.update(
                members.of(groups, |group| group.spec.mesh_ref.as_ref()),
                |object, (group, membership)| backend_group::parse(object, group, membership),
                &mut problems,
            );
            StageOutput { values, problems }
        });
        problems.extend(output.problems.iter().cloned());
        Arc::clone(&output.values)
    }
}
