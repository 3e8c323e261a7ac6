//! `VirtualGateway` with the gateway routes that are attached to it → [`ResolvedGateway`].
//!
//! Must not read gateway routes: that is the room next door.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    ObjectRef, Reason, ResolvedGateway, ResourceName, ServicePort, name::ProxyKind,
    problem::FieldPath,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{
    admission,
    gateway_route::AttachedRoute,
    membership::{Labels, Membership, selects},
    name_index::{UniqueByName, Unresolved, unique_ports},
    node::unsupported,
    security,
    stage::{Problems, WithProblems},
    values,
};

/// A virtual gateway without its routes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedGateway {
    pub(crate) name: ResourceName,
    pub(crate) object: ObjectRef,
    pub(crate) listeners: Vec<ServicePort>,
    namespace_selector: Option<LabelSelector>,
    gateway_route_selector: Option<LabelSelector>,
    /// Whether targets may be called: not under a TLS policy that is not served yet.
    targets_are_served: bool,
}

impl Unresolved for UnresolvedGateway {
    type Name = ResourceName;

    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl UnresolvedGateway {
    /// Whether a gateway route with these labels, from a namespace with these, attaches by itself. An absent
    /// selector for namespaces selects none, an absent one for gateway routes all.
    pub(crate) fn selects(&self, namespace: &Labels, route: &Labels) -> bool {
        self.namespace_selector
            .as_ref()
            .is_some_and(|selector| selects(selector, namespace))
            && self
                .gateway_route_selector
                .as_ref()
                .is_none_or(|selector| selects(selector, route))
    }
}

/// Gateways by name.
pub(crate) type GatewaysByName = UniqueByName<ResourceName, UnresolvedGateway>;

/// Reads the object.
pub(crate) fn parse(
    object: &ObjectRef,
    gateway: &v1beta2::VirtualGateway,
    membership: &Membership,
) -> WithProblems<UnresolvedGateway> {
    let mut problems = Problems::of(object);
    let value = try_parse(gateway, membership, &mut problems);
    WithProblems::new(value, problems)
}

fn try_parse(
    gateway: &v1beta2::VirtualGateway,
    membership: &Membership,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedGateway> {
    let object = problems.object();
    let v1beta2::VirtualGatewaySpec {
        aws_name,
        namespace_selector,
        gateway_route_selector,
        pod_selector: _, // the sidecar injector's
        listeners,
        backend_defaults,
        logging,
        mesh_ref,
    } = &gateway.spec;
    let refusals = admission::virtual_gateway(object, &gateway.spec);
    let (mesh, name) =
        membership.place(mesh_ref.as_ref(), aws_name.as_deref(), refusals, problems)?;
    let spec = FieldPath::spec();
    if logging.is_some() {
        unsupported(spec.field("logging"), "no access log is written", problems);
    }
    let policy = backend_defaults
        .as_ref()
        .and_then(|v1beta2::BackendDefaults { client_policy }| client_policy.as_ref());
    Some(UnresolvedGateway {
        name: ResourceName::new(Arc::clone(&mesh.name), ProxyKind::VirtualGateway, name),
        object: object.clone(),
        listeners: read_listeners(listeners.as_deref().unwrap_or_default(), problems),
        namespace_selector: namespace_selector.clone(),
        gateway_route_selector: gateway_route_selector.clone(),
        targets_are_served: security::backends_are_served(
            policy,
            &spec.field("backendDefaults"),
            problems,
        ),
    })
}

fn read_listeners(
    listeners: &[v1beta2::VirtualGatewayListener],
    problems: &mut Problems<'_>,
) -> Vec<ServicePort> {
    let field = FieldPath::spec().field("listeners");
    let ports = unique_ports(
        listeners.iter().map(|listener| {
            let v1beta2::VirtualGatewayPortMapping { port, protocol } = listener.port_mapping;
            (port, values::gateway_protocol(protocol))
        }),
        &field,
        problems,
    );
    listeners
        .iter()
        .zip(ports)
        .enumerate()
        .filter_map(|(index, (listener, port))| {
            let port = port?;
            let v1beta2::VirtualGatewayListener {
                port_mapping: _,
                health_check,
                connection_pool,
                tls,
            } = listener;
            let field = field.index(index);
            if health_check.is_some() {
                unsupported(
                    field.field("healthCheck"),
                    "it has no effect: what stands in front of the gateway probes it",
                    problems,
                );
            }
            if connection_pool.is_some() {
                unsupported(
                    field.field("connectionPool"),
                    "connections and requests are not limited",
                    problems,
                );
            }
            let mode = tls.as_ref().map(|tls| tls.mode);
            security::listener_is_served(mode, &field, problems).then_some(port)
        })
        .collect()
}

/// Completes a gateway with the routes that lead from it, in the order in which they are tried.
///
/// The order is that of [`crate::matches::precedence`], then by name and namespace; host names play no part
/// in it.
pub(crate) fn resolve(
    draft: &UnresolvedGateway,
    routes: &[Arc<AttachedRoute>],
) -> WithProblems<ResolvedGateway> {
    let mut problems = Problems::of(&draft.object);
    let mut sorted: Vec<&AttachedRoute> = Vec::with_capacity(routes.len());
    if draft.targets_are_served {
        sorted.extend(routes.iter().map(|route| &**route));
    }
    // By name first, so that of two with one name the first object counts.
    sorted.sort_by(|one, other| {
        (&one.route.name, &one.route.object).cmp(&(&other.route.name, &other.route.object))
    });
    sorted.dedup_by(|later, first| {
        let is_same = later.route.name == first.route.name;
        if is_same {
            let mut of_route = Problems::of(&later.route.object);
            of_route.add(
                FieldPath::spec().field("awsName"),
                Reason::DuplicateName,
                format!(
                    "{} has the awsName `{}` on the same gateway already and counts; choose another awsName",
                    first.route.object, first.route.name
                ),
            );
            problems.extend(of_route.into_list());
        }
        is_same
    });
    sorted.sort_by(|one, other| one.precedence().cmp(&other.precedence()));
    let gateway = ResolvedGateway {
        name: draft.name.clone(),
        object: draft.object.clone(),
        listeners: draft.listeners.clone(),
        routes: sorted
            .into_iter()
            .map(|route| Arc::clone(&route.route))
            .collect(),
    };
    WithProblems::new(Some(gateway), problems)
}
