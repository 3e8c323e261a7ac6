//! Flags for the traces and statistics of sidecars, named as in the controller of App Mesh.

use std::net::IpAddr;

use clap::{Args, builder::NonEmptyStringValueParser, value_parser};
use evermesh_ingest::object::is_subdomain;
use evermesh_injector::{
    bootstrap::{HostPort, StatsD, Tracing},
    settings::XRayDaemon,
};

use super::{heading, injector::absolute};

/// Prefix of an address that names a field of the pod (downward API), read when the container starts.
const REFERENCE: &str = "ref:";

#[derive(Debug, Args)]
#[command(next_help_heading = heading::SIDECAR)]
#[allow(clippy::struct_excessive_bools)] // one switch per flag
pub struct SidecarTelemetryArgs {
    /// Send traces of sidecars to Jaeger
    #[arg(
        long,
        conflicts_with_all = [
            "config", "enable_datadog_tracing", "enable_opentelemetry_tracing", "enable_xray_tracing",
        ],
        env = "EVERMESH_ENABLE_JAEGER_TRACING",
        hide_short_help = true
    )]
    pub enable_jaeger_tracing: bool,

    /// Host name or IP address of Jaeger
    #[arg(
        long,
        value_name = "HOST",
        value_parser = host,
        default_value = "appmesh-jaeger.appmesh-system",
        conflicts_with = "config",
        env = "EVERMESH_JAEGER_ADDRESS",
        hide_short_help = true
    )]
    pub jaeger_address: String,

    /// Port of Jaeger for traces as Zipkin JSON
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 9411,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_JAEGER_PORT",
        hide_short_help = true
    )]
    pub jaeger_port: u16,

    /// Send traces of sidecars to a Datadog agent
    #[arg(
        long,
        conflicts_with_all = ["config", "enable_opentelemetry_tracing", "enable_xray_tracing"],
        env = "EVERMESH_ENABLE_DATADOG_TRACING",
        hide_short_help = true
    )]
    pub enable_datadog_tracing: bool,

    /// Host name or IP address of the Datadog agent
    ///
    /// `ref:status.hostIP` stands for the address of the pod's Kubernetes node.
    #[arg(
        long,
        value_name = "HOST",
        value_parser = host_or_reference,
        default_value = "datadog.appmesh-system",
        conflicts_with = "config",
        env = "EVERMESH_DATADOG_ADDRESS",
        hide_short_help = true
    )]
    pub datadog_address: String,

    /// Port of the Datadog agent for traces
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8126,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_DATADOG_PORT",
        hide_short_help = true
    )]
    pub datadog_port: u16,

    /// Send traces of sidecars to an OpenTelemetry collector
    #[arg(
        long,
        conflicts_with_all = ["config", "enable_xray_tracing"],
        env = "EVERMESH_ENABLE_OPENTELEMETRY_TRACING",
        hide_short_help = true
    )]
    pub enable_opentelemetry_tracing: bool,

    /// Host name or IP address of the OpenTelemetry collector
    ///
    /// `ref:status.hostIP` stands for the address of the pod's Kubernetes node.
    #[arg(
        long,
        value_name = "HOST",
        value_parser = host_or_reference,
        default_value = "opentelemetry-collector.appmesh-system",
        conflicts_with = "config",
        env = "EVERMESH_OPENTELEMETRY_ADDRESS",
        hide_short_help = true
    )]
    pub opentelemetry_address: String,

    /// Port of the OpenTelemetry collector for OTLP over gRPC
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 4317,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_OPENTELEMETRY_PORT",
        hide_short_help = true
    )]
    pub opentelemetry_port: u16,

    /// Add an X-Ray daemon to each pod and send the traces of the sidecar to it
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_XRAY_TRACING",
        hide_short_help = true
    )]
    pub enable_xray_tracing: bool,

    /// UDP port of the X-Ray daemon
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 2000,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_XRAY_DAEMON_PORT",
        hide_short_help = true
    )]
    pub xray_daemon_port: u16,

    /// Share of requests that X-Ray traces, from 0 to 1
    ///
    /// `XRAY_SAMPLING_RATE` in the annotation `sidecarEnv` of a pod overrides this flag for that pod.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.05,
        value_parser = share,
        conflicts_with = "config",
        env = "EVERMESH_XRAY_SAMPLING_RATE",
        hide_short_help = true
    )]
    pub xray_sampling_rate: f64,

    /// Log level of the X-Ray daemon
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = ["dev", "debug", "info", "prod", "warn", "error"],
        default_value = "prod",
        conflicts_with = "config",
        env = "EVERMESH_XRAY_LOG_LEVEL",
        hide_short_help = true
    )]
    pub xray_log_level: String,

    /// ARN of the IAM role that the X-Ray daemon assumes; none by default
    #[arg(
        long = "xray-config-roleArn",
        value_name = "ARN",
        conflicts_with = "config",
        env = "EVERMESH_XRAY_CONFIG_ROLE_ARN",
        hide_short_help = true
    )]
    pub xray_config_role_arn: Option<String>,

    /// Image of the X-Ray daemon
    #[arg(
        long,
        value_name = "IMAGE",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "public.ecr.aws/xray/aws-xray-daemon:latest",
        conflicts_with = "config",
        env = "EVERMESH_XRAY_IMAGE",
        hide_short_help = true
    )]
    pub xray_image: String,

    /// Add the tags of App Mesh to Envoy statistics, such as `appmesh.mesh`
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_STATS_TAGS",
        hide_short_help = true
    )]
    pub enable_stats_tags: bool,

    /// Send Envoy statistics of sidecars to a DogStatsD server
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_STATSD",
        hide_short_help = true
    )]
    pub enable_statsd: bool,

    /// IP address of the DogStatsD server
    ///
    /// `ref:status.hostIP` stands for the address of the pod's Kubernetes node.
    #[arg(
        long,
        value_name = "IP",
        value_parser = ip_or_reference,
        default_value = "127.0.0.1",
        conflicts_with = "config",
        env = "EVERMESH_STATSD_ADDRESS",
        hide_short_help = true
    )]
    pub statsd_address: String,

    /// UDP port of the DogStatsD server
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8125,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_STATSD_PORT",
        hide_short_help = true
    )]
    pub statsd_port: u16,

    /// Path in the pod of a Unix datagram socket of DogStatsD
    ///
    /// Used instead of --statsd-address and --statsd-port. The pod needs a volume with the socket and the annotation
    /// `volumeMounts`.
    #[arg(
        long,
        value_name = "PATH",
        value_parser = absolute,
        conflicts_with = "config",
        env = "EVERMESH_STATSD_SOCKET_PATH",
        hide_short_help = true
    )]
    pub statsd_socket_path: Option<String>,
}

