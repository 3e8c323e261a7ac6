//! Envoy's bootstrap: the identity of the proxy, the connection to the control plane, statistics and traces.
//!
//! [`BootstrapOptions`] become a typed [`Bootstrap`], which [`render()`] writes as JSON. The bootstrap contains no listener,
//! cluster or route of the mesh; the control plane sends those over xDS. Every supported version of plain Envoy starts
//! with the bootstrap without a warning about deprecated fields, unless there is a tracer.

mod address;
mod control_plane;
mod pages;
mod telemetry;

use std::collections::BTreeMap;

use evermesh_model::ResourceName;
use evermesh_proto::{
    Any,
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

/// The cluster of a secret discovery service (SDS) on the host, such as a SPIRE agent. Listeners refer to it by this
/// name, which is App Mesh's.
const SDS: &str = "static_cluster_sds_unix_socket";

/// The inputs of [`bootstrap()`].
#[derive(Debug, Clone, PartialEq)]
pub struct BootstrapOptions {
    /// The node or gateway of the proxy.
    pub node: ResourceName,
    /// The node ID, if it is not the resource name: another form of the name that Evermesh accepts, such as an ARN.
    pub id: Option<String>,
    /// The service cluster (`node.cluster`), if it is not the node ID.
    pub cluster: Option<String>,
    /// Node metadata, such as the name of the pod.
    pub metadata: BTreeMap<String, String>,
    /// The availability zone of the proxy.
    pub zone: Option<String>,
    /// The address of the control plane's xDS server.
    pub xds: HostPort,
    /// TLS to the control plane. Without it the connection is plaintext.
    pub tls: Option<ControlPlaneTls>,
    /// A file with the bearer token for the control plane. Envoy reads the file at the start of every stream.
    pub token: Option<String>,
    /// Whether to use the state-of-the-world variant of xDS instead of the delta variant.
    pub sotw: bool,
    /// The address of Envoy's admin pages.
    pub admin: AdminAddress,
    /// The access log of the admin pages.
    pub admin_access_log: Option<String>,
    /// Whether statistics have App Mesh's tags.
    pub stats_tags: bool,
    /// A `DogStatsD` that receives statistics in addition to the admin pages.
    pub statsd: Option<StatsD>,
    /// The tracer.
    pub tracing: Option<Tracing>,
    /// The Unix socket of a secret discovery service, such as a SPIRE agent's.
    pub sds_socket: Option<String>,
}

impl BootstrapOptions {
    /// The defaults for this proxy and this address of the control plane.
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

/// The address of Envoy's admin pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address. The default is `127.0.0.1:9901`.
    Tcp(HostPort),
    /// The path of a Unix socket.
    Pipe(String),
    /// The port of this address on `127.0.0.1`. At the address itself, which is a wildcard, a listener serves the pages
    /// for probes and Prometheus to other hosts.
    LoopbackWithPages(HostPort),
}

impl Default for AdminAddress {
    fn default() -> Self {
        Self::Tcp(loopback(9901))
    }
}

impl AdminAddress {
    /// The address that other hosts may reach, if there is one.
    const fn pages(&self) -> Option<&HostPort> {
        match self {
            Self::LoopbackWithPages(pages) => Some(pages),
            Self::Tcp(_) | Self::Pipe(_) => None,
        }
    }
}

fn loopback(port: u16) -> HostPort {
    HostPort {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

/// Makes the bootstrap of a proxy.
pub fn bootstrap(options: &BootstrapOptions) -> Bootstrap {
    let tls = options.tls.as_ref();
    let control_plane = control_plane::cluster(&options.xds, tls, options.token.as_deref());
    let tracers = options.tracing.as_ref().and_then(Tracing::cluster);
    let secrets = options.sds_socket.as_deref().map(secrets);
    let pages = options.admin.pages();
    let admin_cluster = pages.map(|it| pages::cluster(&loopback(it.port)));
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
                .chain(admin_cluster)
                .chain(tracers)
                .chain(secrets)
                .collect(),
            listeners: pages.map(pages::listener).into_iter().collect(),
            ..Default::default()
        }),
        stats_config: Some(telemetry::stats(&options.node, options.stats_tags)),
        stats_sinks: options.statsd.iter().map(StatsD::sink).collect(),
        layered_runtime: Some(runtime()),
        admin: Some(admin(options)),
        ..Default::default()
    };
    match &options.tracing {
        Some(tracing) => with_tracing(bootstrap, tracing, &options.node),
        None => bootstrap,
    }
}

/// Sets the tracing provider. The field is deprecated but still read; listeners cannot name the provider instead,
/// because proxies of one node may have different ones.
#[allow(deprecated)]
fn with_tracing(bootstrap: Bootstrap, tracing: &Tracing, node: &ResourceName) -> Bootstrap {
    Bootstrap {
        tracing: Some(tracing.provider(node)),
        ..bootstrap
    }
}

/// Writes a bootstrap as a file for `--config-path`: protobuf JSON, which is valid YAML as well.
///
/// # Errors
/// If the bootstrap contains a message of a type that has no descriptor, which is a bug in Evermesh.
pub fn render(bootstrap: &Bootstrap) -> Result<String, json::JsonError> {
    Ok(format!("{:#}\n", json::to_json(bootstrap)?))
}

/// Writes a bootstrap on one line, for `--config-yaml`.
///
/// # Errors
/// If the bootstrap contains a message of a type that has no descriptor, which is a bug in Evermesh.
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
            AdminAddress::LoopbackWithPages(pages) => socket(&loopback(pages.port)),
        }),
        access_log: log.into_iter().collect(),
        socket_options: options
            .admin
            .pages()
            .map(|_| pages::reuse_port())
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

/// The xDS stream. If it breaks, Envoy reconnects with a jittered backoff from 0.5 to 10 seconds.
fn ads(sotw: bool) -> ApiConfigSource {
    let variant = if sotw {
        ApiType::Grpc
    } else {
        ApiType::DeltaGrpc
    };
    ApiConfigSource {
        api_type: variant.into(),
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

/// Subscribes over the xDS stream. Envoy waits for the first response without a timeout, because a proxy must not become
/// ready without its configuration.
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

/// The cluster of the secret discovery service.
fn secrets(socket: &str) -> Cluster {
    Cluster {
        name: SDS.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(duration(1)),
        load_assignment: Some(endpoints(SDS, pipe(socket))),
        typed_extension_protocol_options: http2_options(),
        ..Default::default()
    }
}

/// The options of a cluster that is called with HTTP/2.
fn http2_options() -> BTreeMap<String, Any> {
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
    [(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        pack(&http2),
    )]
    .into()
}

/// The runtime: the limit of App Mesh for the size of regular expressions, ten times that of Envoy, and a layer that can
/// be changed on the admin pages.
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

/// The load assignment of a cluster with one endpoint.
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
