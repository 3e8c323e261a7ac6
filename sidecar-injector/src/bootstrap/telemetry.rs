//! Statistics and traces: tags, exclusions, the `DogStatsD` sink and the tracing provider.
//!
//! The listeners, which come over xDS, decide which requests are traced.

use std::collections::BTreeMap;

use evermesh_model::{ProxyKind, ResourceName};
use evermesh_proto::{
    Any,
    cluster::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType},
    },
    core::{
        Address, DataSource, GrpcService, SocketAddress,
        data_source::Specifier,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
        socket_address,
    },
    matcher::{ListStringMatcher, StringMatcher, string_matcher::MatchPattern},
    pack,
    pb::envoy::config::{
        metrics::v3::{
            DogStatsdSink, StatsConfig, StatsMatcher, StatsSink, TagSpecifier,
            dog_statsd_sink::DogStatsdSpecifier, stats_matcher, stats_sink,
            tag_specifier::TagValue,
        },
        trace::v3::{
            DatadogConfig, OpenTelemetryConfig, Tracing as TracingConfig, XRayConfig, ZipkinConfig,
            tracing::{Http, http},
            x_ray_config::SegmentFields,
            zipkin_config::CollectorEndpointVersion,
        },
    },
    protobuf::{self, BoolValue, value::Kind},
};
use serde_json::json;

use super::{
    HostPort, SDS, control_plane::CONTROL_PLANE, duration, endpoints, http2_options, pages, pipe,
    socket,
};

/// The address of a `DogStatsD` server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsD {
    /// A UDP address. Envoy accepts only an IP address here, not a host name.
    Udp(HostPort),
    /// The path of a Unix datagram socket.
    Socket(String),
}

/// The tracer that receives spans.
#[derive(Debug, Clone, PartialEq)]
pub enum Tracing {
    /// Jaeger, or another collector that accepts Zipkin JSON (version 2) over HTTP, at this address.
    Jaeger(HostPort),
    /// A Datadog agent at this address.
    Datadog(HostPort),
    /// A collector that accepts OTLP over gRPC, such as that of OpenTelemetry, at this address.
    OpenTelemetry(HostPort),
    /// An X-Ray daemon on the host of the proxy.
    XRay {
        /// The UDP port of the daemon.
        port: u16,
        /// The share of requests that are traced, from 0 to 1, in addition to the first request of each second.
        sampling_rate: f64,
    },
}

const JAEGER: &str = "jaeger";
const DATADOG: &str = "datadog_agent";
const OPENTELEMETRY: &str = "opentelemetry_collector";

impl Tracing {
    /// The cluster of the collector. X-Ray has none, because Envoy sends its spans as datagrams.
    pub(super) fn cluster(&self) -> Option<Cluster> {
        let (name, address) = match self {
            Self::Jaeger(address) => (JAEGER, address),
            Self::Datadog(address) => (DATADOG, address),
            Self::OpenTelemetry(address) => (OPENTELEMETRY, address),
            Self::XRay { .. } => return None,
        };
        let options = match self {
            Self::OpenTelemetry(_) => http2_options(),
            _ => BTreeMap::new(),
        };
        Some(Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(
                DiscoveryType::StrictDns.into(),
            )),
            connect_timeout: Some(duration(1)),
            load_assignment: Some(endpoints(name, socket(address))),
            typed_extension_protocol_options: options,
            ..Default::default()
        })
    }

    /// The default tracing provider, for listeners that name none.
    pub(super) fn provider(&self, node: &ResourceName) -> TracingConfig {
        let (name, config): (_, Any) = match self {
            Self::Jaeger(_) => (
                "envoy.tracers.zipkin",
                pack(&ZipkinConfig {
                    collector_cluster: JAEGER.to_owned(),
                    collector_endpoint: "/api/v2/spans".to_owned(),
                    collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
                    shared_span_context: Some(BoolValue { value: false }),
                    trace_id_128bit: true,
                    ..Default::default()
                }),
            ),
            Self::Datadog(_) => (
                "envoy.tracers.datadog",
                pack(&DatadogConfig {
                    collector_cluster: DATADOG.to_owned(),
                    service_name: format!("envoy-{}/{}", node.mesh, node.name),
                    ..Default::default()
                }),
            ),
            Self::OpenTelemetry(_) => (
                "envoy.tracers.opentelemetry",
                pack(&OpenTelemetryConfig {
                    grpc_service: Some(GrpcService {
                        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                            cluster_name: OPENTELEMETRY.to_owned(),
                            ..Default::default()
                        })),
                        ..Default::default()
                    }),
                    service_name: node.to_string(),
                    ..Default::default()
                }),
            ),
            Self::XRay {
                port,
                sampling_rate,
            } => (
                "envoy.tracers.xray",
                pack(&xray(*port, *sampling_rate, node)),
            ),
        };
        TracingConfig {
            http: Some(Http {
                name: name.to_owned(),
                config_type: Some(http::ConfigType::TypedConfig(config)),
            }),
        }
    }
}

fn xray(port: u16, sampling_rate: f64, node: &ResourceName) -> XRayConfig {
    let rules = json!({ "version": 2, "default": { "fixed_target": 1, "rate": sampling_rate } });
    XRayConfig {
        daemon_endpoint: Some(SocketAddress {
            address: "127.0.0.1".to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            protocol: socket_address::Protocol::Udp.into(),
            ..Default::default()
        }),
        segment_name: format!("{}/{}", node.mesh, node.name),
        segment_fields: Some(segment_fields(node)),
        sampling_rule_manifest: Some(DataSource {
            specifier: Some(Specifier::InlineString(rules.to_string())),
            ..Default::default()
        }),
    }
}