impl SidecarTelemetryArgs {
    pub(super) fn tracing(&self) -> Option<Tracing> {
        let jaeger = || Tracing::Jaeger(address(&self.jaeger_address, self.jaeger_port));
        let datadog = || Tracing::Datadog(address(&self.datadog_address, self.datadog_port));
        let opentelemetry = || {
            let address = address(&self.opentelemetry_address, self.opentelemetry_port);
            Tracing::OpenTelemetry(address)
        };
        let xray = || Tracing::XRay {
            port: self.xray_daemon_port,
            sampling_rate: self.xray_sampling_rate,
        };
        self.enable_jaeger_tracing
            .then(jaeger)
            .or_else(|| self.enable_datadog_tracing.then(datadog))
            .or_else(|| self.enable_opentelemetry_tracing.then(opentelemetry))
            .or_else(|| self.enable_xray_tracing.then(xray))
    }

    pub(super) fn statsd(&self) -> Option<StatsD> {
        let statsd = match &self.statsd_socket_path {
            Some(path) => StatsD::Socket(path.clone()),
            None => StatsD::Udp(address(&self.statsd_address, self.statsd_port)),
        };
        self.enable_statsd.then_some(statsd)
    }

    pub(super) fn daemon(&self) -> XRayDaemon {
        let role = self.xray_config_role_arn.clone();
        XRayDaemon {
            image: self.xray_image.clone(),
            log_level: self.xray_log_level.clone(),
            role_arn: role.filter(|role| !role.is_empty()),
        }
    }
}

fn address(host: &str, port: u16) -> HostPort {
    HostPort {
        host: host.to_owned(),
        port,
    }
}

/// Parses a host name or an IP address.
fn host(text: &str) -> Result<String, String> {
    let is_letter = |it: char| it.is_ascii_alphanumeric() || "-_".contains(it);
    let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let is_name = labels.all(|it| !it.is_empty() && it.chars().all(is_letter));
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("use a host name or an IP address, without a port".to_owned())
}

/// Parses a host name, an IP address or a reference to a field of the pod.
fn host_or_reference(text: &str) -> Result<String, String> {
    text.strip_prefix(REFERENCE)
        .map_or_else(|| host(text), |field| reference(text, field))
}

/// Parses an IP address or a reference to a field of the pod. Envoy does not accept a host name here.
fn ip_or_reference(text: &str) -> Result<String, String> {
    match text.strip_prefix(REFERENCE) {
        Some(field) => reference(text, field),
        None if text.parse::<IpAddr>().is_ok() => Ok(text.to_owned()),
        None => Err("use an IP address or `ref:status.hostIP`".to_owned()),
    }
}

/// Checks that `field` is available through the downward API and may hold an address.
fn reference(text: &str, field: &str) -> Result<String, String> {
    let is_entry = ["metadata.annotations['", "metadata.labels['"]
        .iter()
        .filter_map(|map| field.strip_prefix(map)?.strip_suffix("']"))
        .any(is_label_key);
    let is_field = ["status.hostIP", "status.podIP", "spec.nodeName"].contains(&field);
    if is_field || is_entry {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{field}` is not a field of a pod that holds an address; use `ref:status.hostIP` for the address of its Kubernetes node"
    ))
}

/// Whether the text is the key of a label: a name, with a DNS subdomain and `/` before it or without.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_inner = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    let is_end = |it: char| it.is_ascii_alphanumeric();
    prefix.is_none_or(is_subdomain)
        && name.len() <= 63
        && name.starts_with(is_end)
        && name.ends_with(is_end)
        && name.chars().all(is_inner)
}

/// Parses a share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|it| (0.0..=1.0).contains(it));
    share.ok_or_else(|| "use a number from 0 to 1".to_owned())
}
