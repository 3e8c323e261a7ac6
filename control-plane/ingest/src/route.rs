//! One route of a virtual router: an inline route or a `Route` object.
//!
//! [`parse`] and [`inline`] read the route alone; [`resolve`] completes it with the targets that its router looked up.

mod read;
mod resolve;

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{
    Kind, ObjectRef, Problem, Protocol, Reason, ServicePort, Timeout,
    problem::FieldPath,
    route::{HttpMatch, PathMatch, RetryPolicy},
};

use crate::{
    name_index::UnresolvedRef,
    requests::{self, Claim, RequestSet},
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
};

use self::read::read;
pub(crate) use self::resolve::{TargetLookups, resolve};

/// A parsed route.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedRoute {
    pub(crate) name: Arc<str>,
    pub(crate) object: ObjectRef,
    /// The field that contains the name.
    pub(crate) name_field: FieldPath,
    pub(crate) priority: Option<u32>,
    /// The age of a `Route` object. Inline routes do not compete by age.
    age: ObjectAge,
    /// `match.port`
    port: Option<u16>,
    rule: UnresolvedRule,
    /// The field that contains the route, such as `spec.routes[0].httpRoute`.
    field: FieldPath,
    targets: Vec<UnresolvedTarget>,
}

#[derive(Debug, Clone, PartialEq)]
enum UnresolvedRule {
    Http {
        protocol: Protocol,
        matches: HttpMatch,
        /// The requests that the match accepts.
        requests: Arc<RequestSet>,
        retry: Option<RetryPolicy>,
        timeout: Timeout,
    },
    Tcp(Timeout),
}

#[derive(Debug, Clone, PartialEq)]
struct UnresolvedTarget {
    field: FieldPath,
    node: UnresolvedRef,
    weight: u32,
    port: Option<u16>,
}

impl Contender for UnresolvedRoute {
    fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

impl UnresolvedRoute {
    fn protocol(&self) -> Protocol {
        match &self.rule {
            UnresolvedRule::Http { protocol, .. } => *protocol,
            UnresolvedRule::Tcp(_) => Protocol::Tcp,
        }
    }

    /// Sort key of a router's routes; the smallest key has the highest precedence.
    ///
    /// The order is: smaller priority, a missing one last; then the more specific match ([`RequestSet::specificity`]), and
    /// one with a port before one without; then inline routes precede `Route` objects, because they belong to the owner of
    /// the router; then that of [`Contender::seniority`]. Inline routes of one router are left in the order of their names.
    ///
    /// App Mesh documents only the order of priorities and of prefix lengths.
    pub(crate) fn precedence(&self, listeners: &[ServicePort]) -> impl Ord + use<'_> {
        let Claim { requests, port, .. } = self.claim(listeners);
        (
            self.priority.unwrap_or(u32::MAX),
            requests.map(RequestSet::specificity),
            port.is_none(),
            self.object.kind == Kind::Route,
            self.seniority(),
            &self.name,
        )
    }

    /// The requests that the route claims on a router with these listeners.
    pub(crate) fn claim(&self, listeners: &[ServicePort]) -> Claim<'_> {
        let requests = match &self.rule {
            UnresolvedRule::Http { requests, .. } => Some(&**requests),
            UnresolvedRule::Tcp(_) => None,
        };
        let fitting = listeners
            .iter()
            .filter(|listener| listener.protocol.is_http() == requests.is_some());
        Claim {
            requests,
            hostname: None,
            port: requests::limiting_port(self.port, fitting.map(|listener| listener.port)),
        }
    }

    fn matches(&self) -> Option<&HttpMatch> {
        match &self.rule {
            UnresolvedRule::Http { matches, .. } => Some(matches),
            UnresolvedRule::Tcp(_) => None,
        }
    }

    /// The match of the path; absent for TCP.
    pub(crate) fn path(&self) -> Option<&PathMatch> {
        self.matches().map(|matches| &matches.path)
    }

    /// The field that contains the route: `httpRoute`, `http2Route`, `grpcRoute` or `tcpRoute` with its parents.
    pub(crate) const fn field(&self) -> &FieldPath {
        &self.field
    }

    /// References to the target nodes.
    pub(crate) fn references(&self) -> impl Iterator<Item = &UnresolvedRef> {
        self.targets.iter().map(|target| &target.node)
    }
}

/// One of the four variants of a route.
enum RouteVariant<'a> {
    Http(Protocol, &'a v1beta2::HttpRoute),
    Grpc(&'a v1beta2::GrpcRoute),
    Tcp(&'a v1beta2::TcpRoute),
}

/// Parses an inline route. `field` is the list item that contains it.
pub(crate) fn inline(
    route: &v1beta2::InlineRoute,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedRoute> {
    let v1beta2::InlineRoute {
        name,
        priority,
        http_route,
        http2_route,
        grpc_route,
        tcp_route,
    } = route;
    let variants = [
        http_route
            .as_ref()
            .map(|route| RouteVariant::Http(Protocol::Http, route)),
        http2_route
            .as_ref()
            .map(|route| RouteVariant::Http(Protocol::Http2, route)),
        grpc_route.as_ref().map(RouteVariant::Grpc),
        tcp_route.as_ref().map(RouteVariant::Tcp),
    ];
    read(
        name.as_str().into(),
        field.field("name"),
        *priority,
        variants,
        field,
        problems,
    )
}

/// Parses a `Route` object.
pub(crate) fn parse(object: &ObjectRef, route: &extension::Route) -> WithProblems<UnresolvedRoute> {
    let mut problems = Problems::of(object);
    let extension::RouteSpec {
        virtual_router_ref: _, // see `router`
        priority,
        http_route,
        http2_route,
        grpc_route,
        tcp_route,
    } = &route.spec;
    let variants = [
        http_route
            .as_ref()
            .map(|route| RouteVariant::Http(Protocol::Http, route)),
        http2_route
            .as_ref()
            .map(|route| RouteVariant::Http(Protocol::Http2, route)),
        grpc_route.as_ref().map(RouteVariant::Grpc),
        tcp_route.as_ref().map(RouteVariant::Tcp),
    ];
    let value = read(
        Arc::clone(&object.name),
        FieldPath::root().field("metadata.name"),
        *priority,
        variants,
        &FieldPath::spec(),
        &mut problems,
    );
    let value = value.map(|unresolved| UnresolvedRoute {
        age: ObjectAge::of(&route.metadata),
        ..unresolved
    });
    WithProblems::new(value, problems)
}

/// The router to which a `Route` object is attached.
pub(crate) fn router(object: &ObjectRef, route: &extension::Route) -> ObjectRef {
    let v1beta2::Reference { name, namespace } = &route.spec.virtual_router_ref;
    let namespace = namespace.as_deref().unwrap_or(&object.namespace);
    ObjectRef::new(Kind::VirtualRouter, namespace, name.as_str())
}

/// The problem of a `Route` object whose router does not exist or is not valid.
pub(crate) fn without_router(route: &ObjectRef, router: &ObjectRef) -> Problem {
    Problem::new(
        route,
        FieldPath::spec().field("virtualRouterRef"),
        Reason::ReferenceNotFound,
        format!(
            "`{router}` does not exist or is not valid, so the route is not served; create or correct it"
        ),
    )
}

/// Formats ports for messages: `8080 (http), 9090 (grpc)`.
pub(crate) fn ports(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    let formatted: Vec<String> = ports
        .iter()
        .map(|ServicePort { port, protocol }| format!("{port} ({protocol})"))
        .collect();
    formatted.join(", ")
}