/// The fields by which X-Ray shows a proxy of App Mesh. X-Ray knows no name of a gateway, so it has that of a node too.
fn segment_fields(node: &ResourceName) -> SegmentFields {
    let text = |value: &str| Kind::StringValue(value.to_owned());
    let member = object([
        ("mesh_name", text(&node.mesh)),
        ("virtual_node_name", text(&node.name)),
    ]);
    SegmentFields {
        origin: "AWS::AppMesh::Proxy".to_owned(),
        aws: Some(object([("app_mesh", Kind::StructValue(member))])),
    }
}

fn object<const N: usize>(fields: [(&str, Kind); N]) -> protobuf::Struct {
    let fields = fields.map(|(name, kind)| {
        let value = protobuf::Value { kind: Some(kind) };
        (name.to_owned(), value)
    });
    protobuf::Struct {
        fields: fields.into(),
    }
}

impl StatsD {
    pub(super) fn sink(&self) -> StatsSink {
        let address = match self {
            Self::Udp(address) => udp(address),
            Self::Socket(path) => pipe(path),
        };
        StatsSink {
            name: "envoy.stat_sinks.dog_statsd".to_owned(),
            config_type: Some(stats_sink::ConfigType::TypedConfig(pack(&DogStatsdSink {
                dog_statsd_specifier: Some(DogStatsdSpecifier::Address(address)),
                ..Default::default()
            }))),
        }
    }
}

fn udp(HostPort { host, port }: &HostPort) -> Address {
    use evermesh_proto::core::address::Address as AddressKind;
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: host.clone(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue((*port).into())),
            protocol: socket_address::Protocol::Udp.into(),
            ..Default::default()
        })),
    }
}

/// The tags of statistics and the statistics that are excluded.
pub(super) fn stats(node: &ResourceName, with_tags: bool) -> StatsConfig {
    StatsConfig {
        stats_tags: if with_tags {
            member_tags(node)
        } else {
            Vec::new()
        }
        .into_iter()
        .chain(listener_tags())
        .collect(),
        stats_matcher: Some(StatsMatcher {
            stats_matcher: Some(stats_matcher::StatsMatcher::ExclusionList(excluded())),
        }),
        ..Default::default()
    }
}

/// App Mesh's tags for the mesh and the node.
fn member_tags(node: &ResourceName) -> Vec<TagSpecifier> {
    let kind = match node.kind {
        ProxyKind::VirtualNode => "appmesh.virtual_node",
        ProxyKind::VirtualGateway => "appmesh.virtual_gateway",
        ProxyKind::VirtualRouter => "appmesh.virtual_router",
    };
    let fixed = |name, value: &str| tag(name, TagValue::FixedValue(value.to_owned()));
    vec![fixed("appmesh.mesh", &node.mesh), fixed(kind, &node.name)]
}

/// App Mesh's tags for the protocol and port of inbound listeners, which are part of the names of their statistics
/// (`http.ingress.http.8080.downstream_rq_total`). Without them each port would have metrics of its own, so they cannot
/// be turned off.
fn listener_tags() -> [TagSpecifier; 3] {
    let regex = |name, regex: &str| tag(name, TagValue::Regex(regex.to_owned()));
    [
        regex(
            "appmesh.listener_protocol",
            r"^(?:http|tcp)\.ingress\.((\w+)\.)\d+\.",
        ),
        regex(
            "appmesh.listener_port",
            r"^(?:http|tcp)\.ingress\.\w+\.((\d+)\.)",
        ),
        regex(
            "envoy_rds_route_config",
            r"^http\.ingress\.\w+\.\d+\.rds\.((\w+)\.)",
        ),
    ]
}

fn tag(name: &str, value: TagValue) -> TagSpecifier {
    TagSpecifier {
        tag_name: name.to_owned(),
        tag_value: Some(value),
    }
}

/// Excluded statistics: those of the control plane's cluster and of the pages for probes, the requests to tracers and to the secret discovery
/// service, and those that grow with threads, zones or clusters and that dashboards do not show. Dashboards and Flagger
/// sum the requests of all clusters, so a failing collector would look like a failing application.
/// An exclusion list is safer than an inclusion list, which would drop statistics that alerts depend on.
fn excluded() -> ListStringMatcher {
    let helpers = [JAEGER, DATADOG, OPENTELEMETRY, SDS];
    let prefixes = helpers
        .map(|cluster| format!("cluster.{cluster}.upstream_rq"))
        .into_iter()
        .chain([
            format!("cluster.{CONTROL_PLANE}."),
            format!("cluster.{}.", pages::CLUSTER),
            format!("http.{}.", pages::LISTENER),
            format!("listener.{}.", pages::LISTENER),
            "runtime.".to_owned(),
            "workers.".to_owned(),
        ]);
    let parts = [
        ".worker_",
        ".zone.",
        ".lb_",
        ".internal.upstream_rq",
        ".external.upstream_rq",
        ".canary.upstream_rq",
        ".upstream_flow_control_",
    ];
    let patterns = prefixes
        .map(MatchPattern::Prefix)
        .chain(parts.map(|part| MatchPattern::Contains(part.to_owned())))
        .map(|pattern| StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        });
    ListStringMatcher {
        patterns: patterns.collect(),
    }
}
