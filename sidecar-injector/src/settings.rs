//! The operator's settings for injected containers, from flags of `evermesh serve`. Defaults are those of App Mesh's
//! controller where they suit plain Envoy; `docs/injector.md` lists the differences.

use crate::bootstrap::{HostPort, StatsD, Tracing};

/// Everything about injection that an operator can set.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // one switch per setting
pub struct InjectorSettings {
    /// The decision about a pod that wants a sidecar and that no node or gateway selects.
    pub without_member: WithoutMember,
    /// The decision about a pod with an annotation that cannot be parsed.
    pub malformed: MalformedAnnotation,
    /// The place of the sidecars among the pod's containers.
    pub order: SidecarOrder,
    /// The container `envoy`.
    pub envoy: EnvoySettings,
    /// The image of `proxyinit`, the init container that sets up interception.
    pub init_image: String,
    /// Whether pods of the Kubernetes cluster have IPv6 addresses, as far as is known. Only warnings depend on it.
    pub has_ipv6: bool,
    /// Addresses and CIDRs to which outbound connections are not intercepted, unless the pod's annotation
    /// `egressIgnoredIPs` lists others.
    pub ignored_ips: Vec<String>,
    /// The connection of proxies to the control plane.
    pub control_plane: ControlPlaneSettings,
    /// The value of `AWS_REGION` in the containers. If empty, the variable is not set.
    pub region: String,
    /// The Unix socket of a secret discovery service on the Kubernetes node, which is mounted into pods.
    pub sds_socket: Option<String>,
    /// The tracer of all proxies.
    pub tracing: Option<Tracing>,
    /// The container `xray-daemon`, which is added if `tracing` is [`Tracing::XRay`].
    pub xray: XRayDaemon,
    /// Whether statistics have App Mesh's tags.
    pub stats_tags: bool,
    /// A `DogStatsD` that receives statistics in addition to Envoy's admin pages.
    pub statsd: Option<StatsD>,
    /// Whether a pod without `fsGroup` gets the group 1337, with which Envoy can read the mounted token of an AWS role.
    pub fs_group: bool,
    /// Whether pods of Cloud Map nodes get a readiness gate. Only useful if a control plane registers these pods.
    pub cloud_map_gate: bool,
}

/// The decision about a pod that wants a sidecar and that no node or gateway selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutMember {
    /// Reject the pod, as App Mesh did.
    Refuse,
    /// Create the pod without a sidecar, with a warning.
    Skip,
}

/// The decision about a pod with an annotation that cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedAnnotation {
    /// Reject the pod.
    Refuse,
    /// Use the annotation's default, with a warning.
    Warn,
}

/// The place of the sidecars among the pod's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidecarOrder {
    /// Native sidecars, which are init containers with `restartPolicy: Always`: the application starts after its proxy
    /// is ready, and the pod of a Job ends with the Job.
    Native,
    /// Containers after the application's, as with App Mesh: the application may start before its proxy.
    Container,
}

/// The container `envoy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoySettings {
    /// An image of plain Envoy.
    pub image: String,
    /// Envoy's log level: `trace`, `debug`, `info`, `warning`, `error`, `critical` or `off`.
    pub log_level: String,
    /// The number of Envoy's worker threads.
    pub concurrency: u16,
    /// Requests and limits of `envoy`, and of `proxyinit`. Annotations change those of `envoy`.
    pub resources: Resources,
    /// Time for which Envoy keeps serving after the pod starts to terminate, in seconds. A pod with a shorter grace
    /// period gets less.
    pub prestop_delay: u32,
    /// Period of the startup probe, in seconds. At least 1.
    pub start_interval: u32,
    /// Time that Envoy has to become ready after its start, in seconds. The kubelet then restarts the container.
    pub start_timeout: u32,
    /// Delay before the first readiness probe, in seconds.
    pub readiness_initial_delay: u32,
    /// Period of the readiness probe, in seconds.
    pub readiness_period: u32,
    /// The port of Envoy's admin pages: all of them on loopback, and those for probes and Prometheus on other addresses.
    pub admin_port: u16,
    /// The access log of the admin pages. Empty for none.
    pub admin_access_log: String,
    /// Whether the pages for probes and Prometheus are served on IPv6 as well.
    pub admin_ipv6: bool,
}

/// Requests and limits of a container, as Kubernetes quantities. An empty value is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`
    pub cpu_request: String,
    /// `requests.memory`
    pub memory_request: String,
    /// `limits.cpu`
    pub cpu_limit: String,
    /// `limits.memory`
    pub memory_limit: String,
}

/// The connection of proxies to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneSettings {
    /// The address of the xDS server.
    pub xds: HostPort,
    /// The authorities that sign the server's certificate, in PEM. Without them the connection is plaintext.
    pub authority: Option<String>,
    /// The audience of the service account token that a proxy sends. Without it a proxy sends no token.
    pub token_audience: Option<String>,
}

/// The container `xray-daemon`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XRayDaemon {
    /// An image of AWS's X-Ray daemon.
    pub image: String,
    /// The daemon's log level: `dev`, `debug`, `info`, `prod`, `warn` or `error`.
    pub log_level: String,
    /// The AWS role that the daemon assumes. Without it the daemon uses the credentials of the pod.
    pub role_arn: Option<String>,
}

impl InjectorSettings {
    /// The defaults, with values for the two settings that have none: the address of the xDS server and the image of
    /// `proxyinit`.
    pub fn new(xds: HostPort, init_image: String) -> Self {
        Self {
            without_member: WithoutMember::Refuse,
            malformed: MalformedAnnotation::Refuse,
            order: SidecarOrder::Native,
            envoy: EnvoySettings::default(),
            init_image,
            has_ipv6: false,
            ignored_ips: vec!["169.254.169.254".to_owned()],
            control_plane: ControlPlaneSettings {
                xds,
                authority: None,
                token_audience: Some("evermesh".to_owned()),
            },
            region: String::new(),
            sds_socket: None,
            tracing: None,
            xray: XRayDaemon {
                image: "public.ecr.aws/xray/aws-xray-daemon:latest".to_owned(),
                log_level: "prod".to_owned(),
                role_arn: None,
            },
            stats_tags: false,
            statsd: None,
            fs_group: false,
            cloud_map_gate: false,
        }
    }
}

impl Default for EnvoySettings {
    fn default() -> Self {
        Self {
            image: "envoyproxy/envoy:distroless-v1.40.0".to_owned(),
            log_level: "info".to_owned(),
            concurrency: 2,
            resources: Resources {
                cpu_request: "10m".to_owned(),
                memory_request: "32Mi".to_owned(),
                ..Resources::default()
            },
            prestop_delay: 20,
            start_interval: 1,
            start_timeout: 180,
            readiness_initial_delay: 1,
            readiness_period: 10,
            admin_port: 9901,
            admin_access_log: "/tmp/envoy_admin_access.log".to_owned(),
            admin_ipv6: false,
        }
    }
}
