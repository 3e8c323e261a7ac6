//! The stages of virtual nodes: drafts and faces first, backends when the services are known.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Memo, ObjectRef, ResourceName, VirtualNode};

use super::{
    Drafts, Faces, ServiceFaces, Values, directory,
    members::{DraftMemo, Members},
};
use crate::{
    directory::{Directory, Face},
    inputs::{Inputs, Settings},
    node::{self, NodeDraft, NodeFinds},
    stage::{Findings, Once, Stage, Turned},
};

type FindInput = (
    Arc<NodeDraft>,
    ServiceFaces,
    Arc<BTreeSet<ObjectRef>>,
    Settings,
);
type TurnInput = (
    Drafts<ResourceName, NodeDraft>,
    ServiceFaces,
    Arc<BTreeSet<ObjectRef>>,
    Settings,
);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct NodeMemo {
    drafts: DraftMemo<v1beta2::VirtualNode, NodeDraft>,
    faces: Memo<ResourceName, Arc<NodeDraft>, Arc<Face<ResourceName>>>,
    directory: Once<Drafts<ResourceName, NodeDraft>, Directory<ResourceName>>,
    with_slices: Arc<BTreeSet<ObjectRef>>,
    finds: Memo<ResourceName, FindInput, Arc<NodeFinds>>,
    resolved: Stage<ResourceName, (Arc<NodeDraft>, Arc<NodeFinds>), VirtualNode>,
    turned: Once<TurnInput, Turned<ResourceName, VirtualNode>>,
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
        let faces = &mut self.faces;
        let directory = self.directory.turn(Arc::clone(&named), |named| {
            directory(faces, &named.values, NodeDraft::face)
        });
        (named, directory)
    }

    pub(super) fn resolve(
        &mut self,
        inputs: &Inputs,
        drafts: Drafts<ResourceName, NodeDraft>,
        services: ServiceFaces,
    ) -> Values<ResourceName, VirtualNode> {
        let with_slices = inputs.endpoint_slices.by_owner().keys();
        if !self.with_slices.iter().eq(with_slices.clone()) {
            self.with_slices = Arc::new(with_slices.cloned().collect());
        }
        let (finds, resolved) = (&mut self.finds, &mut self.resolved);
        self.turned.turn(
            (
                drafts,
                services,
                Arc::clone(&self.with_slices),
                inputs.settings,
            ),
            |(drafts, services, with_slices, settings)| {
                let inputs = drafts.values.iter().map(|(name, draft)| {
                    let input = (
                        Arc::clone(draft),
                        Arc::clone(services),
                        Arc::clone(with_slices),
                        *settings,
                    );
                    (name.clone(), input)
                });
                let finds = finds.turn(inputs, |_, (draft, services, with_slices, settings)| {
                    node::find(draft, services, with_slices, *settings)
                });
                let inputs = drafts
                    .values
                    .values()
                    .zip(finds)
                    .map(|(draft, (name, finds))| (name, (Arc::clone(draft), finds)));
                let mut findings = Findings::new();
                let values = resolved.turn(
                    inputs,
                    |_, (draft, finds)| node::resolve(draft, finds),
                    &mut findings,
                );
                Turned { values, findings }
            },
        )
    }
}
