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
    router::{self, UnresolvedRouter},
    stage::{CachedValue, KeyedStage, ProblemLists, Problems, StageOutput, WithProblems},
};

/// The `Route` objects of one router that can be read.
type Group = Vec<Arc<UnresolvedRoute>>;
type Input = ((Arc<UnresolvedRouter>, Option<Arc<Group>>), ResourceIndex);
type TurnInput = (
    UnresolvedByName<ResourceName, UnresolvedRouter>,
    WeakObjectsByOwner<extension::Route>,
    ResourceIndex,
);

/// The routers that count by object, ascending, with their places among all by name: `Route` objects name the object.
type Places = Vec<(ObjectRef, usize)>;

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct RouterMemo {
    drafts: UnresolvedMemo<v1beta2::VirtualRouter, UnresolvedRouter>,
    work: RouterStages,
    output: CachedValue<TurnInput, StageOutput<ResourceName, ResolvedRouter>>,
    directory: NameIndexMemo<ResourceName, ResolvedRouter>,
}

#[derive(Debug, Default)]
struct RouterStages {
    places: CachedValue<UnresolvedByName<ResourceName, UnresolvedRouter>, Places>,
    groups: KeyedStage<ObjectRef, ObjectMap<extension::Route>, Group>,
    resolved: KeyedStage<ResourceName, Input, ResolvedRouter, route::TargetLookups>,
    orphans: KeyedStage<ObjectRef, ObjectMap<extension::Route>, ()>,
}

impl RouterMemo {
    pub(super) fn update(
        &mut self,
        inputs: &Inputs,
        members: &Arc<MembershipIndex>,
        nodes: &ResourceIndex,
        findings: &mut ProblemLists,
    ) -> (SharedOutput<ResourceName, ResolvedRouter>, ResourceIndex) {
        let named = self.drafts.update(
            &inputs.virtual_routers,
            members,
            |router| router.spec.mesh_ref.as_ref(),
            router::parse,
            findings,
        );
        let routes = inputs.routes.by_owner();
        let work = &mut self.work;
        let output = self.output.update(
            (named, Arc::downgrade(routes), Arc::clone(nodes)),
            |(named, _, nodes)| work.update(named, routes, nodes),
        );
        findings.extend(output.findings.iter().cloned());
        let directory = self.directory.update(&output.values, router::index_entry);
        (output, directory)
    }
}

impl RouterStages {
    fn update(
        &mut self,
        named: &UnresolvedByName<ResourceName, UnresolvedRouter>,
        routes: &ObjectsByOwner<extension::Route>,
        nodes: &ResourceIndex,
    ) -> StageOutput<ResourceName, ResolvedRouter> {
        let mut findings = ProblemLists::new();
        let groups = self.groups.update(
            &**routes,
            |_, routes| {
                let routes = routes.iter();
                WithProblems::all(routes.map(|(object, route)| route::parse(object, route)))
            },
            &mut findings,
        );
        let places = self.places.update(Arc::clone(named), places);
        let mut of_router = vec![None; places.len()];
        let mut orphans = Vec::new();
        let mut places = places.iter().peekable();
        for ((router, routes), group) in routes.iter().zip(groups.values()) {
            while places
                .next_if(|(passed, _)| passed != router && passed < router)
                .is_some()
            {}
            match places.next_if(|(found, _)| found == router) {
                Some((_, place)) => of_router[*place] = Some(group),
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
            &mut findings,
        );
        let inputs = named.values.iter().zip(of_router);
        let values = self.resolved.update_with_lookup(
            inputs.map(|((name, draft), group)| (name, ((draft, group), nodes))),
            |(draft, group), nodes| router::look_up(draft, objects(group.as_ref()), nodes),
            |(draft, group), finds| router::resolve(draft, objects(group.as_ref()), finds),
            &mut findings,
        );
        StageOutput { values, findings }
    }
}

fn places(named: &UnresolvedByName<ResourceName, UnresolvedRouter>) -> Places {
    let drafts = named.values.values().enumerate();
    let mut places: Places = drafts
        .map(|(place, draft)| (draft.object().clone(), place))
        .collect();
    places.sort();
    places
}

fn objects(group: Option<&Arc<Group>>) -> &[Arc<UnresolvedRoute>] {
    group.map_or(&[], |group| group.as_slice())
}
