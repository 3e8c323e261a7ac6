//! The stages of virtual gateways and gateway routes.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, ResolvedGateway, ResourceName};

use super::{
    ServiceIndex, SharedOutput,
    members::{MembershipIndex, UnresolvedMemo},
};
use crate::{
    gateway::{self, GatewaysByName, UnresolvedGateway},
    gateway_route::{self, AttachedRoute, UnresolvedGatewayRoute},
    inputs::{Inputs, ObjectMap},
    membership::{Labels, Membership},
    stage::{CachedValue, KeyedStage, ProblemLists, StageOutput},
};

type RouteInput = (
    Arc<v1beta2::GatewayRoute>,
    Arc<Membership>,
    Arc<Labels>,
    Arc<GatewaysByName>,
);
type ResolveInput = (Arc<UnresolvedGateway>, Option<Vec<Arc<AttachedRoute>>>);
type Routes = Arc<StageOutput<ObjectRef, UnresolvedGatewayRoute>>;
type RoutesInput = (
    ObjectMap<v1beta2::GatewayRoute>,
    Arc<MembershipIndex>,
    Arc<GatewaysByName>,
);
type StageInput = (
    Arc<GatewaysByName>,
    Arc<StageOutput<ObjectRef, AttachedRoute>>,
);

/// Memo of these stages.
#[derive(Debug, Default)]
pub(super) struct GatewayMemo {
    unresolved: UnresolvedMemo<v1beta2::VirtualGateway, UnresolvedGateway>,
    routes: KeyedStage<ObjectRef, RouteInput, UnresolvedGatewayRoute>,
    all_routes: CachedValue<RoutesInput, StageOutput<ObjectRef, UnresolvedGatewayRoute>>,
    attached: KeyedStage<ObjectRef, (Arc<UnresolvedGatewayRoute>, ServiceIndex), AttachedRoute>,
    all_attached: CachedValue<(Routes, ServiceIndex), StageOutput<ObjectRef, AttachedRoute>>,
    resolved: KeyedStage<ResourceName, ResolveInput, ResolvedGateway>,
    output: CachedValue<StageInput, StageOutput<ResourceName, ResolvedGateway>>,
}

impl GatewayMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        services: &ServiceIndex,
        problems: &mut ProblemLists,
    ) -> SharedOutput<ResourceName, ResolvedGateway> {
        let by_name = self.unresolved.update(
            &inputs.virtual_gateways,
            members,
            |gateway| gateway.spec.mesh_ref.as_ref(),
            gateway::parse,
            problems,
        );
        let input = (
            Arc::clone(&inputs.gateway_routes),
            Arc::clone(members),
            Arc::clone(&by_name),
        );
        let stage = &mut self.routes;
        let routes = self
            .all_routes
            .update(input, |(objects, members, gateways)| {
                parse_routes(objects, members, gateways, stage)
            });
        problems.extend(routes.problems.iter().cloned());
        let stage = &mut self.attached;
        let input = (routes, Arc::clone(services));
        let attached = self.all_attached.update(input, |(routes, services)| {
            let inputs = routes
                .values
                .iter()
                .map(|(object, unresolved)| (object, (unresolved, services)));
            let mut problems = ProblemLists::new();
            let values = stage.update(
                inputs,
                |_, (unresolved, services)| gateway_route::resolve(unresolved, services),
                &mut problems,
            );
            StageOutput { values, problems }
        });
        problems.extend(attached.problems.iter().cloned());
        let resolved = &mut self.resolved;
        let output = self
            .output
            .update((by_name, attached), |(by_name, attached)| {
                let mut groups: BTreeMap<&ResourceName, Vec<Arc<AttachedRoute>>> = BTreeMap::new();
                for route in attached.values.values() {
                    let group = groups.entry(&route.gateway).or_default();
                    group.push(Arc::clone(route));
                }
                let inputs = by_name
                    .values
                    .iter()
                    .map(|(name, unresolved)| (name, (unresolved, groups.get(name))));
                let mut problems = ProblemLists::new();
                let values = resolved.update(
                    inputs,
                    |_, (unresolved, routes)| {
                        gateway::resolve(unresolved, routes.as_deref().unwrap_or_default())
                    },
                    &mut problems,
                );
                StageOutput { values, problems }
            });
        problems.extend(output.problems.iter().cloned());
        output
    }
}

fn parse_routes(
    objects: &ObjectMap<v1beta2::GatewayRoute>,
    members: &MembershipIndex,
    gateways: &Arc<GatewaysByName>,
    stage: &mut KeyedStage<ObjectRef, RouteInput, UnresolvedGatewayRoute>,
) -> StageOutput<ObjectRef, UnresolvedGatewayRoute> {
    let inputs = members
        .of(objects, |route| route.spec.mesh_ref.as_ref())
        .map(|(object, (route, membership))| {
            let labels = &members.labels[&object.namespace];
            (object, (route, membership, labels, gateways))
        });
    let mut problems = ProblemLists::new();
    let values = stage.update(
        inputs,
        |object, (route, membership, labels, gateways)| {
            gateway_route::parse(object, route, membership, labels, gateways)
        },
        &mut problems,
    );
    StageOutput { values, problems }
}
