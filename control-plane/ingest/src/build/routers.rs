//! The stages of virtual routers and `Route` objects.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{Memo, ObjectRef, ResourceName, VirtualRouter};

use super::{Drafts, Faces, Values, directory, members::Members, report};
use crate::{
    directory::{ByName, Directory, Face},
    inputs::{Inputs, Owned},
    membership::Membership,
    route::{self, RouteDraft},
    router::{self, RouterDraft},
    stage::{Checked, Findings, Once, Problems, Stage, Turned},
};

type DraftInput = (Arc<v1beta2::VirtualRouter>, Arc<Membership>);
/// `Route` objects by the router they belong to.
type RouteGroups = BTreeMap<ObjectRef, Vec<Arc<RouteDraft>>>;
type FindInput = (Arc<RouterDraft>, Vec<Arc<RouteDraft>>, Faces);
type Finds = Memo<ResourceName, FindInput, Arc<route::Nodes>>;
type ResolveInput = (Arc<RouterDraft>, Vec<Arc<RouteDraft>>, Arc<route::Nodes>);
type Resolved = Stage<ResourceName, ResolveInput, VirtualRouter>;
type TurnInput = (Drafts<ResourceName, RouterDraft>, RouteGroups, Faces);

/// The memory of these stages.
#[derive(Debug, Default)]
pub(super) struct RouterMemo {
    routes: Stage<(ObjectRef, ObjectRef), Arc<extension::Route>, RouteDraft>,
    drafts: Stage<ObjectRef, DraftInput, RouterDraft>,
    named: Once<BTreeMap<ObjectRef, Arc<RouterDraft>>, ByName<ResourceName, RouterDraft>>,
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
        members: &Members,
        nodes: &Faces,
        findings: &mut Findings,
    ) -> (Values<ResourceName, VirtualRouter>, Faces) {
        let objects = members.of(&inputs.virtual_routers, |router| {
            router.spec.mesh_ref.as_ref()
        });
        let drafts = self.drafts.turn(
            objects,
            |object, (router, membership)| router::draft(object, router, membership),
            findings,
        );
        let named = self.named.turn(drafts, ByName::new);
        report(&named, findings);
        let groups = self.groups(&inputs.routes, findings);
        let (finds, resolved) = (&mut self.finds, &mut self.resolved);
        let turned = self.turned.turn(
            (named, groups, Arc::clone(nodes)),
            |(named, groups, nodes)| resolve_routers(named, groups, nodes, finds, resolved),
        );
        findings.extend(turned.findings.iter().cloned());
        let faces = &mut self.faces;
        let directory = self.directory.turn(Arc::clone(&turned), |turned| {
            directory(faces, &turned.values, router::face)
        });
        self.report_orphans(&inputs.routes, &directory, findings);
        (turned, directory)
    }

    fn groups(&mut self, routes: &Owned<extension::Route>, findings: &mut Findings) -> RouteGroups {
        let objects = routes.by_owner().iter().flat_map(|(router, routes)| {
            routes
                .iter()
                .map(|(object, route)| ((router.clone(), object.clone()), Arc::clone(route)))
        });
        let drafts = self.routes.turn(
            objects,
            |(_, object), route| route::draft(object, route),
            findings,
        );
        let mut groups: Vec<(ObjectRef, Vec<Arc<RouteDraft>>)> = Vec::new();
        for ((router, _), draft) in drafts {
            match groups.last_mut() {
                Some((last, group)) if *last == router => group.push(draft),
                _ => groups.push((router, vec![draft])),
            }
        }
        groups.into_iter().collect()
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

fn resolve_routers(
    named: &Drafts<ResourceName, RouterDraft>,
    groups: &RouteGroups,
    nodes: &Faces,
    finds: &mut Finds,
    resolved: &mut Resolved,
) -> Turned<ResourceName, VirtualRouter> {
    let routes = |draft: &RouterDraft| groups.get(draft.object()).cloned().unwrap_or_default();
    let inputs = named.values.iter().map(|(name, draft)| {
        let input = (Arc::clone(draft), routes(draft), Arc::clone(nodes));
        (name.clone(), input)
    });
    let finds = finds.turn(inputs, |_, (draft, routes, nodes)| {
        router::find(draft, routes, nodes)
    });
    let inputs = named
        .values
        .values()
        .zip(finds)
        .map(|(draft, (name, finds))| (name, (Arc::clone(draft), routes(draft), finds)));
    let mut findings = Findings::new();
    let values = resolved.turn(
        inputs,
        |_, (draft, routes, finds)| router::resolve(draft, routes, finds),
        &mut findings,
    );
    Turned { values, findings }
}
