//! Who gets the traces and statistics of sidecars. The flags are called as App Mesh's controller had them.

use std::net::IpAddr;

use clap::{Args, builder::NonEmptyStringValueParser, value_parser};
use evermesh_injector::{
    bootstrap::{HostPort, StatsD, Tracing},
    settings::XRayDaemon,
};

use super::injector::absolute;

/// What an address may begin with: the rest is a field of the pod, read when a container starts.
const REFERENCE: &str = "ref:";

/// Traces and statistics of sidecars.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // a switch a flag
pub struct SidecarTelemetryArgs {
    /// Send traces to a Jaeger
    #[arg(long, conflicts_with_all = ["enable_datadog_tracing", "enable_xray_tracing"], conflicts_with = "config", env = "EVERMESH_ENABLE_JAEGER_TRACING")]
    pub enable_jaeger_tracing: bool,

    /// Its host
    #[arg(
        long,
        value_name = "HOST",
        value_parser = host,
        default_value = "appmesh-jaeger.appmesh-system",
        conflicts_with = "config",
        env = "EVERMESH_JAEGER_ADDRESS"
    )]
    pub jaeger_address: String,

    /// Its port for Zipkin's JSON
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 9411,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_JAEGER_PORT"
    )]
    pub jaeger_port: u16,

    /// Send traces to a Datadog agent
    #[arg(
        long,
        conflicts_with = "enable_xray_tracing",
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_DATADOG_TRACING"
    )]
    pub enable_datadog_tracing: bool,

    /// Its host; `ref:status.hostIP` is the pod's node
    #[arg(
        long,
        value_name = "HOST",
        value_parser = host_or_reference,
        default_value = "datadog.appmesh-system",
        conflicts_with = "config",
        env = "EVERMESH_DATADOG_ADDRESS"
    )]
    pub datadog_address: String,

    /// Its port
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8126,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_DATADOG_PORT"
    )]
    pub datadog_port: u16,

    /// Send traces to X-Ray, by a daemon beside each proxy
    #[arg(long, conflicts_with = "config", env = "EVERMESH_ENABLE_XRAY_TRACING")]
    pub enable_xray_tracing: bool,

    /// The daemon's port
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 2000,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_XRAY_DAEMON_PORT"
    )]
    pub xray_daemon_port: u16,

    /// The share of requests that are traced; the variable `XRAY_SAMPLING_RATE` in a pod's `sidecarEnv` says otherwise
    /// for that pod
    #[arg(long, value_name = "0..1", default_value_t = 0.05, value_parser = share, conflicts_with = "config", env = "EVERMESH_XRAY_SAMPLING_RATE")]
    pub xray_sampling_rate: f64,

    /// What the daemon logs
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = ["dev", "debug", "info", "prod", "warn", "error"],
        default_value = "prod",
        conflicts_with = "config",
        env = "EVERMESH_XRAY_LOG_LEVEL"
    )]
    pub xray_log_level: String,

    /// The role that the daemon assumes
    #[arg(
        long = "xray-config-roleArn",
        value_name = "ARN",
        conflicts_with = "config",
        env = "EVERMESH_XRAY_CONFIG_ROLE_ARN"
    )]
    pub xray_config_role_arn: Option<String>,

    /// The daemon's image
    #[arg(
        long,
        value_name = "IMAGE",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "public.ecr.aws/xray/aws-xray-daemon:latest",
        conflicts_with = "config",
        env = "EVERMESH_XRAY_IMAGE"
    )]
    pub xray_image: String,

    /// Give statistics App Mesh's tags (`appmesh.mesh` and others)
    #[arg(long, conflicts_with = "config", env = "EVERMESH_ENABLE_STATS_TAGS")]
    pub enable_stats_tags: bool,

    /// Send statistics to a `DogStatsD`
    #[arg(long, conflicts_with = "config", env = "EVERMESH_ENABLE_STATSD")]
    pub enable_statsd: bool,

    /// Its IP address; `ref:status.hostIP` is the pod's node
    #[arg(
        long,
        value_name = "IP",
        value_parser = ip_or_reference,
        default_value = "127.0.0.1",
        conflicts_with = "config",
        env = "EVERMESH_STATSD_ADDRESS"
    )]
    pub statsd_address: String,

    /// Its port
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8125,
        value_parser = value_parser!(u16).range(1..),
        conflicts_with = "config",
        env = "EVERMESH_STATSD_PORT"
    )]
    pub statsd_port: u16,

    /// The Unix datagram socket at which it listens instead; a volume of the pod must hold it (`volumeMounts`)
    #[arg(
        long,
        value_name = "PATH",
        value_parser = absolute,
        conflicts_with = "config",
        env = "EVERMESH_STATSD_SOCKET_PATH"
    )]
    pub statsd_socket_path: Option<String>,
}

impl SidecarTelemetryArgs {
    pub(super) fn tracing(&self) -> Option<Tracing> {
        let jaeger = || Tracing::Jaeger(address(&self.jaeger_address, self.jaeger_port));
        let datadog = || Tracing::Datadog(address(&self.datadog_address, self.datadog_port));
        let xray = || Tracing::XRay {
            port: self.xray_daemon_port,
            sampling_rate: self.xray_sampling_rate,
        };
        self.enable_jaeger_tracing
            .then(jaeger)
            .or_else(|| self.enable_datadog_tracing.then(datadog))
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

/// Reads a name or an IP address.
fn host(text: &str) -> Result<String, String> {
    let is_letter = |it: char| it.is_ascii_alphanumeric() || "-_".contains(it);
    let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let is_name = labels.all(|it| !it.is_empty() && it.chars().all(is_letter));
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("a name or an IP address is needed, without a port".to_owned())
}

/// The same, or what the pod says.
fn host_or_reference(text: &str) -> Result<String, String> {
    text.strip_prefix(REFERENCE)
        .map_or_else(|| host(text), |field| reference(text, field))
}

/// Reads an IP address, or what the pod says: Envoy takes no name.
fn ip_or_reference(text: &str) -> Result<String, String> {
    match text.strip_prefix(REFERENCE) {
        Some(field) => reference(text, field),
        None if text.parse::<IpAddr>().is_ok() => Ok(text.to_owned()),
        None => Err("an IP address is needed, or `ref:status.hostIP`".to_owned()),
    }
}

/// A field of the pod that Kubernetes lets a variable refer to and that may hold an address.
fn reference(text: &str, field: &str) -> Result<String, String> {
    let is_entry = ["metadata.annotations['", "metadata.labels['"]
        .iter()
        .filter_map(|map| field.strip_prefix(map)?.strip_suffix("']"))
        .any(|key| !key.is_empty());
    let is_field = ["status.hostIP", "status.podIP", "spec.nodeName"].contains(&field);
    if is_field || is_entry {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a pod has no address in `{field}`; `ref:status.hostIP` is its node's"
    ))
}

/// Reads a share of a whole.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|it| (0.0..=1.0).contains(it));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}
