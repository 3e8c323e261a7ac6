//! The stages of virtual gateways and gateway routes.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, ResolvedGateway, ResourceName};

use super::{
    ServiceFaces, Values,
    members::{DraftMemo, Members},
};
use crate::{
    gateway::{self, GatewayDraft, Gateways},
    gateway_route::{self, AttachedRoute, GatewayRouteDraft},
    inputs::{Inputs, Objects},
    membership::{Labels, Membership},
    stage::{Findings, Once, Stage, Turned},
};

type RouteInput = (
    Arc<v1beta2::GatewayRoute>,
    Arc<Membership>,
    Arc<Labels>,
    Arc<Gateways>,
);
type ResolveInput = (Arc<GatewayDraft>, Option<Vec<Arc<AttachedRoute>>>);
type Routes = Arc<Turned<ObjectRef, GatewayRouteDraft>>;
type RoutesInput = (Objects<v1beta2::GatewayRoute>, Arc<Members>, Arc<Gateways>);
type TurnInput = (Arc<Gateways>, Arc<Turned<ObjectRef, AttachedRoute>>);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct GatewayMemo {
    drafts: DraftMemo<v1beta2::VirtualGateway, GatewayDraft>,
    routes: Stage<ObjectRef, RouteInput, GatewayRouteDraft>,
    all_routes: Once<RoutesInput, Turned<ObjectRef, GatewayRouteDraft>>,
    attached: Stage<ObjectRef, (Arc<GatewayRouteDraft>, ServiceFaces), AttachedRoute>,
    all_attached: Once<(Routes, ServiceFaces), Turned<ObjectRef, AttachedRoute>>,
    resolved: Stage<ResourceName, ResolveInput, ResolvedGateway>,
    turned: Once<TurnInput, Turned<ResourceName, ResolvedGateway>>,
}

impl GatewayMemo {
    pub(super) fn turn(
        &mut self,
        inputs: &Inputs,
        members: &Arc<Members>,
        services: &ServiceFaces,
        findings: &mut Findings,
    ) -> Values<ResourceName, ResolvedGateway> {
        let named = self.drafts.turn(
            &inputs.virtual_gateways,
            members,
            |gateway| gateway.spec.mesh_ref.as_ref(),
            gateway::draft,
            findings,
        );
        let input = (
            Arc::clone(&inputs.gateway_routes),
            Arc::clone(members),
            Arc::clone(&named),
        );
        let stage = &mut self.routes;
        let routes = self.all_routes.turn(input, |(objects, members, gateways)| {
            draft_routes(objects, members, gateways, stage)
        });
        findings.extend(routes.findings.iter().cloned());
        let stage = &mut self.attached;
        let input = (routes, Arc::clone(services));
        let attached = self.all_attached.turn(input, |(routes, services)| {
            let inputs = routes
                .values
                .iter()
                .map(|(object, draft)| (object, (draft, services)));
            let mut findings = Findings::new();
            let values = stage.turn(
                inputs,
                |_, (draft, services)| gateway_route::resolve(draft, services),
                &mut findings,
            );
            Turned { values, findings }
        });
        findings.extend(attached.findings.iter().cloned());
        let resolved = &mut self.resolved;
        let turned = self.turned.turn((named, attached), |(named, attached)| {
            let mut groups: BTreeMap<&ResourceName, Vec<Arc<AttachedRoute>>> = BTreeMap::new();
            for route in attached.values.values() {
                let group = groups.entry(&route.gateway).or_default();
                group.push(Arc::clone(route));
            }
            let inputs = named
                .values
                .iter()
                .map(|(name, draft)| (name, (draft, groups.get(name))));
            let mut findings = Findings::new();
            let values = resolved.turn(
                inputs,
                |_, (draft, routes)| gateway::resolve(draft, routes.as_deref().unwrap_or_default()),
                &mut findings,
            );
            Turned { values, findings }
        });
        findings.extend(turned.findings.iter().cloned());
        turned
    }
}

fn draft_routes(
    objects: &Objects<v1beta2::GatewayRoute>,
    members: &Members,
    gateways: &Arc<Gateways>,
    stage: &mut Stage<ObjectRef, RouteInput, GatewayRouteDraft>,
) -> Turned<ObjectRef, GatewayRouteDraft> {
    let inputs = members
        .of(objects, |route| route.spec.mesh_ref.as_ref())
        .map(|(object, (route, membership))| {
            let labels = &members.labels[&object.namespace];
            (object, (route, membership, labels, gateways))
        });
    let mut findings = Findings::new();
    let values = stage.turn(
        inputs,
        |object, (route, membership, labels, gateways)| {
            gateway_route::draft(object, route, membership, labels, gateways)
        },
        &mut findings,
    );
    Turned { values, findings }
}
