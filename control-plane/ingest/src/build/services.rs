//! The stages of virtual services.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{ResolvedService, ResourceName, ServiceName};

use super::{
    Drafts, Faces, ServiceFaces, Values,
    members::{DraftMemo, Members},
};
use crate::{
    directory::{DirectoryMemo, Found},
    inputs::Inputs,
    service::{self, ServiceDraft},
    stage::{Findings, Once, Stage, Turned},
};

type Provider = Option<Found<ResourceName>>;
type Input = (Arc<ServiceDraft>, (Faces, Faces));
type TurnInput = (Drafts<ServiceName, ServiceDraft>, (Faces, Faces));

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct ServiceMemo {
    drafts: DraftMemo<v1beta2::VirtualService, ServiceDraft>,
    resolved: Stage<ServiceName, Input, ResolvedService, Provider>,
    turned: Once<TurnInput, Turned<ServiceName, ResolvedService>>,
    directory: DirectoryMemo<ServiceName, ResolvedService>,
}

impl ServiceMemo {
    pub(super) fn turn(
        &mut self,
        inputs: &Inputs,
        members: &Arc<Members>,
        (nodes, routers): (&Faces, &Faces),
        findings: &mut Findings,
    ) -> (Values<ServiceName, ResolvedService>, ServiceFaces) {
        let named = self.drafts.turn(
            &inputs.virtual_services,
            members,
            |service| service.spec.mesh_ref.as_ref(),
            service::draft,
            findings,
        );
        let resolved = &mut self.resolved;
        let surroundings = (Arc::clone(nodes), Arc::clone(routers));
        let turned = self
            .turned
            .turn((named, surroundings), |(named, surroundings)| {
                let inputs = named.values.iter();
                let mut findings = Findings::new();
                let values = resolved.follow(
                    inputs.map(|(name, draft)| (name, (draft, surroundings))),
                    |draft, (nodes, routers)| service::find(draft, nodes, routers),
                    |draft, found| service::resolve(draft, found.as_ref()),
                    &mut findings,
                );
                Turned { values, findings }
            });
        findings.extend(turned.findings.iter().cloned());
        let directory = self.directory.turn(&turned.values, service::face);
        (turned, directory)
    }
}
