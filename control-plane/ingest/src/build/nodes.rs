//! The stages of virtual nodes: parsing and indexing before services are known, resolving backends after that.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, ResolvedNode, ResourceName};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{
    ResourceIndex, ServiceIndex, SharedOutput, UnresolvedByName,
    members::{MembershipIndex, UnresolvedMemo},
};
use crate::{
    backend_group::GroupIndex,
    inputs::{IngestSettings, Inputs, WeakObjectsByOwner},
    name_index::NameIndexMemo,
    node::{self, NodeLookups, UnresolvedNode},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput},
};

/// The services and groups to which backends refer, the Kubernetes Services that have slices, and the settings.
type LookupContext = (
    (ServiceIndex, GroupIndex),
    Arc<BTreeSet<ObjectRef>>,
    IngestSettings,
);
type StageInput = (
    UnresolvedByName<ResourceName, UnresolvedNode>,
    LookupContext,
);

/// Memo of these stages.
#[derive(Debug, Default)]
pub(super) struct NodeMemo {
    unresolved: UnresolvedMemo<v1beta2::VirtualNode, UnresolvedNode>,
    index: NameIndexMemo<ResourceName, UnresolvedNode, UnresolvedNode>,
    slices: WeakObjectsByOwner<EndpointSlice>,
    services_with_slices: Arc<BTreeSet<ObjectRef>>,
    resolved:
        KeyedStage<ResourceName, (Arc<UnresolvedNode>, LookupContext), ResolvedNode, NodeLookups>,
    output: CachedValue<StageInput, StageOutput<ResourceName, ResolvedNode>>,
}

impl NodeMemo {
    pub(super) fn parse(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        problems: &mut ProblemLists,
    ) -> (
        UnresolvedByName<ResourceName, UnresolvedNode>,
        ResourceIndex,
    ) {
        let by_name = self.unresolved.update(
            &inputs.virtual_nodes,
            members,
            |node| node.spec.mesh_ref.as_ref(),
            node::parse,
            problems,
        );
        let index = self
            .index
            .update(&by_name.values, &by_name.values, |node, _| {
                node.index_entry()
            });
        (by_name, index)
    }

    pub(super) fn resolve(
        &mut self,
        inputs: &Inputs,
        unresolved: UnresolvedByName<ResourceName, UnresolvedNode>,
        backends: (ServiceIndex, GroupIndex),
    ) -> SharedOutput<ResourceName, ResolvedNode> {
        let slices = inputs.endpoint_slices.by_owner();
        let seen = Arc::downgrade(slices);
        if !self.slices.ptr_eq(&seen) {
            self.slices = seen;
            if !self.services_with_slices.iter().eq(slices.keys()) {
                self.services_with_slices = Arc::new(slices.keys().cloned().collect());
            }
        }
        let context = (
            backends,
            Arc::clone(&self.services_with_slices),
            inputs.settings,
        );
        let resolved = &mut self.resolved;
        self.output
            .update((unresolved, context), |(unresolved, context)| {
                let inputs = unresolved.values.iter();
                let mut problems = ProblemLists::new();
                let values = resolved.update_with_lookup(
                    inputs.map(|(name, unresolved)| (name, (unresolved, context))),
                    |unresolved, ((services, groups), services_with_slices, settings)| {
                        let backends = (&**services, groups);
                        node::look_up(unresolved, backends, services_with_slices, *settings)
                    },
                    |unresolved, lookups| node::resolve(unresolved, lookups),
                    &mut problems,
                );
                StageOutput { values, problems }
            })
    }
}
