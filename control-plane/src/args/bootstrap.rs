//! Flags of `evermesh bootstrap` and their conversion into options of the bootstrap.

use clap::Args;
use evermesh_injector::bootstrap::{
    AdminAddress, Authority, BootstrapOptions, ClientCertificateFiles, ControlPlaneTls, HostPort,
    StatsD, Tracing,
};
use evermesh_model::ResourceName;

use super::sidecar_telemetry::share;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evermesh bootstrap --node mesh/demo/virtualNode/front_demo --xds 10.0.0.5:18000 > /etc/envoy.yaml
  envoy -c /etc/envoy.yaml")]
pub struct BootstrapArgs {
    /// Virtual node or gateway of the proxy, as mesh/MESH/virtualNode/NAME or mesh/MESH/virtualGateway/NAME
    ///
    /// NAME is the awsName, by default NAME_NAMESPACE. An ARN of App Mesh is accepted too.
    #[arg(long, value_name = "NAME", env = "EVERMESH_NODE")]
    pub node: ResourceName,

    /// Address of the xDS server
    #[arg(long, value_name = "HOST:PORT", env = "EVERMESH_XDS")]
    pub xds: HostPort,

    /// File with the CA certificates (PEM) of the xDS server; the proxy then uses TLS
    #[arg(long, value_name = "FILE", env = "EVERMESH_XDS_CA")]
    pub xds_ca: Option<String>,

    /// File with the client certificate (PEM) of the proxy
    ///
    /// Requires --xds-ca and --xds-key.
    #[arg(
        long,
        value_name = "FILE",
        requires_all = ["xds_ca", "xds_key"],
        env = "EVERMESH_XDS_CERTIFICATE"
    )]
    pub xds_certificate: Option<String>,

    /// File with the private key (PEM) of --xds-certificate
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_certificate",
        env = "EVERMESH_XDS_KEY"
    )]
    pub xds_key: Option<String>,

    /// File with a token that the proxy sends as `authorization: Bearer`
    ///
    /// Envoy reads the file for each new stream. Without --xds-ca the token is sent unencrypted.
    #[arg(long, value_name = "FILE", env = "EVERMESH_XDS_TOKEN")]
    pub xds_token: Option<String>,

    /// Metadata of the Envoy node, as KEY=VALUE pairs separated by commas
    ///
    /// The flag may be repeated.
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = pair,
        env = "EVERMESH_METADATA",
        hide_short_help = true
    )]
    pub metadata: Vec<(String, String)>,

    /// Zone in which the proxy runs, for locality-aware load balancing
    #[arg(
        long,
        value_name = "ZONE",
        env = "EVERMESH_ZONE",
        hide_short_help = true
    )]
    pub zone: Option<String>,

    /// Port of the Envoy admin pages on 127.0.0.1
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 9901,
        env = "EVERMESH_ADMIN_PORT"
    )]
    pub admin_port: u16,

    /// Access log of the Envoy admin pages; none by default
    #[arg(
        long,
        value_name = "FILE",
        env = "EVERMESH_ADMIN_ACCESS_LOG",
        hide_short_help = true
    )]
    pub admin_access_log: Option<String>,

    /// Use the state-of-the-world xDS protocol instead of the delta protocol
    #[arg(long, env = "EVERMESH_SOTW", hide_short_help = true)]
    pub sotw: bool,

    /// Omit the tags of App Mesh from Envoy statistics, such as `appmesh.mesh`
    #[arg(long, env = "EVERMESH_WITHOUT_STATS_TAGS", hide_short_help = true)]
    pub without_stats_tags: bool,

    /// Address of a DogStatsD server (UDP) for statistics
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "EVERMESH_STATSD",
        hide_short_help = true
    )]
    pub statsd: Option<HostPort>,

    /// Path of a Unix datagram socket of DogStatsD for statistics
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "statsd",
        env = "EVERMESH_STATSD_SOCKET",
        hide_short_help = true
    )]
    pub statsd_socket: Option<String>,

    /// Address of Jaeger, or of another collector of Zipkin JSON, for traces
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with_all = ["datadog", "opentelemetry", "xray_port"],
        env = "EVERMESH_JAEGER",
        hide_short_help = true
    )]
    pub jaeger: Option<HostPort>,

    /// Address of a Datadog agent for traces
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with_all = ["opentelemetry", "xray_port"],
        env = "EVERMESH_DATADOG",
        hide_short_help = true
    )]
    pub datadog: Option<HostPort>,

    /// Address of an OpenTelemetry collector (OTLP over gRPC) for traces
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with = "xray_port",
        env = "EVERMESH_OPENTELEMETRY",
        hide_short_help = true
    )]
    pub opentelemetry: Option<HostPort>,

    /// UDP port of an X-Ray daemon on this host for traces
    #[arg(
        long,
        value_name = "PORT",
        env = "EVERMESH_XRAY_PORT",
        hide_short_help = true
    )]
    pub xray_port: Option<u16>,

    /// Share of requests that X-Ray traces, from 0 to 1
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.05,
        value_parser = share,
        env = "EVERMESH_XRAY_SAMPLING_RATE",
        hide_short_help = true
    )]
    pub xray_sampling_rate: f64,

    /// Unix socket of a secret discovery service (SDS), such as a SPIRE agent
    #[arg(
        long,
        value_name = "PATH",
        env = "EVERMESH_SDS_SOCKET",
        hide_short_help = true
    )]
    pub sds_socket: Option<String>,
}

impl BootstrapArgs {
    pub fn options(&self) -> BootstrapOptions {
        let identity = self.xds_certificate.clone().zip(self.xds_key.clone());
        let xray = self.xray_port.map(|port| Tracing::XRay {
            port,
            sampling_rate: self.xray_sampling_rate,
        });
        let jaeger = self.jaeger.clone().map(Tracing::Jaeger);
        let datadog = self.datadog.clone().map(Tracing::Datadog);
        let opentelemetry = self.opentelemetry.clone().map(Tracing::OpenTelemetry);
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
            tracing: jaeger.or(datadog).or(opentelemetry).or(xray),
            sds_socket: self.sds_socket.clone(),
            ..BootstrapOptions::new(self.node.clone(), self.xds.clone())
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".to_owned()),
    }
}
