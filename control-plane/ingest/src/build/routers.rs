//! The stages of virtual routers and `Route` objects.

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{ObjectRef, ResolvedRouter, ResourceName};

use super::{
    ResourceIndex, SharedOutput, UnresolvedByName,
    members::{MembershipIndex, UnresolvedMemo},
};
use crate::{
    inputs::{Inputs, ObjectMap, ObjectsByOwner, WeakObjectsByOwner},
    name_index::NameIndexMemo,
    route::{self, UnresolvedRoute},
    router::{self, RouterLookups, UnresolvedRouter},
    seniority::Contender as _,
    stage::{CachedValue, KeyedStage, ProblemLists, Problems, StageOutput, WithProblems},
};

/// The valid `Route` objects of one router.
type RouteGroup = Vec<Arc<UnresolvedRoute>>;
/// The nodes to which routes refer, and the namespaces of `Route` objects.
type LookupContext = (ResourceIndex, Arc<MembershipIndex>);
type ResolveInput = (
    (Arc<UnresolvedRouter>, Option<Arc<RouteGroup>>),
    LookupContext,
);
type StageInput = (
    UnresolvedByName<ResourceName, UnresolvedRouter>,
    WeakObjectsByOwner<extension::Route>,
    LookupContext,
);

/// The routers in ascending order of their objects, with their positions in the order of names. `Route` objects refer to
/// the object of a router, while the stage is keyed by name.
type RouterPositions = Vec<(ObjectRef, usize)>;

/// Memo of these stages.
#[derive(Debug, Default)]
pub(super) struct RouterMemo {
    unresolved: UnresolvedMemo<v1beta2::VirtualRouter, UnresolvedRouter>,
    stages: RouterStages,
    output: CachedValue<StageInput, StageOutput<ResourceName, ResolvedRouter>>,
    index: NameIndexMemo<ResourceName, UnresolvedRouter, ResolvedRouter>,
}

#[derive(Debug, Default)]
struct RouterStages {
    positions: CachedValue<UnresolvedByName<ResourceName, UnresolvedRouter>, RouterPositions>,
    groups: KeyedStage<ObjectRef, ObjectMap<extension::Route>, RouteGroup>,
    resolved: KeyedStage<ResourceName, ResolveInput, ResolvedRouter, RouterLookups>,
    orphans: KeyedStage<ObjectRef, ObjectMap<extension::Route>, ()>,
}

impl RouterMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        nodes: &ResourceIndex,
        problems: &mut ProblemLists,
    ) -> (SharedOutput<ResourceName, ResolvedRouter>, ResourceIndex) {
        let by_name = self.unresolved.update(
            &inputs.virtual_routers,
            members,
            |router| router.spec.mesh_ref.as_ref(),
            router::parse,
            problems,
        );
        let routes = inputs.routes.by_owner();
        let context = (Arc::clone(nodes), Arc::clone(members));
        let stages = &mut self.stages;
        let output = self.output.update(
            (Arc::clone(&by_name), Arc::downgrade(routes), context),
            |(by_name, _, context)| stages.update(by_name, routes, context),
        );
        problems.extend(output.problems.iter().cloned());
        let index = self
            .index
            .update(&by_name.values, &output.values, router::index_entry);
        (output, index)
    }
}

impl RouterStages {
    fn update(
        &mut self,
        by_name: &UnresolvedByName<ResourceName, UnresolvedRouter>,
        routes: &ObjectsByOwner<extension::Route>,
        context: &LookupContext,
    ) -> StageOutput<ResourceName, ResolvedRouter> {
        let mut problems = ProblemLists::new();
        let groups = self.groups.update(
            &**routes,
            |_, routes| {
                let routes = routes.iter();
                WithProblems::all(routes.map(|(object, route)| route::parse(object, route)))
            },
            &mut problems,
        );
        let positions = if routes.is_empty() {
            Arc::default()
        } else {
            self.positions.update(Arc::clone(by_name), positions)
        };
        let mut of_router = vec![None; by_name.values.len()];
        let mut orphans = Vec::new();
        let mut positions = positions.iter().peekable();
        for ((router, routes), group) in routes.iter().zip(groups.values()) {
            while positions
                .next_if(|(router_before, _)| router_before < router)
                .is_some()
            {}
            match positions.next_if(|(found, _)| found == router) {
                Some((_, position)) => of_router[*position] = Some(group),
                None => orphans.push((router, routes)),
            }
        }
        self.orphans.update(
            orphans,
            |router, routes| {
                let mut problems = Problems::of(router);
                let routes = routes.keys();
                problems.extend(routes.map(|route| route::without_router(route, router)));
                WithProblems::new(None, problems)
            },
            &mut problems,
        );
        let inputs = by_name.values.iter().zip(of_router);
        let values = self.resolved.update_with_lookup(
            inputs.map(|((name, unresolved), group)| (name, ((unresolved, group), context))),
            |(unresolved, group), (nodes, members)| {
                router::look_up(unresolved, objects(group.as_ref()), nodes, |namespace| {
                    members.of_routes(namespace)
                })
            },
            |(unresolved, group), lookups| {
                router::resolve(unresolved, objects(group.as_ref()), lookups)
            },
            &mut problems,
        );
        StageOutput { values, problems }
    }
}

fn positions(by_name: &UnresolvedByName<ResourceName, UnresolvedRouter>) -> RouterPositions {
    let unresolved = by_name.values.values().enumerate();
    let mut positions: RouterPositions = unresolved
        .map(|(position, unresolved)| (unresolved.object().clone(), position))
        .collect();
    positions.sort();
    positions
}

fn objects(group: Option<&Arc<RouteGroup>>) -> &[Arc<UnresolvedRoute>] {
    group.map_or(&[], |group| group.as_slice())
}
