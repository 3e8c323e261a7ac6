//! The stages of virtual nodes: drafts and faces first, backends when the services are known.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, ResolvedNode, ResourceName};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{
    ResourceIndex, ServiceIndex, SharedOutput, UnresolvedByName,
    members::{MembershipIndex, UnresolvedMemo},
};
use crate::{
    inputs::{IngestSettings, Inputs, WeakObjectsByOwner},
    name_index::NameIndexMemo,
    node::{self, NodeLookups, UnresolvedNode},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput},
};

type ClusterSnapshot = (ServiceIndex, Arc<BTreeSet<ObjectRef>>, IngestSettings);
type TurnInput = (
    UnresolvedByName<ResourceName, UnresolvedNode>,
    ClusterSnapshot,
);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct NodeMemo {
    drafts: UnresolvedMemo<v1beta2::VirtualNode, UnresolvedNode>,
    directory: NameIndexMemo<ResourceName, UnresolvedNode>,
    slices: WeakObjectsByOwner<EndpointSlice>,
    with_slices: Arc<BTreeSet<ObjectRef>>,
    resolved:
        KeyedStage<ResourceName, (Arc<UnresolvedNode>, ClusterSnapshot), ResolvedNode, NodeLookups>,
    output: CachedValue<TurnInput, StageOutput<ResourceName, ResolvedNode>>,
}

impl NodeMemo {
    pub(super) fn parse(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        findings: &mut ProblemLists,
    ) -> (
        UnresolvedByName<ResourceName, UnresolvedNode>,
        ResourceIndex,
    ) {
        let named = self.drafts.update(
            &inputs.virtual_nodes,
            members,
            |node| node.spec.mesh_ref.as_ref(),
            node::parse,
            findings,
        );
        let directory = self
            .directory
            .update(&named.values, UnresolvedNode::index_entry);
        (named, directory)
    }

    pub(super) fn resolve(
        &mut self,
        inputs: &Inputs,
        drafts: UnresolvedByName<ResourceName, UnresolvedNode>,
        services: ServiceIndex,
    ) -> SharedOutput<ResourceName, ResolvedNode> {
        let slices = inputs.endpoint_slices.by_owner();
        let seen = Arc::downgrade(slices);
        if !self.slices.ptr_eq(&seen) {
            self.slices = seen;
            if !self.with_slices.iter().eq(slices.keys()) {
                self.with_slices = Arc::new(slices.keys().cloned().collect());
            }
        }
        let surroundings = (services, Arc::clone(&self.with_slices), inputs.settings);
        let resolved = &mut self.resolved;
        self.output
            .update((drafts, surroundings), |(drafts, surroundings)| {
                let inputs = drafts.values.iter();
                let mut findings = ProblemLists::new();
                let values = resolved.update_with_lookup(
                    inputs.map(|(name, draft)| (name, (draft, surroundings))),
                    |draft, (services, with_slices, settings)| {
                        node::look_up(draft, services, with_slices, *settings)
                    },
                    |draft, finds| node::resolve(draft, finds),
                    &mut findings,
                );
                StageOutput { values, findings }
            })
    }
}
