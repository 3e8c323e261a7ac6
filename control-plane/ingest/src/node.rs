//! `VirtualNode` → [`VirtualNode`].
//!
//! [`draft`] reads the object alone, [`find`] follows its references, [`resolve`] puts both together.
//!
//! Must not look for endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{
    Backend, CloudMapService, Discovery, DnsResponse, Kind, Listener, ObjectRef, Protocol, Reason,
    ResourceName, ServiceName, ServicePort, Timeout, VirtualNode, name::ProxyKind,
    problem::FieldPath,
};

use crate::{
    Settings, admission,
    directory::{Directory, Draft, Face, Found, Name, Reference, unique_ports},
    local_ports::{self, LocalDraft},
    membership::Membership,
    security, slices,
    stage::{Checked, Problems},
    values,
};

/// A virtual node whose references are not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeDraft {
    name: ResourceName,
    object: ObjectRef,
    listeners: Vec<Listener>,
    discovery: Option<Discovery>,
    /// What its mesh says of slices.
    slices: Option<bool>,
    /// Whether it says which pods are its own.
    selects_pods: bool,
    backends: Vec<(usize, Reference)>,
    /// Where nothing is intercepted.
    local_ports: Option<LocalDraft>,
}

impl Draft for NodeDraft {
    type Name = ResourceName;

    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl NodeDraft {
    pub(crate) fn face(&self) -> Face<ResourceName> {
        Face {
            name: self.name.clone(),
            object: self.object.clone(),
            ports: self
                .listeners
                .iter()
                .map(|listener| ServicePort {
                    port: listener.port,
                    protocol: listener.protocol,
                })
                .collect(),
        }
    }
}

/// Reads the object.
pub(crate) fn draft(
    object: &ObjectRef,
    node: &v1beta2::VirtualNode,
    membership: &Membership,
) -> Checked<NodeDraft> {
    let mut problems = Problems::of(object);
    let value = try_draft(node, membership, &mut problems);
    Checked::new(value, problems)
}

fn try_draft(
    node: &v1beta2::VirtualNode,
    membership: &Membership,
    problems: &mut Problems<'_>,
) -> Option<NodeDraft> {
    let object = problems.object();
    let v1beta2::VirtualNodeSpec {
        aws_name,
        pod_selector,
        listeners,
        service_discovery,
        backends,
        backend_groups,
        backend_defaults,
        logging,
        mesh_ref,
    } = &node.spec;
    let refusals = admission::virtual_node(object, &node.spec);
    let (mesh, name) =
        membership.place(mesh_ref.as_ref(), aws_name.as_deref(), refusals, problems)?;

    let spec = FieldPath::spec();
    if logging.is_some() {
        unsupported(spec.field("logging"), "no access log is written", problems);
    }
    if backend_groups
        .as_ref()
        .is_some_and(|groups| !groups.is_empty())
    {
        unsupported(
            spec.field("backendGroups"),
            "list their virtual services in spec.backends",
            problems,
        );
    }
    let listeners = listeners.as_deref().unwrap_or_default();
    let ports = listeners.iter().map(|it| it.port_mapping.port).collect();
    Some(NodeDraft {
        name: ResourceName::new(Arc::clone(&mesh.name), ProxyKind::VirtualNode, name),
        object: object.clone(),
        listeners: read_listeners(listeners, problems),
        discovery: service_discovery
            .as_ref()
            .and_then(|discovery| read_discovery(discovery, problems)),
        slices: mesh.endpoint_slices,
        selects_pods: pod_selector.is_some(),
        backends: read_backends(
            backends.as_deref().unwrap_or_default(),
            backend_defaults.as_ref(),
            problems,
        ),
        local_ports: local_ports::draft(&node.metadata, &ports, problems),
    })
}

/// A field of later work.
pub(crate) fn unsupported(field: FieldPath, advice: &str, problems: &mut Problems<'_>) {
    let message = format!("not served yet; {advice}");
    problems.add(field, Reason::UnsupportedField, message);
}

fn read_listeners(listeners: &[v1beta2::Listener], problems: &mut Problems<'_>) -> Vec<Listener> {
    let field = FieldPath::spec().field("listeners");
    let ports = unique_ports(
        listeners.iter().map(|listener| {
            let v1beta2::PortMapping { port, protocol } = listener.port_mapping;
            (port, values::protocol(protocol))
        }),
        &field,
        problems,
    );
    listeners
        .iter()
        .zip(ports)
        .enumerate()
        .filter_map(|(index, (listener, port))| {
            let ServicePort { port, protocol } = port?;
            let v1beta2::Listener {
                port_mapping: _,
                health_check,
                outlier_detection,
                connection_pool,
                timeout,
                tls,
            } = listener;
            let field = field.index(index);
            if health_check.is_some() {
                unsupported(
                    field.field("healthCheck"),
                    "endpoints are not probed",
                    problems,
                );
            }
            if outlier_detection.is_some() {
                unsupported(
                    field.field("outlierDetection"),
                    "endpoints that fail are not ejected",
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
            security::listener_is_served(mode, &field, problems).then(|| Listener {
                port,
                protocol,
                timeout: timeout
                    .map(|timeout| {
                        read_timeout(timeout, protocol, &field.field("timeout"), problems)
                    })
                    .unwrap_or_default(),
            })
        })
        .collect()
}

/// The timeout of the listener's protocol. Flagger writes `http` under a `grpc` listener, so between
/// HTTP-like protocols any one is taken, with a warning.
fn read_timeout(
    timeout: v1beta2::ListenerTimeout,
    protocol: Protocol,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Timeout {
    let v1beta2::ListenerTimeout {
        tcp,
        http,
        http2,
        grpc,
    } = timeout;
    let variants = [
        (Protocol::Tcp, tcp.map(values::tcp_timeout)),
        (Protocol::Http, http.map(values::http_timeout)),
        (Protocol::Http2, http2.map(values::http_timeout)),
        (Protocol::Grpc, grpc.map(values::http_timeout)),
    ];
    let mut written = variants
        .into_iter()
        .filter_map(|(variant, timeout)| Some((variant, timeout?)));
    let Some((variant, timeout)) = written.next() else {
        return Timeout::default();
    };
    if written.next().is_some() {
        problems.add(
            field.clone(),
            Reason::InvalidUnion,
            format!(
                "timeouts of several protocols are set and none counts: keep the one for {protocol}"
            ),
        );
        return Timeout::default();
    }
    if variant == protocol {
        return timeout;
    }
    let consequence = if variant.is_http() == protocol.is_http() {
        "it counts all the same"
    } else {
        "it does not count"
    };
    problems.add(
        field.field(variant.as_str()),
        Reason::ProtocolMismatch,
        format!(
            "the listener speaks {protocol}, not {variant}; {consequence}: write timeout.{protocol}"
        ),
    );
    if variant.is_http() == protocol.is_http() {
        timeout
    } else {
        Timeout::default()
    }
}

fn read_discovery(
    discovery: &v1beta2::ServiceDiscovery,
    problems: &mut Problems<'_>,
) -> Option<Discovery> {
    let v1beta2::ServiceDiscovery { dns, aws_cloud_map } = discovery;
    let field = FieldPath::spec().field("serviceDiscovery");
    match (dns, aws_cloud_map) {
        (Some(dns), None) => {
            let v1beta2::DnsServiceDiscovery {
                hostname,
                response_type,
            } = dns;
            if hostname.is_empty()
                || hostname.contains(|c: char| c.is_whitespace() || c.is_control())
            {
                problems.add(
                    field.field("dns.hostname"),
                    Reason::InvalidValue,
                    format!("{hostname:?} cannot be resolved: give a host name"),
                );
                return None;
            }
            Some(Discovery::Dns {
                hostname: hostname.as_str().into(),
                response: match response_type {
                    Some(v1beta2::DnsResponseType::Endpoints) => DnsResponse::Endpoints,
                    Some(v1beta2::DnsResponseType::Loadbalancer) | None => {
                        DnsResponse::LoadBalancer
                    }
                },
            })
        }
        (None, Some(cloud_map)) => {
            let v1beta2::AwsCloudMapServiceDiscovery {
                namespace_name,
                service_name,
                attributes,
            } = cloud_map;
            Some(Discovery::CloudMap {
                service: CloudMapService {
                    namespace: namespace_name.as_str().into(),
                    service: service_name.as_str().into(),
                },
                attributes: attributes
                    .iter()
                    .flatten()
                    .map(|v1beta2::AwsCloudMapInstanceAttribute { key, value }| {
                        (key.as_str().into(), value.as_str().into())
                    })
                    .collect(),
                own_pods: false,
            })
        }
        (Some(_), Some(_)) => {
            problems.add(
                field,
                Reason::InvalidUnion,
                "both dns and awsCloudMap are set and neither counts: keep one",
            );
            None
        }
        (None, None) => {
            problems.add(
                field,
                Reason::InvalidUnion,
                "neither dns nor awsCloudMap is set: set one, or remove serviceDiscovery",
            );
            None
        }
    }
}

fn read_backends(
    backends: &[v1beta2::Backend],
    defaults: Option<&v1beta2::BackendDefaults>,
    problems: &mut Problems<'_>,
) -> Vec<(usize, Reference)> {
    let spec = FieldPath::spec();
    let default_policy =
        defaults.and_then(|v1beta2::BackendDefaults { client_policy }| client_policy.as_ref());
    let default_is_served =
        security::backends_are_served(default_policy, &spec.field("backendDefaults"), problems);
    backends
        .iter()
        .enumerate()
        .filter_map(|(index, backend)| {
            let v1beta2::Backend {
                virtual_service:
                    v1beta2::VirtualServiceBackend {
                        virtual_service_ref,
                        virtual_service_arn,
                        client_policy,
                    },
            } = backend;
            let field = spec.field("backends").index(index).field("virtualService");
            let reference = values::written(
                Kind::VirtualService,
                virtual_service_ref.as_ref(),
                virtual_service_arn.as_ref(),
            )
            .read(&field, problems);
            let own_policy = client_policy.as_ref().filter(|policy| policy.tls.is_some());
            let is_served = match own_policy {
                Some(_) => security::backends_are_served(own_policy, &field, problems),
                None => default_is_served,
            };
            reference
                .filter(|_| is_served)
                .map(|reference| (index, reference))
        })
        .collect()
}

/// What a draft's references lead to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeFinds {
    discovery: Option<Discovery>,
    backends: Vec<Found<ServiceName>>,
}

/// Follows the references: the backends, and the DNS name where it means a Service of this cluster.
pub(crate) fn find(
    draft: &NodeDraft,
    services: &Directory<ServiceName>,
    with_slices: &BTreeSet<ObjectRef>,
    settings: Settings,
) -> NodeFinds {
    let is_from_slices = draft.slices.unwrap_or(settings.slices);
    let discovery = match draft.discovery.clone() {
        Some(Discovery::Dns { hostname, .. }) if is_from_slices => {
            slices::find_service(&hostname, &draft.object.namespace, with_slices)
                .map(|service| Discovery::Slices {
                    namespace: service.namespace,
                    service: service.name,
                })
                .or_else(|| draft.discovery.clone())
        }
        Some(Discovery::CloudMap {
            service,
            attributes,
            own_pods: _,
        }) => Some(Discovery::CloudMap {
            service,
            attributes,
            own_pods: is_from_slices && draft.selects_pods,
        }),
        other => other,
    };
    NodeFinds {
        discovery,
        backends: draft
            .backends
            .iter()
            .map(|(_, reference)| services.find(reference, &draft.name.mesh))
            .collect(),
    }
}

/// Puts a draft and what its references lead to together.
pub(crate) fn resolve(draft: &NodeDraft, finds: &NodeFinds) -> Checked<VirtualNode> {
    let mut problems = Problems::of(&draft.object);
    let field = |index: usize| FieldPath::spec().field("backends").index(index);
    let mut backends: Vec<(Arc<str>, usize, &Face<ServiceName>)> = Vec::new();
    for ((index, reference), found) in draft.backends.iter().zip(&finds.backends) {
        match found {
            Ok(face) => backends.push((face.name.folded().1, *index, face)),
            Err(miss) => miss.report(
                reference,
                Kind::VirtualService,
                field(*index).field("virtualService"),
                "the node cannot call it",
                &mut problems,
            ),
        }
    }
    backends.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    backends.dedup_by(|later, first| {
        let is_same = later.0 == first.0;
        if is_same {
            problems.add(
                field(later.1),
                Reason::DuplicateBackend,
                format!(
                    "`{}` is listed as spec.backends[{}] already: remove one of the two",
                    first.0, first.1
                ),
            );
        }
        is_same
    });
    if draft.local_ports.is_none() {
        leave_out_conflicts(&mut backends, &mut problems);
    }
    let local_ports = draft.local_ports.as_ref().map(|local| {
        let faces = backends.iter().map(|(_, _, face)| *face);
        local.resolve(faces, &mut problems)
    });
    let mut backends: Vec<Backend> = backends
        .into_iter()
        .map(|(_, _, face)| Backend {
            service: Arc::clone(&face.name.hostname),
        })
        .collect();
    backends.sort_by(|one, other| one.service.cmp(&other.service));
    let node = VirtualNode {
        name: draft.name.clone(),
        object: draft.object.clone(),
        listeners: draft.listeners.clone(),
        discovery: finds.discovery.clone(),
        backends,
        local_ports,
    };
    Checked::new(Some(node), problems)
}

/// Of backends that share a port, those stay that the first leaves room for.
fn leave_out_conflicts(
    backends: &mut Vec<(Arc<str>, usize, &Face<ServiceName>)>,
    problems: &mut Problems<'_>,
) {
    let mut taken: BTreeMap<u16, (Protocol, Arc<str>)> = BTreeMap::new();
    backends.retain(|(hostname, index, face)| {
        let conflict = face.ports.iter().find_map(|wanted| {
            let (protocol, owner) = taken.get(&wanted.port)?;
            (!protocol.is_http() || !wanted.protocol.is_http()).then_some((wanted, protocol, owner))
        });
        if let Some((wanted, protocol, owner)) = conflict {
            problems.add(
                FieldPath::spec().field("backends").index(*index),
                Reason::PortConflict,
                format!(
                    "`{hostname}` speaks {} on port {} and `{owner}` speaks {protocol} on it; nothing but the port tells TCP connections apart, so this backend is left out: give one of them another port",
                    wanted.protocol, wanted.port
                ),
            );
            return false;
        }
        for port in &face.ports {
            taken.insert(port.port, (port.protocol, Arc::clone(hostname)));
        }
        true
    });
}
