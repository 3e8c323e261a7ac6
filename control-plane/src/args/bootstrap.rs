//! What can be asked of `evermesh bootstrap`.

use clap::Args;
use evermesh_injector::bootstrap::{
    AdminAddress, Authority, BootstrapOptions, ClientCertificateFiles, ControlPlaneTls, HostPort,
    StatsD, Tracing,
};
use evermesh_model::ResourceName;

use super::sidecar_telemetry::share;

/// `evermesh bootstrap`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  evermesh bootstrap --node mesh/demo/virtualNode/front_demo --xds 10.0.0.5:18000 > /etc/envoy.yaml
  envoy -c /etc/envoy.yaml")]
pub struct BootstrapArgs {
    /// Who the proxy is: mesh/MESH/virtualNode/NAME or mesh/MESH/virtualGateway/NAME; the names are
    /// awsNames (name and namespace with `_` between by default), an ARN is taken too
    #[arg(long, value_name = "NAME", env = "EVERMESH_NODE")]
    pub node: ResourceName,

    /// Where Evermesh serves Envoys
    #[arg(long, value_name = "HOST:PORT", env = "EVERMESH_XDS")]
    pub xds: HostPort,

    /// A file with the authorities of Evermesh's certificate, in PEM: the proxy connects by TLS
    #[arg(long, value_name = "FILE", env = "EVERMESH_XDS_CA")]
    pub xds_ca: Option<String>,

    /// A file with the proxy's own certificate, in PEM
    #[arg(
        long,
        value_name = "FILE",
        requires_all = ["xds_ca", "xds_key"],
        env = "EVERMESH_XDS_CERTIFICATE"
    )]
    pub xds_certificate: Option<String>,

    /// A file with its key
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_certificate",
        env = "EVERMESH_XDS_KEY"
    )]
    pub xds_key: Option<String>,

    /// A file with a token that is sent as `authorization: Bearer`, read whenever a stream begins; without --xds-ca
    /// it can be read on the way
    #[arg(long, value_name = "FILE", env = "EVERMESH_XDS_TOKEN")]
    pub xds_token: Option<String>,

    /// What the proxy says of itself besides; may be repeated
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = pair,
        env = "EVERMESH_METADATA"
    )]
    pub metadata: Vec<(String, String)>,

    /// The zone that the proxy runs in
    #[arg(long, value_name = "ZONE", env = "EVERMESH_ZONE")]
    pub zone: Option<String>,

    /// Port of Envoy's admin interface on 127.0.0.1
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 9901,
        env = "EVERMESH_ADMIN_PORT"
    )]
    pub admin_port: u16,

    /// A file in which requests to it are noted
    #[arg(long, value_name = "FILE", env = "EVERMESH_ADMIN_ACCESS_LOG")]
    pub admin_access_log: Option<String>,

    /// State-of-the-world xDS instead of delta
    #[arg(long, env = "EVERMESH_SOTW")]
    pub sotw: bool,

    /// Leave out App Mesh's tags of statistics (`appmesh.mesh` and others)
    #[arg(long, env = "EVERMESH_WITHOUT_STATS_TAGS")]
    pub without_stats_tags: bool,

    /// A `DogStatsD` that gets the statistics: an IP address and a port
    #[arg(long, value_name = "IP:PORT", env = "EVERMESH_STATSD")]
    pub statsd: Option<HostPort>,

    /// A `DogStatsD` at a Unix datagram socket
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "statsd",
        env = "EVERMESH_STATSD_SOCKET"
    )]
    pub statsd_socket: Option<String>,

    /// A Jaeger, or whoever else takes Zipkin's JSON, that gets traces
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with_all = ["datadog", "xray_port"],
        env = "EVERMESH_JAEGER"
    )]
    pub jaeger: Option<HostPort>,

    /// A Datadog agent that gets traces
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with = "xray_port",
        env = "EVERMESH_DATADOG"
    )]
    pub datadog: Option<HostPort>,

    /// The UDP port of an X-Ray daemon on this host that gets traces
    #[arg(long, value_name = "PORT", env = "EVERMESH_XRAY_PORT")]
    pub xray_port: Option<u16>,

    /// The share of requests that X-Ray gets
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.05,
        value_parser = share,
        env = "EVERMESH_XRAY_SAMPLING_RATE"
    )]
    pub xray_sampling_rate: f64,

    /// A Unix socket on which secrets are served (SDS), such as a SPIRE agent's
    #[arg(long, value_name = "PATH", env = "EVERMESH_SDS_SOCKET")]
    pub sds_socket: Option<String>,
}

impl BootstrapArgs {
    /// What the bootstrap is made of.
    pub fn options(&self) -> BootstrapOptions {
        let identity = self.xds_certificate.clone().zip(self.xds_key.clone());
        let xray = self.xray_port.map(|port| Tracing::XRay {
            port,
            sampling_rate: self.xray_sampling_rate,
        });
        let jaeger = self.jaeger.clone().map(Tracing::Jaeger);
        let datadog = self.datadog.clone().map(Tracing::Datadog);
        let socket = self.statsd_socket.clone().map(StatsD::Socket);
        BootstrapOptions {
            metadata: self.metadata.iter().cloned().collect(),
            zone: self.zone.clone(),
            tls: self.xds_ca.clone().map(|file| ControlPlaneTls {
                authority: Authority::File(file),
                identity: identity.map(|(chain, key)| ClientCertificateFiles { chain, key }),
            }),
            token: self.xds_token.clone(),
            sotw: self.sotw,
            admin: AdminAddress::Tcp(HostPort {
                host: "127.0.0.1".to_owned(),
                port: self.admin_port,
            }),
            admin_access_log: self.admin_access_log.clone(),
            stats_tags: !self.without_stats_tags,
            statsd: self.statsd.clone().map(StatsD::Udp).or(socket),
            tracing: jaeger.or(datadog).or(xray),
            sds_socket: self.sds_socket.clone(),
            ..BootstrapOptions::new(self.node.clone(), self.xds.clone())
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is needed".to_owned()),
    }
}
