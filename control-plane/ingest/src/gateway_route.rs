//! `GatewayRoute` → [`ResolvedGatewayRoute`], attached to a gateway.
//!
//! [`draft`] reads the object and finds its gateway, [`resolve`] follows its target.
//!
//! Must not know the other routes of the gateway.

mod read;
mod resolve;

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    Kind, ObjectRef, Protocol, Reason, ResolvedGatewayRoute, ResourceName,
    gateway::{HostnameMatch, PathRewrite},
    problem::FieldPath,
    route::HttpMatch,
};

use crate::{
    gateway::{GatewaysByName, UnresolvedGateway},
    gateway_admission, matches,
    membership::{Labels, Membership, list},
    name_index::UnresolvedRef,
    route::ports,
    stage::{Problems, WithProblems},
};

use self::read::{read_grpc, read_http};
pub(crate) use self::resolve::resolve;

/// A gateway route whose target is not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedGatewayRoute {
    name: Arc<str>,
    object: ObjectRef,
    gateway: ResourceName,
    priority: Option<u32>,
    rule: GatewayRule,
}

/// What is common to the three kinds of gateway route.
#[derive(Debug, Clone, PartialEq)]
struct GatewayRule {
    protocol: Protocol,
    port: Option<u16>,
    hostname: Option<HostnameMatch>,
    matches: HttpMatch,
    target: UnresolvedRef,
    target_port: Option<u16>,
    /// `…Route.action.target`
    target_field: FieldPath,
    rewrite_hostname: bool,
    rewrite_path: PathRewrite,
}

/// A gateway route that is complete, and where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttachedRoute {
    pub(crate) gateway: ResourceName,
    priority: Option<u32>,
    pub(crate) route: Arc<ResolvedGatewayRoute>,
}

impl AttachedRoute {
    /// Where it stands among the routes of its gateway.
    pub(crate) fn precedence(&self) -> impl Ord + use<'_> {
        (
            matches::precedence(self.priority, Some(&self.route.matches)),
            &self.route.name,
            &self.route.object,
        )
    }
}

/// Reads the object. `namespace` are the labels of its namespace.
pub(crate) fn parse(
    object: &ObjectRef,
    route: &v1beta2::GatewayRoute,
    membership: &Membership,
    namespace: &Labels,
    gateways: &GatewaysByName,
) -> WithProblems<UnresolvedGatewayRoute> {
    let mut problems = Problems::of(object);
    let value = try_parse(route, membership, namespace, gateways, &mut problems);
    WithProblems::new(value, problems)
}

fn try_parse(
    route: &v1beta2::GatewayRoute,
    membership: &Membership,
    namespace: &Labels,
    gateways: &GatewaysByName,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedGatewayRoute> {
    let object = problems.object();
    let v1beta2::GatewayRouteSpec {
        aws_name,
        priority,
        http_route,
        http2_route,
        grpc_route,
        virtual_gateway_ref,
        mesh_ref,
    } = &route.spec;
    let refusals = gateway_admission::validate(object, &route.spec);
    let (mesh, name) =
        membership.place(mesh_ref.as_ref(), aws_name.as_deref(), refusals, problems)?;
    let empty = Labels::new();
    let labels = route.metadata.labels.as_ref().unwrap_or(&empty);
    let gateway = match virtual_gateway_ref {
        Some(reference) => named_gateway(reference, &mesh.name, gateways, problems),
        None => selecting_gateway(labels, namespace, &mesh.name, gateways, problems),
    }?;
    let rule = match (http_route, http2_route, grpc_route) {
        (Some(route), _, _) => read_http(Protocol::Http, route, problems),
        (None, Some(route), _) => read_http(Protocol::Http2, route, problems),
        (None, None, Some(route)) => read_grpc(route, problems),
        // Refused above.
        (None, None, None) => None,
    }?;
    port_is_served(&rule, gateway, problems).then(|| UnresolvedGatewayRoute {
        name,
        object: object.clone(),
        gateway: gateway.name.clone(),
        priority: *priority,
        rule,
    })
}

fn named_gateway<'a>(
    reference: &v1beta2::VirtualGatewayReference,
    mesh: &Arc<str>,
    gateways: &'a GatewaysByName,
    problems: &mut Problems<'_>,
) -> Option<&'a UnresolvedGateway> {
    let v1beta2::VirtualGatewayReference {
        name,
        namespace,
        uid: _, // another one of the name is as good
    } = reference;
    let own = &problems.object().namespace;
    let wanted = ObjectRef::new(
        Kind::VirtualGateway,
        namespace.as_deref().unwrap_or(own),
        name.as_str(),
    );
    let found = gateways
        .values
        .values()
        .find(|gateway| gateway.object == wanted);
    let (reason, message) = match found {
        Some(gateway) if gateway.name.mesh == *mesh => return Some(gateway),
        Some(gateway) => (
            Reason::MeshMismatch,
            format!(
                "{wanted} belongs to the mesh `{}`, this route to `{mesh}`: refer to a gateway of the same mesh",
                gateway.name.mesh
            ),
        ),
        None => (
            Reason::GatewayNotFound,
            format!(
                "{wanted} does not exist or is not usable itself; the route is not served until it is"
            ),
        ),
    };
    problems.add(
        FieldPath::spec().field("virtualGatewayRef"),
        reason,
        message,
    );
    None
}

