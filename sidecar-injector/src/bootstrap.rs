//! Envoy's bootstrap: who the proxy is, where its configuration comes from, what it counts.
//!
//! Everything else comes over the stream. Plain Envoy, oldest to newest supported, starts from it without a
//! warning about deprecated fields.
//!
//! Must not name a listener, cluster or route of the mesh.

use std::{fmt, net::IpAddr, str::FromStr};

use evermesh_model::{ProxyKind, ResourceName};
use evermesh_proto::{
    bootstrap::{
        Admin, Bootstrap, LayeredRuntime, RuntimeLayer,
        bootstrap::{DynamicResources, StaticResources},
        runtime_layer::{AdminLayer, LayerSpecifier},
    },
    cluster::{
        Cluster, UpstreamConnectionOptions,
        cluster::{ClusterDiscoveryType, DiscoveryType},
    },
    core::{
        self, AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService,
        Http2ProtocolOptions, KeepaliveSettings, Locality, Node, Pipe, SocketAddress, TcpKeepalive,
        address::Address as AddressKind,
        api_config_source::ApiType,
        config_source::ConfigSourceSpecifier,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
        socket_address::PortSpecifier,
    },
    endpoint::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
    json::{self, JsonError},
    matcher::{ListStringMatcher, StringMatcher, string_matcher::MatchPattern},
    pack,
    pb::envoy::{
        config::metrics::v3::{
            StatsConfig, StatsMatcher, TagSpecifier, stats_matcher, tag_specifier::TagValue,
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
    protobuf,
};

/// The cluster of the control plane. Its statistics are left out, so that sums over all clusters of a proxy
/// (`envoy_cluster_upstream_rq`) count the mesh's traffic only; `control_plane.connected_state` says how it is.
const CONTROL_PLANE: &str = "evermesh_control_plane";

/// What a bootstrap depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapOptions {
    /// Who the proxy is.
    pub node: ResourceName,
    /// The id it reports, if not its name: another form that parses as one, such as an ARN.
    pub id: Option<String>,
    /// The service cluster it reports, if not its id.
    pub cluster: Option<String>,
    /// The zone it runs in.
    pub zone: Option<String>,
    /// Where the control plane listens.
    pub xds: HostPort,
    /// Whether to speak the older flavour of xDS, which sends all resources of a type each time.
    pub sotw: bool,
    /// Where Envoy's admin pages are.
    pub admin: AdminAddress,
}

impl BootstrapOptions {
    /// A proxy with the default of everything else.
    pub fn new(node: ResourceName, xds: HostPort) -> Self {
        Self {
            node,
            id: None,
            cluster: None,
            zone: None,
            xds,
            sotw: false,
            admin: AdminAddress::default(),
        }
    }
}

/// A host name or an IP address, and a port: `evermesh.evermesh-system:18000`, `[::1]:18000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// 1 to 65535
    pub port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form HOST:PORT")]
pub struct InvalidHostPort(pub String);

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let bracketed = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'));
            let is_host = bracketed.is_some() || !host.contains(':');
            let host = bracketed.unwrap_or(host);
            let port = port.parse().ok().filter(|port| *port != 0)?;
            (is_host && !host.is_empty()).then(|| Self {
                host: host.to_owned(),
                port,
            })
        };
        parse().ok_or_else(|| InvalidHostPort(text.to_owned()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where Envoy's admin pages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// On this address; `127.0.0.1:9901` by default.
    Tcp(HostPort),
    /// On a Unix socket with this path.
    Pipe(String),
}

impl Default for AdminAddress {
    fn default() -> Self {
        Self::Tcp(HostPort {
            host: "127.0.0.1".to_owned(),
            port: 9901,
        })
    }
}

/// The bootstrap of a proxy.
pub fn bootstrap(options: &BootstrapOptions) -> Bootstrap {
    let BootstrapOptions {
        node,
        id,
        cluster,
        zone,
        xds,
        sotw,
        admin,
    } = options;
    let id = id.clone().unwrap_or_else(|| node.to_string());
    Bootstrap {
        node: Some(Node {
            cluster: cluster.clone().unwrap_or_else(|| id.clone()),
            id,
            locality: zone.clone().map(|zone| Locality {
                zone,
                ..Default::default()
            }),
            ..Default::default()
        }),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ads(*sotw)),
            lds_config: Some(over_ads()),
            cds_config: Some(over_ads()),
            ..Default::default()
        }),
        static_resources: Some(StaticResources {
            clusters: vec![control_plane(xds)],
            ..Default::default()
        }),
        stats_config: Some(StatsConfig {
            stats_tags: stats_tags(node),
            stats_matcher: Some(StatsMatcher {
                stats_matcher: Some(stats_matcher::StatsMatcher::ExclusionList(noise())),
            }),
            ..Default::default()
        }),
        layered_runtime: Some(runtime()),
        admin: Some(Admin {
            address: Some(match admin {
                AdminAddress::Tcp(address) => socket(address),
                AdminAddress::Pipe(path) => core::Address {
                    address: Some(AddressKind::Pipe(Pipe {
                        path: path.clone(),
                        ..Default::default()
                    })),
                },
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A bootstrap as Envoy reads it from a file: protobuf JSON, which is YAML too.
pub fn render(bootstrap: &Bootstrap) -> Result<String, JsonError> {
    Ok(format!("{:#}\n", json::to_json(bootstrap)?))
}

fn ads(sotw: bool) -> ApiConfigSource {
    let flavour = if sotw {
        ApiType::Grpc
    } else {
        ApiType::DeltaGrpc
    };
    ApiConfigSource {
        api_type: flavour.into(),
        transport_api_version: ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: CONTROL_PLANE.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Over the stream, without a limit to the first answer: a proxy without configuration must not become ready.
fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(duration(0)),
        config_source_specifier: Some(
            ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()),
        ),
        ..Default::default()
    }
}

/// The control plane. A name is resolved again and again, so that replicas may come and go. A peer that vanished
/// without a word is noticed by pings, and by TCP where a proxy in between answers those.
fn control_plane(xds: &HostPort) -> Cluster {
    let discovery = if xds.host.parse::<IpAddr>().is_ok() {
        DiscoveryType::Static
    } else {
        DiscoveryType::StrictDns
    };
    let http2 = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
                    connection_keepalive: Some(KeepaliveSettings {
                        interval: Some(duration(30)),
                        timeout: Some(duration(5)),
                        ..Default::default()
                    }),
                    ..Default::default()
                })),
            },
        )),
        ..Default::default()
    };
    Cluster {
        name: CONTROL_PLANE.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        connect_timeout: Some(duration(1)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: CONTROL_PLANE.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![LbEndpoint {
                    host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                        address: Some(socket(xds)),
                        ..Default::default()
                    })),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack(&http2),
        )]
        .into(),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: Some(uint32(3)),
                keepalive_time: Some(uint32(30)),
                keepalive_interval: Some(uint32(5)),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// App Mesh's tags: who the proxy is; and protocol and port of an inbound listener, which stand in the names of its
