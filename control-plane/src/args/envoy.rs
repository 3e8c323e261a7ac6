//! What can be asked for of Envoy's container in pods. The flags are called as App Mesh's controller had them.

use clap::{
    Args,
    builder::{NonEmptyStringValueParser, RangedI64ValueParser},
    value_parser,
};
use evermesh_injector::{
    quantity,
    settings::{EnvoySettings, Resources},
};

/// Envoy's container in pods.
#[derive(Debug, Args)]
pub struct EnvoyArgs {
    /// Envoy's image, without its tag: any image of plain Envoy with `envoy` in its PATH
    #[arg(
        long,
        value_name = "IMAGE",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "envoyproxy/envoy",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_IMAGE_REPOSITORY"
    )]
    pub sidecar_image_repository: String,

    /// The tag of Envoy's image
    #[arg(
        long,
        value_name = "TAG",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "distroless-v1.40.0",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_IMAGE_TAG"
    )]
    pub sidecar_image_tag: String,

    /// The CPU that Envoy's container requests, and that of interception; nothing if empty
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = amount,
        default_value = "10m",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CPU_REQUESTS"
    )]
    pub sidecar_cpu_requests: String,

    /// The memory that they request
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = amount,
        default_value = "32Mi",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_MEMORY_REQUESTS"
    )]
    pub sidecar_memory_requests: String,

    /// The most CPU that they get; no limit if empty
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = amount,
        default_value = "",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CPU_LIMITS"
    )]
    pub sidecar_cpu_limits: String,

    /// The most memory that they get
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = amount,
        default_value = "",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_MEMORY_LIMITS"
    )]
    pub sidecar_memory_limits: String,

    /// What Envoy logs
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"],
        default_value = "info",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_LOG_LEVEL"
    )]
    pub sidecar_log_level: String,

    /// Envoy's worker threads; the variable `ENVOY_CONCURRENCY` in a pod's `sidecarEnv` says otherwise for that pod
    #[arg(
        long,
        value_name = "N",
        value_parser = value_parser!(u16).range(1..=1024),
        default_value_t = 2,
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CONCURRENCY"
    )]
    pub sidecar_concurrency: u16,

    /// How long Envoy goes on serving when its pod is to end, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 20,
        conflicts_with = "config",
        env = "EVERMESH_PRESTOP_DELAY"
    )]
    pub prestop_delay: u32,

    /// How long Envoy may take to be ready at the start, in seconds; then it is started again
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 180,
        conflicts_with = "config",
        env = "EVERMESH_POSTSTART_TIMEOUT"
    )]
    pub poststart_timeout: u32,

    /// How often one looks whether it is, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 1,
        conflicts_with = "config",
        env = "EVERMESH_POSTSTART_INTERVAL"
    )]
    pub poststart_interval: u32,

    /// When the readiness probe of Envoy begins, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 1,
        conflicts_with = "config",
        env = "EVERMESH_READINESS_PROBE_INITIAL_DELAY"
    )]
    pub readiness_probe_initial_delay: u32,

    /// How often it asks, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 10,
        conflicts_with = "config",
        env = "EVERMESH_READINESS_PROBE_PERIOD"
    )]
    pub readiness_probe_period: u32,

    /// The port of Envoy's admin pages, where Prometheus finds its statistics
    #[arg(
        long,
        value_name = "PORT",
        value_parser = value_parser!(u16).range(1..),
        default_value_t = 9901,
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_PORT"
    )]
    pub envoy_admin_access_port: u16,

    /// The file in Envoy's container in which requests to them are noted; nowhere if empty
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/tmp/envoy_admin_access.log",
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_LOG_FILE"
    )]
    pub envoy_admin_access_log_file: String,

    /// Serve them on IPv6 too; so they are with --ip-family=ipv6
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_ENABLE_IPV6"
    )]
    pub envoy_admin_access_enable_ipv6: bool,
}

impl EnvoyArgs {
    /// As the injector has it; `ipv6` is whether its admin pages are needed there whatever the flag says.
    pub(super) fn settings(&self, ipv6: bool) -> EnvoySettings {
        EnvoySettings {
            image: format!(
                "{}:{}",
                self.sidecar_image_repository, self.sidecar_image_tag
            ),
            log_level: self.sidecar_log_level.clone(),
            concurrency: self.sidecar_concurrency,
            resources: Resources {
                cpu_request: self.sidecar_cpu_requests.clone(),
                memory_request: self.sidecar_memory_requests.clone(),
                cpu_limit: self.sidecar_cpu_limits.clone(),
                memory_limit: self.sidecar_memory_limits.clone(),
            },
            prestop_delay: self.prestop_delay,
            start_interval: self.poststart_interval,
            start_timeout: self.poststart_timeout,
            readiness_initial_delay: self.readiness_probe_initial_delay,
            readiness_period: self.readiness_probe_period,
            admin_port: self.envoy_admin_access_port,
            admin_access_log: self.envoy_admin_access_log_file.clone(),
            admin_ipv6: self.envoy_admin_access_enable_ipv6 || ipv6,
        }
    }
}

/// Reads a number of seconds, as far as Kubernetes takes them for a probe or a pause.
fn seconds() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(..=65_535)
}

/// Reads a quantity, or nothing.
fn amount(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    quantity(text)
}
