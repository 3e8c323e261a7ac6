//! One route of a virtual router, inline or a `Route` object.
//!
//! [`draft`] reads it alone; the router follows its targets with [`resolve`].
//!
//! Must not know the other routes of the router.

mod read;
mod resolve;

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{
    Kind, ObjectRef, Problem, Protocol, Reason, ServicePort, Timeout,
    problem::FieldPath,
    route::{HttpMatch, RetryPolicy},
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    admission, matches,
    name_index::UnresolvedRef,
    stage::{Problems, WithProblems},
};

use self::read::read;
pub(crate) use self::resolve::{TargetLookups, resolve};

/// A route whose targets are not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedRoute {
    pub(crate) name: Arc<str>,
    pub(crate) object: ObjectRef,
    /// Where its name stands.
    pub(crate) name_field: FieldPath,
    priority: Option<u32>,
    /// When the object was created, if the cluster says so.
    created: Option<Timestamp>,
    /// `match.port`
    port: Option<u16>,
    rule: UnresolvedRule,
    /// `…Route`
    field: FieldPath,
    targets: Vec<UnresolvedTarget>,
}

#[derive(Debug, Clone, PartialEq)]
enum UnresolvedRule {
    Http {
        protocol: Protocol,
        matches: HttpMatch,
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

impl UnresolvedRoute {
    /// What it speaks.
    fn protocol(&self) -> Protocol {
        match &self.rule {
            UnresolvedRule::Http { protocol, .. } => *protocol,
            UnresolvedRule::Tcp(_) => Protocol::Tcp,
        }
    }

    /// The order in which routes are tried: see [`matches::precedence`]; then inline routes before Route objects,
    /// older objects before younger ones (nobody takes over another's traffic with a new object), then by name and
    /// namespace.
    pub(crate) fn precedence(&self) -> impl Ord + use<'_> {
        let matches = match &self.rule {
            UnresolvedRule::Http { matches, .. } => Some(matches),
            UnresolvedRule::Tcp(_) => None,
        };
        (
            matches::precedence(self.priority, matches),
            self.seniority(),
        )
    }

    /// Of two routes that want the same, the one that has it.
    pub(crate) fn seniority(&self) -> impl Ord + use<'_> {
        (
            self.object.kind == Kind::Route,
            self.created.is_none(),
            self.created,
            &self.name,
            &self.object.namespace,
        )
    }

    /// `httpRoute`, `http2Route`, `grpcRoute` or `tcpRoute`, wherever it stands.
    pub(crate) const fn field(&self) -> &FieldPath {
        &self.field
    }

    /// The nodes it refers to.
    pub(crate) fn references(&self) -> impl Iterator<Item = &UnresolvedRef> {
        self.targets.iter().map(|target| &target.node)
    }
}

/// One of the four kinds of route, with the word for it.
enum RouteVariant<'a> {
    Http(Protocol, &'a v1beta2::HttpRoute),
    Grpc(&'a v1beta2::GrpcRoute),
    Tcp(&'a v1beta2::TcpRoute),
}

/// An inline route.
pub(crate) fn inline(
    route: &v1beta2::Route,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedRoute> {
    let v1beta2::Route {
        name,
        priority,
        http_route,
        http2_route,
        grpc_route,
        tcp_route,
    } = route;
    let written = [
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
        written,
        field,
        problems,
    )
}

/// A `Route` object.
pub(crate) fn parse(object: &ObjectRef, route: &extension::Route) -> WithProblems<UnresolvedRoute> {
    let mut problems = Problems::of(object);
    let extension::RouteSpec {
        virtual_router_ref: _, // its router's key
        priority,
        http_route,
        http2_route,
        grpc_route,
        tcp_route,
    } = &route.spec;
    let refusals = admission::route(object, &route.spec);
    if !refusals.is_empty() {
        problems.extend(refusals);
        return WithProblems::new(None, problems);
    }
    let written = [
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
        written,
        &FieldPath::spec(),
        &mut problems,
    );
    let created = route.metadata.creation_timestamp.as_ref();
    let value = value.map(|draft| UnresolvedRoute {
        created: created.map(|time| time.0),
        ..draft
    });
    WithProblems::new(value, problems)
}

/// The router a `Route` object belongs to.
pub(crate) fn router(object: &ObjectRef, route: &extension::Route) -> ObjectRef {
    let v1beta2::Reference { name, namespace } = &route.spec.virtual_router_ref;
    let namespace = namespace.as_deref().unwrap_or(&object.namespace);
    ObjectRef::new(Kind::VirtualRouter, namespace, name.as_str())
}

/// The problem of a `Route` object whose router is not there.
pub(crate) fn without_router(route: &ObjectRef, router: &ObjectRef) -> Problem {
    Problem::new(
        route,
        FieldPath::spec().field("virtualRouterRef"),
        Reason::ReferenceNotFound,
        format!(
            "{router} does not exist or is not usable itself; the route is not served until it is"
        ),
    )
}

/// Ports as a list for people.
pub(crate) fn ports(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = ports
        .iter()
        .map(|ServicePort { port, protocol }| format!("{port} ({protocol})"))
        .collect();
    words.join(", ")
}
