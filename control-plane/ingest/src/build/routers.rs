//! The stages of virtual routers and `Route` objects.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{Memo, ObjectRef, ResourceName, VirtualRouter};

use super::{
    Drafts, Faces, Values, directory,
    members::{DraftMemo, Members},
};
use crate::{
    directory::{Directory, Face},
    inputs::{ByOwner, Inputs, Owned},
    route::{self, RouteDraft},
    router::{self, RouterDraft},
    stage::{Checked, Findings, Once, Problems, Stage, Turned},
};

/// `Route` objects by the router they belong to.
type RouteGroups = BTreeMap<ObjectRef, Vec<Arc<RouteDraft>>>;
type FindInput = (Arc<RouterDraft>, Vec<Arc<RouteDraft>>, Faces);
type Finds = Memo<ResourceName, FindInput, Arc<route::Nodes>>;
type ResolveInput = (Arc<RouterDraft>, Vec<Arc<RouteDraft>>, Arc<route::Nodes>);
type Resolved = Stage<ResourceName, ResolveInput, VirtualRouter>;
type TurnInput = (Drafts<ResourceName, RouterDraft>, Arc<Grouped>, Faces);

type Routes = Stage<(ObjectRef, ObjectRef), Arc<extension::Route>, RouteDraft>;

/// All `Route` objects that can be read, and the problems of all.
#[derive(Debug, PartialEq)]
struct Grouped {
    groups: RouteGroups,
    findings: Findings,
}

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct RouterMemo {
    routes: Routes,
    grouped: Once<ByOwner<extension::Route>, Grouped>,
    drafts: DraftMemo<v1beta2::VirtualRouter, RouterDraft>,
    finds: Finds,
    resolved: Resolved,
    turned: Once<TurnInput, Turned<ResourceName, VirtualRouter>>,
    faces: Memo<ResourceName, Arc<VirtualRouter>, Arc<Face<ResourceName>>>,
    directory: Once<Values<ResourceName, VirtualRouter>, Directory<ResourceName>>,
    orphans: Stage<(ObjectRef, ObjectRef), (), ()>,
}

impl RouterMemo {
    pub(super) fn turn(
        &mut self,
        inputs: &Inputs,
        members: &Arc<Members>,
        nodes: &Faces,
        findings: &mut Findings,
    ) -> (Values<ResourceName, VirtualRouter>, Faces) {
        let named = self.drafts.turn(
            &inputs.virtual_routers,
            members,
            |router| router.spec.mesh_ref.as_ref(),
            router::draft,
            findings,
        );
        let routes = &mut self.routes;
        let by_router = inputs.routes.by_owner();
        let grouped = self
            .grouped
            .turn(Arc::clone(by_router), |by_router| group(by_router, routes));
        findings.extend(grouped.findings.iter().cloned());
        let (finds, resolved) = (&mut self.finds, &mut self.resolved);
        let turned = self.turned.turn(
            (named, grouped, Arc::clone(nodes)),
            |(named, grouped, nodes)| {
                resolve_routers(named, &grouped.groups, nodes, finds, resolved)
            },
        );
        findings.extend(turned.findings.iter().cloned());
        let faces = &mut self.faces;
        let directory = self.directory.turn(Arc::clone(&turned), |turned| {
            directory(faces, &turned.values, router::face)
        });
        self.report_orphans(&inputs.routes, &directory, findings);
        (turned, directory)
    }

    /// `Route` objects whose router is not there. Both sides come in order.
    fn report_orphans(
        &mut self,
        routes: &Owned<extension::Route>,
        served: &Directory<ResourceName>,
        findings: &mut Findings,
    ) {
        let mut known = served.objects().peekable();
        let orphans = routes
            .by_owner()
            .iter()
            .filter(|(router, _)| {
                while known.next_if(|known| *known < *router).is_some() {}
                known.peek() != Some(router)
            })
            .flat_map(|(router, routes)| {
                routes
                    .keys()
                    .map(|route| ((router.clone(), route.clone()), ()))
            });
        self.orphans.turn(
            orphans,
            |(router, route), ()| {
                let mut problems = Problems::of(route);
                problems.extend([route::without_router(route, router)]);
                Checked::new(None, problems)
            },
            findings,
        );
    }
}

/// Reads all `Route` objects.
fn group(by_router: &ByOwner<extension::Route>, routes: &mut Routes) -> Grouped {
    let objects = by_router.iter().flat_map(|(router, routes)| {
        routes
            .iter()
            .map(|(object, route)| ((router.clone(), object.clone()), Arc::clone(route)))
    });
    let mut findings = Findings::new();
    let drafts = routes.turn(
        objects,
        |(_, object), route| route::draft(object, route),
        &mut findings,
    );
    let mut groups: Vec<(ObjectRef, Vec<Arc<RouteDraft>>)> = Vec::new();
    for ((router, _), draft) in drafts {
        match groups.last_mut() {
            Some((last, group)) if *last == router => group.push(draft),
            _ => groups.push((router, vec![draft])),
        }
    }
    Grouped {
        groups: groups.into_iter().collect(),
        findings,
    }
}

fn resolve_routers(
    named: &Drafts<ResourceName, RouterDraft>,
    groups: &RouteGroups,
    nodes: &Faces,
    finds: &mut Finds,
    resolved: &mut Resolved,
) -> Turned<ResourceName, VirtualRouter> {
    let work: Vec<_> = named
        .values
        .iter()
        .map(|(name, draft)| {
            let routes = groups.get(draft.object()).cloned().unwrap_or_default();
            (name, draft, routes)
        })
        .collect();
    let inputs = work.iter().map(|(name, draft, routes)| {
        let input = (Arc::clone(draft), routes.clone(), Arc::clone(nodes));
        ((*name).clone(), input)
    });
    let finds = finds.turn(inputs, |_, (draft, routes, nodes)| {
        router::find(draft, routes, nodes)
    });
    let inputs = work
        .into_iter()
        .zip(finds)
        .map(|((_, draft, routes), (name, finds))| (name, (Arc::clone(draft), routes, finds)));
    let mut findings = Findings::new();
    let values = resolved.turn(
        inputs,
        |_, (draft, routes, finds)| router::resolve(draft, routes, finds),
        &mut findings,
    );
    Turned { values, findings }
}
