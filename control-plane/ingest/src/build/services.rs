//! The stages of virtual services.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{Memo, ResourceName, ServiceName, VirtualService};

use super::{
    Drafts, Faces, ServiceFaces, Values, directory,
    members::{DraftMemo, Members},
};
use crate::{
    directory::{Directory, Face, Found},
    inputs::Inputs,
    service::{self, ServiceDraft},
    stage::{Findings, Once, Stage, Turned},
};

type Provider = Option<Found<ResourceName>>;
type TurnInput = (Drafts<ServiceName, ServiceDraft>, Faces, Faces);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct ServiceMemo {
    drafts: DraftMemo<v1beta2::VirtualService, ServiceDraft>,
    finds: Memo<ServiceName, (Arc<ServiceDraft>, Faces, Faces), Arc<Provider>>,
    resolved: Stage<ServiceName, (Arc<ServiceDraft>, Arc<Provider>), VirtualService>,
    turned: Once<TurnInput, Turned<ServiceName, VirtualService>>,
    faces: Memo<ServiceName, Arc<VirtualService>, Arc<Face<ServiceName>>>,
    directory: Once<Values<ServiceName, VirtualService>, Directory<ServiceName>>,
}

impl ServiceMemo {
    pub(super) fn turn(
        &mut self,
        inputs: &Inputs,
        members: &Arc<Members>,
        (nodes, routers): (&Faces, &Faces),
        findings: &mut Findings,
    ) -> (Values<ServiceName, VirtualService>, ServiceFaces) {
        let named = self.drafts.turn(
            &inputs.virtual_services,
            members,
            |service| service.spec.mesh_ref.as_ref(),
            service::draft,
            findings,
        );
        let (finds, resolved) = (&mut self.finds, &mut self.resolved);
        let turned = self.turned.turn(
            (named, Arc::clone(nodes), Arc::clone(routers)),
            |(named, nodes, routers)| {
                let inputs = named.values.iter().map(|(name, draft)| {
                    let input = (Arc::clone(draft), Arc::clone(nodes), Arc::clone(routers));
                    (name.clone(), input)
                });
                let finds = finds.turn(inputs, |_, (draft, nodes, routers)| {
                    service::find(draft, nodes, routers)
                });
                let inputs = named
                    .values
                    .values()
                    .zip(finds)
                    .map(|(draft, (name, found))| (name, (Arc::clone(draft), found)));
                let mut findings = Findings::new();
                let values = resolved.turn(
                    inputs,
                    |_, (draft, found)| service::resolve(draft, found.as_ref().as_ref()),
                    &mut findings,
                );
                Turned { values, findings }
            },
        );
        findings.extend(turned.findings.iter().cloned());
        let faces = &mut self.faces;
        let directory = self.directory.turn(Arc::clone(&turned), |turned| {
            directory(faces, &turned.values, service::face)
        });
        (turned, directory)
    }
}