/// statistics (`http.ingress.http.8080.downstream_rq_total`).
fn stats_tags(node: &ResourceName) -> Vec<TagSpecifier> {
    let kind = match node.kind {
        ProxyKind::VirtualNode => "appmesh.virtual_node",
        ProxyKind::VirtualGateway => "appmesh.virtual_gateway",
        ProxyKind::VirtualRouter => "appmesh.virtual_router",
    };
    let fixed = |name, value: &str| tag(name, TagValue::FixedValue(value.to_owned()));
    let regex = |name, regex: &str| tag(name, TagValue::Regex(regex.to_owned()));
    vec![
        fixed("appmesh.mesh", &node.mesh),
        fixed(kind, &node.name),
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

/// Statistics that nobody's dashboard shows and that grow with threads, zones or clusters. Everything else stays:
/// a list of what to keep would silently lose what somebody alerts on.
fn noise() -> ListStringMatcher {
    let prefixes = [
        format!("cluster.{CONTROL_PLANE}."),
        "runtime.".to_owned(),
        "workers.".to_owned(),
    ];
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
        .into_iter()
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

/// App Mesh's limit for expressions in routes, ten times Envoy's own; and a layer for whoever debugs.
fn runtime() -> LayeredRuntime {
    let limit = protobuf::Value {
        kind: Some(protobuf::value::Kind::NumberValue(1000.0)),
    };
    let limits = protobuf::Struct {
        fields: [("re2.max_program_size.error_level".to_owned(), limit)].into(),
    };
    let layer = |name: &str, layer| RuntimeLayer {
        name: name.to_owned(),
        layer_specifier: Some(layer),
    };
    LayeredRuntime {
        layers: vec![
            layer("mesh", LayerSpecifier::StaticLayer(limits)),
            layer("admin", LayerSpecifier::AdminLayer(AdminLayer::default())),
        ],
    }
}

fn socket(HostPort { host, port }: &HostPort) -> core::Address {
    core::Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: host.clone(),
            port_specifier: Some(PortSpecifier::PortValue((*port).into())),
            ..Default::default()
        })),
    }
}

fn duration(seconds: i64) -> protobuf::Duration {
    protobuf::Duration { seconds, nanos: 0 }
}

fn uint32(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BootstrapOptions {
        BootstrapOptions::new(
            ResourceName::new("shop", ProxyKind::VirtualNode, "color_ns"),
            "evermesh.evermesh-system:18000".parse().unwrap(),
        )
    }

    #[test]
    fn a_node_by_default() {
        insta::assert_snapshot!(render(&bootstrap(&options())).unwrap());
    }

    #[test]
    fn a_gateway_with_every_option() {
        insta::assert_snapshot!(
            render(&bootstrap(&BootstrapOptions {
                node: ResourceName::new("shop", ProxyKind::VirtualGateway, "gate_ns"),
                id: Some("mesh/shop@111122223333/virtualGateway/gate_ns".to_owned()),
                cluster: Some("gates".to_owned()),
                zone: Some("eu-west-1a".to_owned()),
                xds: "[::1]:18000".parse().unwrap(),
                sotw: true,
                admin: AdminAddress::Pipe("/run/envoy/admin.sock".to_owned()),
            }))
            .unwrap()
        );
    }

    #[test]
    fn host_and_port() {
        for text in ["a.b:1", "10.0.0.1:65535", "[::1]:18000"] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        for text in ["", "a", "a:", ":1", "a:0", "a:65536", "::1:18000", "[]:1"] {
            assert_eq!(
                text.parse::<HostPort>(),
                Err(InvalidHostPort(text.to_owned()))
            );
        }
    }
}
