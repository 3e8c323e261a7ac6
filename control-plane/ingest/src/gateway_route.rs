//! `GatewayRoute` → [`ResolvedGatewayRoute`], attached to a gateway.
//!
//! [`parse`] reads the object and looks up its gateway; [`resolve`] looks up its target.

mod read;
mod resolve;

use std::{cmp::Reverse, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    GatewayListener, Kind, ObjectRef, Protocol, Reason, ResolvedGatewayRoute, ResourceName,
    ServicePort, Severity,
    gateway::{HostnameMatch, PathRewrite},
    problem::FieldPath,
    route::HttpMatch,
};

use crate::{
    gateway::{GatewaysByName, UnresolvedGateway},
    gateway_admission,
    membership::{Labels, Membership, list},
    name_index::UnresolvedRef,
    requests::{self, Claim, RequestSet},
    route::ports,
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
};

use self::read::{read_grpc, read_http};
pub(crate) use self::resolve::resolve;

/// A parsed gateway route whose target was not looked up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedGatewayRoute {
    name: Arc<str>,
    object: ObjectRef,
    age: ObjectAge,
    gateway: ResourceName,
    priority: Option<u32>,
    rule: GatewayRule,
}

/// The common form of `httpRoute`, `http2Route` and `grpcRoute`.
#[derive(Debug, Clone, PartialEq)]
struct GatewayRule {
    protocol: Protocol,
    port: Option<u16>,
    hostname: Option<HostnameMatch>,
    matches: HttpMatch,
    requests: Arc<RequestSet>,
    target: UnresolvedRef,
    target_port: Option<u16>,
    /// The field that contains the target: `…Route.action.target`.
    target_field: FieldPath,
    rewrite_hostname: bool,
    rewrite_path: PathRewrite,
}

/// A resolved gateway route with its gateway.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttachedRoute {
    pub(crate) gateway: ResourceName,
    age: ObjectAge,
    priority: Option<u32>,
    /// The requests that the match accepts, without the host name.
    requests: Arc<RequestSet>,
    /// The match of the host name in lower case.
    hostname: Option<HostnameMatch>,
    pub(crate) route: Arc<ResolvedGatewayRoute>,
}

impl Contender for AttachedRoute {
    fn object(&self) -> &ObjectRef {
        &self.route.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

impl AttachedRoute {
    /// Sort key of the gateway's routes; the smallest key has the highest precedence.
    ///
    /// Routes for one host name precede those for a suffix, longer suffixes precede shorter ones, and routes for any name
    /// come last: in App Mesh, the most specific host name of all routes selected the routes. The rest of the order is:
    /// smaller priority, a missing one last; then the more specific match ([`RequestSet::specificity`]), and one with a
    /// port before one without; then that of [`Contender::seniority`].
    pub(crate) fn precedence(&self, listeners: &[GatewayListener]) -> impl Ord + use<'_> {
        let Claim {
            requests,
            hostname,
            port,
        } = self.claim(listeners);
        let hostname = match hostname {
            Some(HostnameMatch::Exact(_)) => (0, Reverse(0)),
            Some(HostnameMatch::Suffix(suffix)) => (1, Reverse(suffix.len())),
            None => (2, Reverse(0)),
        };
        (
            hostname,
            self.priority.unwrap_or(u32::MAX),
            requests.map(RequestSet::specificity),
            port.is_none(),
            self.seniority(),
        )
    }

    /// The requests that the route claims on a gateway with these listeners.
    pub(crate) fn claim(&self, listeners: &[GatewayListener]) -> Claim<'_> {
        let ports = listeners.iter().map(|listener| listener.port);
        Claim {
            requests: Some(&self.requests),
            hostname: self.hostname.as_ref(),
            port: requests::limiting_port(self.route.port, ports),
        }
    }
}

