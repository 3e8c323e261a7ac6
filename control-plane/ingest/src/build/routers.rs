//! The stages of virtual routers and `Route` objects.

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{ObjectRef, ResolvedRouter, ResourceName};

use super::{
    Drafts, Faces, Values,
    members::{DraftMemo, Members},
};
use crate::{
    directory::DirectoryMemo,
    inputs::{ByOwner, Inputs, Objects, SeenByOwner},
    route::{self, RouteDraft},
    router::{self, RouterDraft},
    stage::{Checked, Findings, Once, Problems, Stage, Turned},
};

/// The `Route` objects of one router that can be read.
type Group = Vec<Arc<RouteDraft>>;
type Input = ((Arc<RouterDraft>, Option<Arc<Group>>), Faces);
type TurnInput = (
    Drafts<ResourceName, RouterDraft>,
    SeenByOwner<extension::Route>,
    Faces,
);

/// The routers that count by object, ascending, with their places among all by name: `Route` objects name the object.
type Places = Vec<(ObjectRef, usize)>;

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct RouterMemo {
    drafts: DraftMemo<v1beta2::VirtualRouter, RouterDraft>,
    work: Work,
    turned: Once<TurnInput, Turned<ResourceName, ResolvedRouter>>,
    directory: DirectoryMemo<ResourceName, ResolvedRouter>,
}

#[derive(Debug, Default)]
struct Work {
    places: Once<Drafts<ResourceName, RouterDraft>, Places>,
    groups: Stage<ObjectRef, Objects<extension::Route>, Group>,
    resolved: Stage<ResourceName, Input, ResolvedRouter, route::Nodes>,
    orphans: Stage<ObjectRef, Objects<extension::Route>, ()>,
}

impl RouterMemo {
    pub(super) fn turn(
        &mut self,
        inputs: &Inputs,
        members: &Arc<Members>,
        nodes: &Faces,
        findings: &mut Findings,
    ) -> (Values<ResourceName, ResolvedRouter>, Faces) {
        let named = self.drafts.turn(
            &inputs.virtual_routers,
            members,
            |router| router.spec.mesh_ref.as_ref(),
            router::draft,
            findings,
        );
        let routes = inputs.routes.by_owner();
        let work = &mut self.work;
        let turned = self.turned.turn(
            (named, Arc::downgrade(routes), Arc::clone(nodes)),
            |(named, _, nodes)| work.turn(named, routes, nodes),
        );
        findings.extend(turned.findings.iter().cloned());
        let directory = self.directory.turn(&turned.values, router::face);
        (turned, directory)
    }
}

impl Work {
    fn turn(
        &mut self,
        named: &Drafts<ResourceName, RouterDraft>,
        routes: &ByOwner<extension::Route>,
        nodes: &Faces,
    ) -> Turned<ResourceName, ResolvedRouter> {
        let mut findings = Findings::new();
        let groups = self.groups.turn(
            &**routes,
            |_, routes| {
                let routes = routes.iter();
                Checked::all(routes.map(|(object, route)| route::draft(object, route)))
            },
            &mut findings,
        );
        let places = self.places.turn(Arc::clone(named), places);
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
        self.orphans.turn(
            orphans,
            |router, routes| {
                let mut problems = Problems::of(router);
                let routes = routes.keys();
                problems.extend(routes.map(|route| route::without_router(route, router)));
                Checked::new(None, problems)
            },
            &mut findings,
        );
        let inputs = named.values.iter().zip(of_router);
        let values = self.resolved.follow(
            inputs.map(|((name, draft), group)| (name, ((draft, group), nodes))),
            |(draft, group), nodes| router::find(draft, objects(group.as_ref()), nodes),
            |(draft, group), finds| router::resolve(draft, objects(group.as_ref()), finds),
            &mut findings,
        );
        Turned { values, findings }
    }
}

fn places(named: &Drafts<ResourceName, RouterDraft>) -> Places {
    let drafts = named.values.values().enumerate();
    let mut places: Places = drafts
        .map(|(place, draft)| (draft.object().clone(), place))
        .collect();
    places.sort();
    places
}

fn objects(group: Option<&Arc<Group>>) -> &[Arc<RouteDraft>] {
    group.map_or(&[], |group| group.as_slice())
}
