//! What can be asked for in pods. The flags that App Mesh's controller had are called as they were there.

use std::path::PathBuf;

use clap::Args;
use evermesh_injector::{
    Settings,
    bootstrap::HostPort,
    settings::{ControlPlaneSettings, EnvoySettings, Resources},
};

use super::{
    authority::authority,
    choice::{Malformed, SidecarOrder, WithoutMember},
    sidecar_telemetry::SidecarTelemetryArgs,
};

/// What is put into pods.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // a switch a flag
pub struct InjectorArgs {
    /// What becomes of a pod that wants a sidecar and that no virtual node or gateway selects
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "refuse",
        conflicts_with = "config",
        env = "EVERMESH_INJECTION_WITHOUT_MEMBER"
    )]
    pub injection_without_member: WithoutMember,

    /// What becomes of a pod with an annotation that cannot be read
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "refuse",
        conflicts_with = "config",
        env = "EVERMESH_INJECTION_MALFORMED_ANNOTATION"
    )]
    pub injection_malformed_annotation: Malformed,

    /// Where sidecars stand in a pod
    #[arg(
        long,
        value_name = "ORDER",
        default_value = "native",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_ORDER"
    )]
    pub sidecar_order: SidecarOrder,

    /// Refuse an order of sidecars in which the application does not wait for its proxy; `native` always waits
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_WAIT_UNTIL_PROXY_READY"
    )]
    pub wait_until_proxy_ready: bool,

    /// Envoy's image, without its tag: any image of plain Envoy with `envoy` in its PATH
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "envoyproxy/envoy",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_IMAGE_REPOSITORY"
    )]
    pub sidecar_image_repository: String,

    /// The tag of Envoy's image
    #[arg(
        long,
        value_name = "TAG",
        default_value = "distroless-v1.40.0",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_IMAGE_TAG"
    )]
    pub sidecar_image_tag: String,

    /// The CPU that Envoy's container requests, and that of interception; nothing if empty
    #[arg(
        long,
        value_name = "QUANTITY",
        default_value = "10m",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CPU_REQUESTS"
    )]
    pub sidecar_cpu_requests: String,

    /// The memory that they request
    #[arg(
        long,
        value_name = "QUANTITY",
        default_value = "32Mi",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_MEMORY_REQUESTS"
    )]
    pub sidecar_memory_requests: String,

    /// The most CPU that they get; no limit if empty
    #[arg(
        long,
        value_name = "QUANTITY",
        default_value = "",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CPU_LIMITS"
    )]
    pub sidecar_cpu_limits: String,

    /// The most memory that they get
    #[arg(
        long,
        value_name = "QUANTITY",
        default_value = "",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_MEMORY_LIMITS"
    )]
    pub sidecar_memory_limits: String,

    /// What Envoy logs: trace, debug, info, warning, error, critical or off
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_LOG_LEVEL"
    )]
    pub sidecar_log_level: String,

    /// Envoy's worker threads; the variable `ENVOY_CONCURRENCY` in a pod's `sidecarEnv` says otherwise for that pod
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_CONCURRENCY"
    )]
    pub sidecar_concurrency: u16,

    /// How long Envoy goes on serving when its pod is to end, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 20,
        conflicts_with = "config",
        env = "EVERMESH_PRESTOP_DELAY"
    )]
    pub prestop_delay: u32,

    /// How long Envoy may take to be ready at the start, in seconds; then it is started again
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 180,
        conflicts_with = "config",
        env = "EVERMESH_POSTSTART_TIMEOUT"
    )]
    pub poststart_timeout: u32,

    /// How often one looks whether it is, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1,
        conflicts_with = "config",
        env = "EVERMESH_POSTSTART_INTERVAL"
    )]
    pub poststart_interval: u32,

    /// When the readiness probe of Envoy begins, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1,
        conflicts_with = "config",
        env = "EVERMESH_READINESS_PROBE_INITIAL_DELAY"
    )]
    pub readiness_probe_initial_delay: u32,

    /// How often it asks, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        conflicts_with = "config",
        env = "EVERMESH_READINESS_PROBE_PERIOD"
    )]
    pub readiness_probe_period: u32,

    /// The port of Envoy's admin pages, where Prometheus finds its statistics
    #[arg(
        long,
        value_name = "PORT",
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

    /// Serve them on IPv6 too
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENVOY_ADMIN_ACCESS_ENABLE_IPV6"
    )]
    pub envoy_admin_access_enable_ipv6: bool,

    /// The image that sets up interception
    #[arg(
        long,
        value_name = "IMAGE",
        conflicts_with = "config",
        env = "EVERMESH_INIT_IMAGE"
    )]
    pub init_image: Option<String>,

    /// Addresses and networks that are not intercepted, unless a pod's `egressIgnoredIPs` says others
    #[arg(
        long,
        value_name = "ADDRESSES",
        default_value = "169.254.169.254",
        value_delimiter = ',',
        conflicts_with = "config",
        env = "EVERMESH_IGNORED_IPS"
    )]
    pub ignored_ips: Vec<String>,

    /// Where sidecars reach Evermesh's xDS
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "evermesh-xds.evermesh-system.svc:18000",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_XDS"
    )]
    pub sidecar_xds: HostPort,

    /// A file, here, with the authorities of the certificate that xDS is served with, in PEM: sidecars connect by TLS.
    /// It is read once, and pods keep what they were created with
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_XDS_CA"
    )]
    pub sidecar_xds_ca: Option<PathBuf>,

    /// The audience of the service account's token by which a sidecar shows who it is; none is shown if empty
    #[arg(
        long,
        value_name = "AUDIENCE",
        default_value = "evermesh",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_TOKEN_AUDIENCE"
    )]
    pub sidecar_token_audience: String,

    /// Give pods the socket of a secret service (SDS), such as SPIRE's, on their host
    #[arg(long, conflicts_with = "config", env = "EVERMESH_ENABLE_SDS")]
    pub enable_sds: bool,

    /// The path of that socket
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/spire/sockets/agent.sock",
        conflicts_with = "config",
        env = "EVERMESH_SDS_UDS_PATH"
    )]
    pub sds_uds_path: String,

    /// Give pods the group 1337 unless they have one, so that Envoy can read the token of an AWS role; it changes the
    /// owner of volumes
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_IAM_FOR_SERVICE_ACCOUNTS"
    )]
    pub enable_iam_for_service_accounts: bool,

    /// Traces and statistics
    #[command(flatten)]
    pub telemetry: SidecarTelemetryArgs,
}