/// Parses the object. `namespace` contains the labels of its namespace.
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
    let rejections = gateway_admission::validate(object, &route.spec);
    let (mesh, name) =
        membership.mesh_and_name(mesh_ref.as_ref(), aws_name.as_deref(), rejections, problems)?;
    let empty = Labels::new();
    let labels = route.metadata.labels.as_ref().unwrap_or(&empty);
    let gateway = match virtual_gateway_ref {
        Some(reference) => named_gateway(reference, namespace, &mesh.name, gateways, problems),
        None => selecting_gateway(labels, namespace, &mesh.name, gateways, problems),
    }?;
    let rule = match (http_route, http2_route, grpc_route) {
        (Some(route), _, _) => read_http(Protocol::Http, route, problems),
        (None, Some(route), _) => read_http(Protocol::Http2, route, problems),
        (None, None, Some(route)) => read_grpc(route, problems),
        // `gateway_admission` has rejected the route.
        (None, None, None) => None,
    }?;
    port_is_served(&rule, gateway, problems).then(|| UnresolvedGatewayRoute {
        name,
        object: object.clone(),
        age: ObjectAge::of(&route.metadata),
        gateway: gateway.name.clone(),
        priority: *priority,
        rule,
    })
}

fn named_gateway<'a>(
    reference: &v1beta2::VirtualGatewayReference,
    own_labels: &Labels,
    mesh: &Arc<str>,
    gateways: &'a GatewaysByName,
    problems: &mut Problems<'_>,
) -> Option<&'a UnresolvedGateway> {
    let v1beta2::VirtualGatewayReference {
        name,
        namespace,
        uid: _, // a gateway that was recreated with the same name is accepted
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
        Some(gateway)
            if gateway.name.mesh == *mesh && gateway.admits(problems.object(), own_labels) =>
        {
            return Some(gateway);
        }
        Some(gateway) if gateway.name.mesh == *mesh => (
            Reason::NotAllowed,
            format!(
                "the namespaceSelector of `{wanted}` does not select namespace `{own}`, so the route is not served; label the namespace, or let the owner of the gateway select it"
            ),
        ),
        Some(gateway) => (
            Reason::MeshMismatch,
            format!(
                "`{wanted}` belongs to mesh `{}`, but this route belongs to mesh `{mesh}`; refer to a gateway of the same mesh",
                gateway.name.mesh
            ),
        ),
        None => (
            Reason::GatewayNotFound,
            format!(
                "`{wanted}` does not exist or is not valid, so the route is not served; create or correct it"
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
                "no virtual gateway of mesh `{mesh}` selects this route and its namespace; label them to match a gateway's gatewayRouteSelector and namespaceSelector, or set spec.virtualGatewayRef"
            ),
        ),
        several => {
            let names: Vec<&ObjectRef> = several.iter().map(|gateway| &gateway.object).collect();
            (
                Reason::GatewayAmbiguous,
                format!(
                    "several virtual gateways select this route: {}; narrow their selectors until only one matches, or set spec.virtualGatewayRef",
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

/// Returns whether the gateway has a listener for the route. Warns if the protocols differ.
fn port_is_served(
    rule: &GatewayRule,
    gateway: &UnresolvedGateway,
    problems: &mut Problems<'_>,
) -> bool {
    let field = FieldPath::spec().field(field_name(rule.protocol));
    let listeners: Vec<ServicePort> = gateway
        .listeners
        .iter()
        .map(GatewayListener::service_port)
        .collect();
    if let Some(port) = rule.port
        && listeners.iter().all(|listener| listener.port != port)
    {
        problems.add(
            field.field("match.port"),
            Reason::PortNotFound,
            format!(
                "`{}` has no listener on port {port}, so the route is left out; its ports are {}",
                gateway.object,
                ports(&listeners)
            ),
        );
        return false;
    }
    if rule.port.is_none() && listeners.len() > 1 {
        problems.add_with_severity(
            field.field("match.port"),
            Reason::PortRequired,
            Severity::Warning,
            format!(
                "`{}` has several listeners, so the route is served on each; App Mesh requires a port, so set port to one of {} to stay compatible",
                gateway.object,
                ports(&listeners)
            ),
        );
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
                "the route's protocol is {}, the listener's is {}; the route is served nevertheless; use {}Route",
                rule.protocol, first.protocol, first.protocol
            ),
        );
    }
    true
}

/// The name of the field that holds a route of this protocol.
pub(crate) const fn field_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::Tcp => "httpRoute",
        Protocol::Http2 => "http2Route",
        Protocol::Grpc => "grpcRoute",
    }
}
