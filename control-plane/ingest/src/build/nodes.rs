//! The stages of virtual nodes: drafts and faces first, backends when the services are known.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, ResolvedNode, ResourceName};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{
    Drafts, Faces, ServiceFaces, Values,
    members::{DraftMemo, Members},
};
use crate::{
    directory::DirectoryMemo,
    inputs::{Inputs, SeenByOwner, Settings},
    node::{self, NodeDraft, NodeFinds},
    stage::{Findings, Once, Stage, Turned},
};

type Surroundings = (ServiceFaces, Arc<BTreeSet<ObjectRef>>, Settings);
type TurnInput = (Drafts<ResourceName, NodeDraft>, Surroundings);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct NodeMemo {
    drafts: DraftMemo<v1beta2::VirtualNode, NodeDraft>,
    directory: DirectoryMemo<ResourceName, NodeDraft>,
    slices: SeenByOwner<EndpointSlice>,
    with_slices: Arc<BTreeSet<ObjectRef>>,
    resolved: Stage<ResourceName, (Arc<NodeDraft>, Surroundings), ResolvedNode, NodeFinds>,
    turned: Once<TurnInput, Turned<ResourceName, ResolvedNode>>,
}

impl NodeMemo {
    pub(super) fn draft(
        &mut self,
        inputs: &Inputs,
        members: &Arc<Members>,
        findings: &mut Findings,
    ) -> (Drafts<ResourceName, NodeDraft>, Faces) {
        let named = self.drafts.turn(
            &inputs.virtual_nodes,
            members,
            |node| node.spec.mesh_ref.as_ref(),
            node::draft,
            findings,
        );
        let directory = self.directory.turn(&named.values, NodeDraft::face);
        (named, directory)
    }

    pub(super) fn resolve(
        &mut self,
        inputs: &Inputs,
        drafts: Drafts<ResourceName, NodeDraft>,
        services: ServiceFaces,
    ) -> Values<ResourceName, ResolvedNode> {
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
        self.turned
            .turn((drafts, surroundings), |(drafts, surroundings)| {
                let inputs = drafts.values.iter();
                let mut findings = Findings::new();
                let values = resolved.follow(
                    inputs.map(|(name, draft)| (name, (draft, surroundings))),
                    |draft, (services, with_slices, settings)| {
                        node::find(draft, services, with_slices, *settings)
                    },
                    |draft, finds| node::resolve(draft, finds),
                    &mut findings,
                );
                Turned { values, findings }
            })
    }
}
