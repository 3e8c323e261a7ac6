//! Envoy's bootstrap: who the proxy is, where its configuration comes from, what it counts.
//!
//! Everything else comes over the stream. Plain Envoy, oldest to newest supported, starts from it without a
//! warning about deprecated fields, unless traces are asked for.
//!
//! Must not name a listener, cluster or route of the mesh.

mod address;
mod control_plane;
mod telemetry;

use std::collections::BTreeMap;

use evermesh_model::ResourceName;
use evermesh_proto::{
    bootstrap::{
        Admin, Bootstrap, LayeredRuntime, RuntimeLayer,
        bootstrap::{DynamicResources, StaticResources},
        runtime_layer::{AdminLayer, LayerSpecifier},
    },
    cluster::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType},
    },
    core::{
        self, AggregatedConfigSource, ApiConfigSource, ApiVersion, BackoffStrategy, ConfigSource,
        GrpcService, Http2ProtocolOptions, Locality, Node, Pipe, RetryPolicy, SocketAddress,
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
    json, pack,
    pb::envoy::{
        config::accesslog::v3::{AccessLog, access_log},
        extensions::{
            access_loggers::file::v3::FileAccessLog,
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions,
                    explicit_http_config::ProtocolConfig,
                },
            },
        },
    },
    protobuf,
};

use self::control_plane::CONTROL_PLANE;
pub use self::{
    address::{HostPort, InvalidHostPort},
    control_plane::{Authority, ClientCertificateFiles, ControlPlaneTls},
    telemetry::{StatsD, Tracing},
};

/// The cluster of the host's secrets (SDS), such as a SPIRE agent; the name that App Mesh's listeners use.
const SDS: &str = "static_cluster_sds_unix_socket";

/// What a bootstrap depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct BootstrapOptions {
    /// Who the proxy is.
    pub node: ResourceName,
    /// The id it reports, if not its name: another form that parses as one, such as an ARN.
    pub id: Option<String>,
    /// The service cluster it reports, if not its id.
    pub cluster: Option<String>,
    /// What else it reports of itself, such as the pod it runs in.
    pub metadata: BTreeMap<String, String>,
    /// The zone it runs in.
    pub zone: Option<String>,
    /// Where the control plane listens.
    pub xds: HostPort,
    /// TLS to it; plain text without.
    pub tls: Option<ControlPlaneTls>,
    /// A file whose contents are sent to it as a bearer token, read whenever a stream begins.
    pub token: Option<String>,
    /// Whether to speak the older flavour of xDS, which sends all resources of a type each time.
    pub sotw: bool,
    /// Where Envoy's admin pages are.
    pub admin: AdminAddress,
    /// The file in which requests to them are noted.
    pub admin_access_log: Option<String>,
    /// Whether statistics carry App Mesh's tags.
    pub stats_tags: bool,
    /// Who gets the statistics, besides the admin pages.
    pub statsd: Option<StatsD>,
    /// Who gets traces.
    pub tracing: Option<Tracing>,
    /// The Unix socket on which secrets are served, such as a SPIRE agent's.
    pub sds_socket: Option<String>,
}

impl BootstrapOptions {
    /// A proxy with the default of everything else.
    pub fn new(node: ResourceName, xds: HostPort) -> Self {
        Self {
            node,
            id: None,
            cluster: None,
            metadata: BTreeMap::new(),
            zone: None,
            xds,
            tls: None,
            token: None,
            sotw: false,
            admin: AdminAddress::default(),
            admin_access_log: None,
            stats_tags: true,
            statsd: None,
            tracing: None,
            sds_socket: None,
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
    let tls = options.tls.as_ref();
    let control_plane = control_plane::cluster(&options.xds, tls, options.token.as_deref());
    let tracers = options.tracing.as_ref().and_then(Tracing::cluster);
    let secrets = options.sds_socket.as_deref().map(secrets);
    let bootstrap = Bootstrap {
        node: Some(node(options)),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ads(options.sotw)),
            lds_config: Some(over_ads()),
            cds_config: Some(over_ads()),
            ..Default::default()
        }),
        static_resources: Some(StaticResources {
            clusters: [control_plane]
                .into_iter()
                .chain(tracers)
                .chain(secrets)
                .collect(),
            ..Default::default()
        }),
        stats_config: Some(telemetry::stats(&options.node, options.stats_tags)),
        stats_sinks: options.statsd.iter().map(StatsD::sink).collect(),
        layered_runtime: Some(runtime()),
        admin: Some(admin(options)),
        ..Default::default()
    };
    match &options.tracing {
        Some(tracing) => traced(bootstrap, tracing, &options.node),
        None => bootstrap,
    }
}

