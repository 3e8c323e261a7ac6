//! `VirtualRouter` with its `Route` objects → [`ResolvedRouter`].
//!
//! [`parse`] reads the object alone, [`look_up`] looks up the targets of all routes, and [`resolve`] merges, orders and
//! completes the routes. The module [`route`] handles a single route.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    ObjectRef, Reason, ResolvedRoute, ResolvedRouter, ResourceName, RouteRule, ServicePort,
    name::ProxyKind, problem::FieldPath,
};

use crate::{
    admission, conflict,
    consent::{RouteNamespace, RouterConsent},
    membership::Membership,
    name_index::{IndexEntry, NameIndex, unique_ports},
    route::{self, TargetLookups, UnresolvedRoute},
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
    unique_names::Unresolved,
    values,
};

/// A parsed virtual router with its inline routes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedRouter {
    name: ResourceName,
    object: ObjectRef,
    age: ObjectAge,
    listeners: Vec<ServicePort>,
    routes: Vec<UnresolvedRoute>,
    consent: RouterConsent,
}

impl Contender for UnresolvedRouter {
    fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

impl Unresolved for UnresolvedRouter {
    type Name = ResourceName;

    fn name(&self) -> &ResourceName {
        &self.name
    }
}

pub(crate) fn parse(
    object: &ObjectRef,
    router: &v1beta2::VirtualRouter,
    membership: &Membership,
) -> WithProblems<UnresolvedRouter> {
    let mut problems = Problems::of(object);
    let value = try_parse(router, membership, &mut problems);
    WithProblems::new(value, problems)
}

fn try_parse(
    router: &v1beta2::VirtualRouter,
    membership: &Membership,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedRouter> {
    let object = problems.object();
    let v1beta2::VirtualRouterSpec {
        aws_name,
        listeners,
        routes,
        mesh_ref,
    } = &router.spec;
    let rejections = admission::virtual_router(object, &router.spec);
    let (mesh, name) =
        membership.mesh_and_name(mesh_ref.as_ref(), aws_name.as_deref(), rejections, problems)?;
    let spec = FieldPath::spec();
    let ports = listeners.iter().flatten().map(|listener| {
        let v1beta2::VirtualRouterListener {
            port_mapping: v1beta2::PortMapping { port, protocol },
        } = *listener;
        (port, values::protocol(protocol))
    });
    Some(UnresolvedRouter {
        name: ResourceName::new(Arc::clone(&mesh.name), ProxyKind::VirtualRouter, name),
        object: object.clone(),
        age: ObjectAge::of(&router.metadata),
        listeners: unique_ports(ports, &spec.field("listeners"), problems)
            .into_iter()
            .flatten()
            .collect(),
        routes: routes
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, route)| {
                route::inline(route, &spec.field("routes").index(index), problems)
            })
            .collect(),
        consent: RouterConsent::read(&router.metadata, problems),
    })
}

/// The results of looking up what the routes of a router refer to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouterLookups {
    targets: TargetLookups,
    /// The namespaces of `Route` objects other than that of the router.
    namespaces: BTreeMap<Arc<str>, Option<RouteNamespace>>,
}

/// Looks up the targets of all routes, and the namespaces of `Route` objects.
pub(crate) fn look_up(
    unresolved: &UnresolvedRouter,
    objects: &[Arc<UnresolvedRoute>],
    nodes: &NameIndex<ResourceName>,
    namespace: impl Fn(&str) -> Option<RouteNamespace>,
) -> RouterLookups {
    let targets = unresolved
        .routes
        .iter()
        .chain(objects.iter().map(|route| &**route))
        .flat_map(UnresolvedRoute::references)
        .map(|node| (node.clone(), nodes.look_up(node, &unresolved.name.mesh)))
        .collect();
    let mut namespaces = BTreeMap::new();
    for route in objects {
        let name = &route.object.namespace;
        if *name != unresolved.object.namespace && !namespaces.contains_key(name) {
            namespaces.insert(Arc::clone(name), namespace(name));
        }
    }
    RouterLookups {
        targets,
        namespaces,
    }
}

/// Merges the inline routes with the `Route` objects to which the owner of the router consents, orders them by [`UnresolvedRoute::precedence`] and resolves their
/// targets.
///
/// Of two routes with the same name, an inline route takes precedence, then the older object.
pub(crate) fn resolve(
    unresolved: &UnresolvedRouter,
    objects: &[Arc<UnresolvedRoute>],
    lookups: &RouterLookups,
) -> WithProblems<ResolvedRouter> {
    let mut problems = Problems::of(&unresolved.object);
    let mut by_name: BTreeMap<&str, &UnresolvedRoute> = BTreeMap::new();
    let mut objects: Vec<&UnresolvedRoute> = objects.iter().map(|route| &**route).collect();
    objects.retain(|route| {
        let namespace = lookups.namespaces.get(&route.object.namespace);
        let refusal = unresolved.consent.refusal(
            (&unresolved.object, &unresolved.name.mesh),
            route,
            namespace.and_then(Option::as_ref),
        );
        let is_admitted = refusal.is_none();
        problems.extend(refusal);
        is_admitted
    });
    objects.sort_by(|one, other| one.seniority().cmp(&other.seniority()));
    for route in unresolved.routes.iter().chain(objects) {
        let Some(first) = by_name.get(&*route.name) else {
            by_name.insert(&route.name, route);
            continue;
        };
        let mut of_route = Problems::of(&route.object);
        of_route.add(
            route.name_field.clone(),
            Reason::DuplicateRoute,
            format!(
                "route name `{}` is already used by `{}`, which takes precedence, so this route is left out; rename it",
                route.name, first.object
            ),
        );
        problems.extend(of_route.into_list());
    }
    let mut routes: Vec<&UnresolvedRoute> = by_name.into_values().collect();
    let listeners = &unresolved.listeners;
    routes.sort_by_cached_key(|route| UnresolvedRoute::precedence(route, listeners));
    let routes: Vec<(&UnresolvedRoute, Arc<ResolvedRoute>)> = routes
        .into_iter()
        .filter_map(|route| {
            let mut of_route = Problems::of(&route.object);
            let resolved = route::resolve(route, listeners, &lookups.targets, &mut of_route);
            problems.extend(of_route.into_list());
            Some((route, Arc::new(resolved?)))
        })
        .collect();
    let served: Vec<&UnresolvedRoute> = routes.iter().map(|(route, _)| *route).collect();
    problems.extend(conflict::unreached(&served, listeners));
    let routes = routes.into_iter().map(|(_, route)| route).collect();
    let value = ResolvedRouter {
        name: unresolved.name.clone(),
        object: unresolved.object.clone(),
        listeners: unresolved.listeners.clone(),
        routes,
    };
    WithProblems::new(Some(value), problems)
}

/// The index entry for services that use the router. A router without listeners has the ports of its targets.
pub(crate) fn index_entry(
    unresolved: &UnresolvedRouter,
    router: &ResolvedRouter,
) -> IndexEntry<ResourceName> {
    let mut ports = router.listeners.clone();
    if ports.is_empty() {
        ports = router
            .routes
            .iter()
            .flat_map(|route| match &route.rule {
                RouteRule::Http(rule) => &rule.targets,
                RouteRule::Tcp(rule) => &rule.targets,
            })
            .map(|target| ServicePort {
                port: target.port,
                protocol: target.protocol,
            })
            .collect();
    }
    ports.sort();
    ports.dedup_by_key(|port| port.port);
    IndexEntry {
        name: router.name.clone(),
        object: router.object.clone(),
        ports,
        virtual_ips: Vec::new(),
        age: unresolved.age.clone(),
    }
}