impl InjectorArgs {
    /// What pods get. `registers` is whether pods are registered in Cloud Map.
    pub fn settings(&self, region: &str, registers: bool) -> anyhow::Result<Settings> {
        anyhow::ensure!(
            !self.wait_until_proxy_ready || self.sidecar_order == SidecarOrder::Native,
            "--wait-until-proxy-ready: with --sidecar-order=container no application can wait for plain Envoy; use native"
        );
        let authority = self.sidecar_xds_ca.as_deref().map(authority);
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let init_image = self.init_image.clone();
        let init_image = init_image
            .unwrap_or_else(|| format!("evermesh-proxy-init:{}", env!("CARGO_PKG_VERSION")));
        Ok(Settings {
            without_member: self.injection_without_member.into(),
            malformed: self.injection_malformed_annotation.into(),
            order: self.sidecar_order.into(),
            envoy: self.envoy(),
            ignored_ips: self.ignored_ips.clone(),
            control_plane: ControlPlaneSettings {
                xds: self.sidecar_xds.clone(),
                authority: authority.transpose()?,
                token_audience: some(&self.sidecar_token_audience),
            },
            region: region.to_owned(),
            sds_socket: self.enable_sds.then(|| self.sds_uds_path.clone()),
            tracing: self.telemetry.tracing(),
            xray: self.telemetry.daemon(),
            stats_tags: self.telemetry.enable_stats_tags,
            statsd: self.telemetry.statsd(),
            fs_group: self.enable_iam_for_service_accounts,
            cloud_map_gate: registers,
            ..Settings::new(self.sidecar_xds.clone(), init_image)
        })
    }

    fn envoy(&self) -> EnvoySettings {
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
            admin_ipv6: self.envoy_admin_access_enable_ipv6,
        }
    }
}