/// Envoy calls the field deprecated and reads it still. Listeners of App Mesh name no provider of their own, as
/// proxies of one node may differ in it.
#[allow(deprecated)]
fn traced(bootstrap: Bootstrap, tracing: &Tracing, node: &ResourceName) -> Bootstrap {
    Bootstrap {
        tracing: Some(tracing.provider(node)),
        ..bootstrap
    }
}

/// A bootstrap as Envoy reads it from a file: protobuf JSON, which is YAML too.
pub fn render(bootstrap: &Bootstrap) -> Result<String, json::JsonError> {
    Ok(format!("{:#}\n", json::to_json(bootstrap)?))
}

/// The same on one line, for `--config-yaml`.
pub fn render_line(bootstrap: &Bootstrap) -> Result<String, json::JsonError> {
    Ok(json::to_json(bootstrap)?.to_string())
}

fn node(options: &BootstrapOptions) -> Node {
    let id = options.id.clone();
    let id = id.unwrap_or_else(|| options.node.to_string());
    let fields = options.metadata.iter().map(|(key, value)| {
        let kind = protobuf::value::Kind::StringValue(value.clone());
        (key.clone(), protobuf::Value { kind: Some(kind) })
    });
    Node {
        cluster: options.cluster.clone().unwrap_or_else(|| id.clone()),
        id,
        metadata: (!options.metadata.is_empty()).then(|| protobuf::Struct {
            fields: fields.collect(),
        }),
        locality: options.zone.clone().map(|zone| Locality {
            zone,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn admin(options: &BootstrapOptions) -> Admin {
    let log = options.admin_access_log.as_ref().map(|path| AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack(&FileAccessLog {
            path: path.clone(),
            ..Default::default()
        }))),
        ..Default::default()
    });
    Admin {
        address: Some(match &options.admin {
            AdminAddress::Tcp(address) => socket(address),
            AdminAddress::Pipe(path) => pipe(path),
        }),
        access_log: log.into_iter().collect(),
        ..Default::default()
    }
}

/// The stream. While the control plane is away it is called again and again, at random moments up to ten seconds apart.
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
                retry_policy: Some(RetryPolicy {
                    retry_back_off: Some(BackoffStrategy {
                        base_interval: Some(protobuf::Duration {
                            seconds: 0,
                            nanos: 500_000_000,
                        }),
                        max_interval: Some(duration(10)),
                    }),
                    ..Default::default()
                }),
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

/// Who serves secrets on this host.
fn secrets(socket: &str) -> Cluster {
    let http2 = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                    Http2ProtocolOptions::default(),
                )),
            },
        )),
        ..Default::default()
    };
    Cluster {
        name: SDS.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(duration(1)),
        load_assignment: Some(endpoints(SDS, pipe(socket))),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack(&http2),
        )]
        .into(),
        ..Default::default()
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
            ipv4_compat: host == "::",
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

/// A cluster's one endpoint.
fn endpoints(cluster: &str, address: core::Address) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                    address: Some(address),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn pipe(path: &str) -> core::Address {
    core::Address {
        address: Some(AddressKind::Pipe(Pipe {
            path: path.to_owned(),
            ..Default::default()
        })),
    }
}

#[cfg(test)]
mod tests;