fn selecting_gateway<'a>(
    route: &Labels,
    namespace: &Labels,
    mesh: &Arc<str>,
    gateways: &'a GatewaysByName,
    problems: &mut Problems<'_>,
) -> Option<&'a UnresolvedGateway> {
    let selecting: Vec<&UnresolvedGateway> = gateways
        .values
        .values()
        .map(|gateway| &**gateway)
        .filter(|gateway| gateway.name.mesh == *mesh && gateway.selects(namespace, route))
        .collect();
    let (reason, message) = match selecting.as_slice() {
        [gateway] => return Some(gateway),
        [] => (
            Reason::GatewayNotFound,
            format!(
                "no virtual gateway of the mesh `{mesh}` selects this route and its namespace; label them as a gateway's gatewayRouteSelector and namespaceSelector want, or set spec.virtualGatewayRef"
            ),
        ),
        several => {
            let names: Vec<&ObjectRef> = several.iter().map(|gateway| &gateway.object).collect();
            (
                Reason::GatewayAmbiguous,
                format!(
                    "{} all select this route; narrow their selectors to one, or set spec.virtualGatewayRef",
                    list(&names)
                ),
            )
        }
    };
    problems.add(
        FieldPath::spec().field("virtualGatewayRef"),
        reason,
        message,
    );
    None
}

/// Whether the gateway has the port that is matched.
fn port_is_served(
    rule: &GatewayRule,
    gateway: &UnresolvedGateway,
    problems: &mut Problems<'_>,
) -> bool {
    let field = FieldPath::spec().field(word(rule.protocol));
    let listeners = &gateway.listeners;
    if let Some(port) = rule.port
        && listeners.iter().all(|listener| listener.port != port)
    {
        problems.add(
            field.field("match.port"),
            Reason::PortNotFound,
            format!(
                "{} has no listener on port {port}, so the route is left out; its ports are {}",
                gateway.object,
                ports(listeners)
            ),
        );
        return false;
    }
    let mut served = listeners
        .iter()
        .filter(|listener| rule.port.is_none_or(|port| listener.port == port))
        .peekable();
    if let Some(first) = served.peek().copied()
        && served.all(|listener| listener.protocol != rule.protocol)
    {
        problems.add(
            field,
            Reason::ProtocolMismatch,
            format!(
                "a route for {} at a listener for {}; it is served all the same: make it {}Route",
                rule.protocol, first.protocol, first.protocol
            ),
        );
    }
    true
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::Tcp => "httpRoute",
        Protocol::Http2 => "http2Route",
        Protocol::Grpc => "grpcRoute",
    }
}
