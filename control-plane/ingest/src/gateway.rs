//! `VirtualGateway` with its attached gateway routes → [`ResolvedGateway`].
//!
//! [`parse`] reads the object alone; [`resolve`] adds the routes, which [`crate::gateway_route`] has resolved.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    AccessLogFile, GatewayListener, ObjectRef, Reason, ResolvedGateway, ResolvedMesh, ResourceName,
    Severity, name::ProxyKind, problem::FieldPath,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{
    admission, conflict,
    gateway_route::AttachedRoute,
    listener, logging,
    membership::{Labels, Membership, selects},
    name_index::unique_ports,
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
    tls::{self, ClientPolicyResult},
    unique_names::{UniqueByName, Unresolved},
    values,
};

/// A parsed virtual gateway without its routes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedGateway {
    pub(crate) name: ResourceName,
    pub(crate) object: ObjectRef,
    age: ObjectAge,
    pub(crate) listeners: Vec<GatewayListener>,
    namespace_selector: Option<LabelSelector>,
    gateway_route_selector: Option<LabelSelector>,
    /// TLS of calls to the targets of routes. `Err` if no route is served, because it cannot be called as the policy
    /// requires.
    tls: ClientPolicyResult,
    access_log: Option<AccessLogFile>,
    forwards_client_address: bool,
}

impl Contender for UnresolvedGateway {
    fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

impl Unresolved for UnresolvedGateway {
    type Name = ResourceName;

    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl UnresolvedGateway {
    /// Returns whether a gateway route that names the gateway may be attached: its namespace is that of the gateway, or the
    /// `namespaceSelector` selects it.
    pub(crate) fn admits(&self, route: &ObjectRef, namespace: &Labels) -> bool {
        route.namespace == self.object.namespace
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selects(selector, namespace))
    }

    /// Returns whether the gateway selects a gateway route by the labels of the route and of its namespace.
    ///
    /// Without a `namespaceSelector`, the gateway selects no route; without a `gatewayRouteSelector`, all routes of the
    /// selected namespaces.
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

pub(crate) type GatewaysByName = UniqueByName<ResourceName, UnresolvedGateway>;

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
        pod_selector: _, // used by the sidecar injector
        listeners,
        backend_defaults,
        logging,
        mesh_ref,
    } = &gateway.spec;
    let rejections = admission::virtual_gateway(object, &gateway.spec);
    let (mesh, name) =
        membership.mesh_and_name(mesh_ref.as_ref(), aws_name.as_deref(), rejections, problems)?;
    let spec = FieldPath::spec();
    let policy = backend_defaults
        .as_ref()
        .and_then(|v1beta2::BackendDefaults { client_policy }| client_policy.as_ref());
    Some(UnresolvedGateway {
        name: ResourceName::new(Arc::clone(&mesh.name), ProxyKind::VirtualGateway, name),
        object: object.clone(),
        age: ObjectAge::of(&gateway.metadata),
        listeners: read_listeners(listeners.as_deref().unwrap_or_default(), &mesh, problems),
        namespace_selector: namespace_selector.clone(),
        gateway_route_selector: gateway_route_selector.clone(),
        tls: tls::read_client_policy(policy, &mesh, &spec.field("backendDefaults"), problems),
        access_log: logging::read(logging.as_ref(), problems),
        forwards_client_address: values::forwards_client_address(&gateway.metadata, problems),
    })
}

fn read_listeners(
    listeners: &[v1beta2::VirtualGatewayListener],
    mesh: &ResolvedMesh,
    problems: &mut Problems<'_>,
) -> Vec<GatewayListener> {
    let field = FieldPath::spec().field("listeners");
    if listeners.is_empty() {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidValue,
            Severity::Warning,
            "the gateway has no listener, so it accepts no requests; add one",
        );
    }
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
        .filter_map(|(index, (settings, port))| {
            let port = port?;
            let v1beta2::VirtualGatewayListener {
                port_mapping: _,
                health_check,
                connection_pool,
                tls: tls_settings,
            } = settings;
            let field = field.index(index);
            let tls = tls::read_gateway_listener(
                tls_settings.as_ref(),
                mesh,
                &field.field("tls"),
                problems,
            );
            if let Some(check) = health_check {
                // For the load balancer in front of the gateway; no proxy probes a gateway.
                listener::check_port(check.port, port, &field.field("healthCheck"), problems);
            }
            let resolved = GatewayListener {
                limits: connection_pool
                    .map(|pool| {
                        let field = field.field("connectionPool");
                        listener::read_gateway_pool(pool, port.protocol, &field, problems)
                    })
                    .unwrap_or_default(),
                ..GatewayListener::new(port.port, port.protocol)
            };
            tls.ok().map(|tls| GatewayListener { tls, ..resolved })
        })
        .collect()
}

/// Adds the attached routes to a gateway, in the order of [`AttachedRoute::precedence`].
pub(crate) fn resolve(
    unresolved: &UnresolvedGateway,
    routes: &[Arc<AttachedRoute>],
) -> WithProblems<ResolvedGateway> {
    let mut problems = Problems::of(&unresolved.object);
    let mut sorted: Vec<&AttachedRoute> = Vec::with_capacity(routes.len());
    if unresolved.tls.is_ok() {
        sorted.extend(routes.iter().map(|route| &**route));
    }
    sorted.sort_by(|one, other| {
        (&one.route.name, one.seniority()).cmp(&(&other.route.name, other.seniority()))
    });
    sorted.dedup_by(|later, first| {
        let is_same = later.route.name == first.route.name;
        if is_same {
            let mut of_route = Problems::of(&later.route.object);
            of_route.add(
                FieldPath::spec().field("awsName"),
                Reason::DuplicateName,
                format!(
                    "awsName `{}` is already used on this gateway by `{}`, which takes precedence; choose another awsName",
                    first.route.name, first.route.object
                ),
            );
            problems.extend(of_route.into_list());
        }
        is_same
    });
    let listeners = &unresolved.listeners;
    sorted.sort_by_cached_key(|route| AttachedRoute::precedence(route, listeners));
    problems.extend(conflict::unreached_on_gateway(&sorted, listeners));
    let gateway = ResolvedGateway {
        name: unresolved.name.clone(),
        object: unresolved.object.clone(),
        listeners: unresolved.listeners.clone(),
        routes: sorted
            .into_iter()
            .map(|route| Arc::clone(&route.route))
            .collect(),
        tls: unresolved.tls.clone().ok().flatten(),
        access_log: unresolved.access_log.clone(),
        forwards_client_address: unresolved.forwards_client_address,
    };
    WithProblems::new(Some(gateway), problems)
}
