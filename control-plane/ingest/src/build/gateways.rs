//! The stages of virtual gateways and gateway routes.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, ResourceName, VirtualGateway};

use super::{ServiceFaces, Values, members::Members, report};
use crate::{
    directory::ByName,
    gateway::{self, GatewayDraft, Gateways},
    gateway_route::{self, AttachedRoute, GatewayRouteDraft},
    inputs::Inputs,
    membership::{Labels, Membership},
    stage::{Findings, Once, Stage, Turned},
};

type DraftInput = (Arc<v1beta2::VirtualGateway>, Arc<Membership>);
type RouteInput = (
    Arc<v1beta2::GatewayRoute>,
    Arc<Membership>,
    Arc<Labels>,
    Arc<Gateways>,
);
type ResolveInput = (Arc<GatewayDraft>, Vec<Arc<AttachedRoute>>);
type TurnInput = (Arc<Gateways>, BTreeMap<ObjectRef, Arc<AttachedRoute>>);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct GatewayMemo {
    drafts: Stage<ObjectRef, DraftInput, GatewayDraft>,
    named: Once<BTreeMap<ObjectRef, Arc<GatewayDraft>>, Gateways>,
    routes: Stage<ObjectRef, RouteInput, GatewayRouteDraft>,
    attached: Stage<ObjectRef, (Arc<GatewayRouteDraft>, ServiceFaces), AttachedRoute>,
    resolved: Stage<ResourceName, ResolveInput, VirtualGateway>,
    turned: Once<TurnInput, Turned<ResourceName, VirtualGateway>>,
}

impl GatewayMemo {
    pub(super) fn turn(
        &mut self,
        inputs: &Inputs,
        members: &Members,
        services: &ServiceFaces,
        findings: &mut Findings,
    ) -> Values<ResourceName, VirtualGateway> {
        let objects = members.of(&inputs.virtual_gateways, |gateway| {
            gateway.spec.mesh_ref.as_ref()
        });
        let drafts = self.drafts.turn(
            objects,
            |object, (gateway, membership)| gateway::draft(object, gateway, membership),
            findings,
        );
        let named = self.named.turn(drafts, ByName::new);
        report(&named, findings);
        let objects = members
            .of(&inputs.gateway_routes, |route| route.spec.mesh_ref.as_ref())
            .map(|(object, (route, membership))| {
                let labels = Arc::clone(&members.labels[&object.namespace]);
                (object, (route, membership, labels, Arc::clone(&named)))
            });
        let routes = self.routes.turn(
            objects,
            |object, (route, membership, labels, gateways)| {
                gateway_route::draft(object, route, membership, labels, gateways)
            },
            findings,
        );
        let inputs = routes
            .into_iter()
            .map(|(object, draft)| (object, (draft, Arc::clone(services))));
        let attached = self.attached.turn(
            inputs,
            |_, (draft, services)| gateway_route::resolve(draft, services),
            findings,
        );
        let resolved = &mut self.resolved;
        let turned = self.turned.turn((named, attached), |(named, attached)| {
            let mut groups: BTreeMap<&ResourceName, Vec<Arc<AttachedRoute>>> = BTreeMap::new();
            for route in attached.values() {
                let group = groups.entry(&route.gateway).or_default();
                group.push(Arc::clone(route));
            }
            let inputs = named.values.iter().map(|(name, draft)| {
                let routes = groups.remove(name).unwrap_or_default();
                (name.clone(), (Arc::clone(draft), routes))
            });
            let mut findings = Findings::new();
            let values = resolved.turn(
                inputs,
                |_, (draft, routes)| gateway::resolve(draft, routes),
                &mut findings,
            );
            Turned { values, findings }
        });
        findings.extend(turned.findings.iter().cloned());
        turned
    }
}
