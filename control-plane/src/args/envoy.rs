//! Flags for the Envoy container of sidecars, named as in the controller of App Mesh.

use clap::{
    Args,
    builder::{NonEmptyStringValueParser, RangedI64ValueParser},
    value_parser,
};
use evermesh_injector::{
    exceeds, quantity,
    settings::{EnvoySettings, Resources},
};

use super::heading;

#[derive(Debug, Args)]
#[command(next_help_heading = heading::SIDECAR)]
pub struct EnvoyArgs {
    /// Envoy image of sidecars, without its tag
    ///
    /// Any image with plain Envoy works, provided that `envoy` is in its PATH.
    #[arg(
        long,
        value_name = "IMAGE",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "envoyproxy/envoy",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_IMAGE_REPOSITORY",
        hide_short_help = true
    )]
    pub sidecar_image_repository: String,

    /// Tag of the Envoy image
    #[arg(
        long,
        value_name = "TAG",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "distroless-v1.40.0",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_IMAGE_TAG",
        hide_short_help = true
    )]
    pub sidecar_image_tag: String,

    /// CPU request of the Envoy container and the init container
    ///
    /// An empty value sets no request.
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = optional_quantity,
        default_value = "10m",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CPU_REQUESTS",
        hide_short_help = true
    )]
    pub sidecar_cpu_requests: String,

    /// Memory request of the Envoy container and the init container
    ///
    /// An empty value sets no request.
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = optional_quantity,
        default_value = "32Mi",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_MEMORY_REQUESTS",
        hide_short_help = true
    )]
    pub sidecar_memory_requests: String,

    /// CPU limit of the Envoy container and the init container; none if empty
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = optional_quantity,
        default_value = "",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CPU_LIMITS",
        hide_short_help = true
    )]
    pub sidecar_cpu_limits: String,

    /// Memory limit of the Envoy container and the init container; none if empty
    #[arg(
        long,
        value_name = "QUANTITY",
        value_parser = optional_quantity,
        default_value = "",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_MEMORY_LIMITS",
        hide_short_help = true
    )]
    pub sidecar_memory_limits: String,

    /// Log level of Envoy
    #[arg(
        long,
        value_name = "LEVEL",
        value_parser = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"],
        default_value = "info",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_LOG_LEVEL",
        hide_short_help = true
    )]
    pub sidecar_log_level: String,

    /// Number of Envoy worker threads, from 1 to 1024
    ///
    /// `ENVOY_CONCURRENCY` in the annotation `sidecarEnv` of a pod overrides this flag for that pod.
    #[arg(
        long,
        value_name = "N",
        value_parser = value_parser!(u16).range(1..=1024),
        default_value_t = 2,
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CONCURRENCY",
        hide_short_help = true
    )]
    pub sidecar_concurrency: u16,

    /// Time in seconds that Envoy keeps serving once its pod is being deleted
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 20,
        conflicts_with = "config",
        env = "EVERMESH_PRESTOP_DELAY",
        hide_short_help = true
    )]
    pub prestop_delay: u32,

    /// Longest time in seconds that Envoy may take to become ready
    ///
    /// The kubelet restarts the Envoy container after that time.
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 180,
        conflicts_with = "config",
        env = "EVERMESH_POSTSTART_TIMEOUT",
        hide_short_help = true
    )]
    pub poststart_timeout: u32,

    /// Interval in seconds between checks whether Envoy has become ready
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 1,
        conflicts_with = "config",
        env = "EVERMESH_POSTSTART_INTERVAL",
        hide_short_help = true
    )]
    pub poststart_interval: u32,

    /// Delay in seconds before the first readiness probe of Envoy
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 1,
        conflicts_with = "config",
        env = "EVERMESH_READINESS_PROBE_INITIAL_DELAY",
        hide_short_help = true
    )]
    pub readiness_probe_initial_delay: u32,

    /// Interval in seconds between readiness probes of Envoy
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds(),
        default_value_t = 10,
        conflicts_with = "config",
        env = "EVERMESH_READINESS_PROBE_PERIOD",
        hide_short_help = true
    )]
    pub readiness_probe_period: u32,

    /// Port of the Envoy admin pages, where Prometheus scrapes the statistics
    #[arg(
        long,
        value_name = "PORT",
        value_parser = value_parser!(u16).range(1..),
        default_value_t = 9901,
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_PORT",
        hide_short_help = true
    )]
    pub envoy_admin_access_port: u16,

    /// Access log of the Envoy admin pages, a file in the container; none if empty
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/tmp/envoy_admin_access.log",
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_LOG_FILE",
        hide_short_help = true
    )]
    pub envoy_admin_access_log_file: String,

    /// Serve the Envoy admin pages on IPv6 too
    ///
    /// --ip-family=dual and --ip-family=ipv6 imply this flag.
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_ENABLE_IPV6",
        hide_short_help = true
    )]
    pub envoy_admin_access_enable_ipv6: bool,
}

impl EnvoyArgs {
    /// Converts the flags into settings of the injector. `ipv6` serves the admin pages on IPv6 even without the flag.
    ///
    /// # Errors
    /// A request is larger than the limit, which the API server refuses in every pod.
    pub(super) fn settings(&self, ipv6: bool) -> anyhow::Result<EnvoySettings> {
        for (resource, request, limit) in [
            ("cpu", &self.sidecar_cpu_requests, &self.sidecar_cpu_limits),
            (
                "memory",
                &self.sidecar_memory_requests,
                &self.sidecar_memory_limits,
            ),
        ] {
            anyhow::ensure!(
                !exceeds(request, limit),
                "--sidecar-{resource}-requests is `{request}`, more than --sidecar-{resource}-limits, which is `{limit}`; the API server would reject every injected pod"
            );
        }
        Ok(EnvoySettings {
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
        })
    }
}

/// Parses a number of seconds up to 65,535, within the limits of probes and lifecycle hooks in Kubernetes.
fn seconds() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(..=65_535)
}

/// Parses a Kubernetes quantity or an empty text.
fn optional_quantity(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    quantity(text)
}
