//! Parsers of a node's listeners, discovery and backends, without resolving references.

use evermesh_crds::v1beta2;
use evermesh_model::{
    CloudMapService, Discovery, DnsResponse, Kind, NodeListener, Reason, ResolvedMesh,
    problem::FieldPath,
};

use super::{UnresolvedBackend, UnresolvedBackends};
use crate::{backend_group, listener, name_index::unique_ports, stage::Problems, tls, values};

pub(super) fn read_listeners(
    listeners: &[v1beta2::Listener],
    mesh: &ResolvedMesh,
    problems: &mut Problems<'_>,
) -> Vec<NodeListener> {
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
        .filter_map(|(index, (settings, port))| {
            let port = port?;
            let v1beta2::Listener {
                port_mapping: _,
                health_check,
                outlier_detection,
                connection_pool,
                timeout,
                tls: tls_settings,
            } = settings;
            let field = field.index(index);
            let tls =
                tls::read_node_listener(tls_settings.as_ref(), mesh, &field.field("tls"), problems);
            let resolved = NodeListener {
                timeout: timeout
                    .map(|timeout| {
                        let field = field.field("timeout");
                        listener::read_timeout(timeout, port.protocol, &field, problems)
                    })
                    .unwrap_or_default(),
                health_check: health_check.as_ref().and_then(|check| {
                    listener::read_health_check(check, port, &field.field("healthCheck"), problems)
                }),
                outlier: outlier_detection.as_ref().and_then(|detection| {
                    listener::read_outlier_detection(
                        detection,
                        &field.field("outlierDetection"),
                        problems,
                    )
                }),
                limits: connection_pool
                    .map(|pool| {
                        let field = field.field("connectionPool");
                        listener::read_node_pool(pool, port.protocol, &field, problems)
                    })
                    .unwrap_or_default(),
                ..NodeListener::new(port.port, port.protocol)
            };
            tls.ok().map(|tls| NodeListener { tls, ..resolved })
        })
        .collect()
}

pub(super) fn read_discovery(
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
            if !values::is_resolvable(hostname) {
                problems.add(
                    field.field("dns.hostname"),
                    Reason::InvalidValue,
                    format!(
                        "`{}` is neither an IP address nor a name that DNS can have, so the node has no endpoints; use labels of 1 to 63 letters, digits, `-` and `_`, joined by dots",
                        hostname.escape_debug()
                    ),
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
                "both dns and awsCloudMap are set, so neither is used; keep one",
            );
            None
        }
        (None, None) => {
            problems.add(
                field,
                Reason::InvalidUnion,
                "neither dns nor awsCloudMap is set; set one, or remove serviceDiscovery",
            );
            None
        }
    }
}

pub(super) fn read_backends(
    backends: &[v1beta2::Backend],
    groups: &[v1beta2::Reference],
    defaults: Option<&v1beta2::BackendDefaults>,
    mesh: &ResolvedMesh,
    problems: &mut Problems<'_>,
) -> UnresolvedBackends {
    let spec = FieldPath::spec();
    let default_policy =
        defaults.and_then(|v1beta2::BackendDefaults { client_policy }| client_policy.as_ref());
    let default_tls = tls::read_client_policy(
        default_policy,
        mesh,
        &spec.field("backendDefaults"),
        problems,
    );
    let listed = backends
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
            let reference = values::ref_or_arn(
                Kind::VirtualService,
                virtual_service_ref.as_ref(),
                virtual_service_arn.as_ref(),
            )
            .read(&field, problems);
            let own_policy = client_policy.as_ref().filter(|policy| policy.tls.is_some());
            let tls = match own_policy {
                Some(_) => tls::read_client_policy(own_policy, mesh, &field, problems),
                None => default_tls.clone(),
            };
            Some(UnresolvedBackend {
                index,
                service: reference?,
                tls,
            })
        })
        .collect();
    UnresolvedBackends {
        listed,
        groups: groups
            .iter()
            .map(|group| backend_group::reference(group, problems.object()))
            .collect(),
        group_tls: default_tls,
    }
}
