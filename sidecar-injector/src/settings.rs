//! What the operator chose for the containers that are put into pods. The defaults are App Mesh's where they can be.

use crate::bootstrap::{HostPort, StatsD, Tracing};

/// What the operator chose.
#[derive(Debug, Clone, PartialEq)]
pub struct InjectorSettings {
    /// What becomes of a pod that wants a sidecar and is no member of a mesh.
    pub without_member: WithoutMember,
    /// What becomes of a pod with an annotation that cannot be read.
    pub malformed: MalformedAnnotation,
    /// Where in the pod the sidecars stand.
    pub order: SidecarOrder,
    /// Envoy's container.
    pub envoy: EnvoySettings,
    /// The image of the container that sets up interception.
    pub init_image: String,
    /// Addresses and networks that are not intercepted unless the pod says others.
    pub ignored_ips: Vec<String>,
    /// How the proxy reaches the control plane.
    pub control_plane: ControlPlaneSettings,
    /// The AWS region, shown to the containers; empty if there is none.
    pub region: String,
    /// The host's Unix socket on which secrets are served, if pods are to have it.
    pub sds_socket: Option<String>,
    /// Who gets traces.
    pub tracing: Option<Tracing>,
    /// The daemon beside the proxy that takes traces for X-Ray; used if [`Tracing::XRay`] is.
    pub xray: XRayDaemon,
    /// Whether statistics carry App Mesh's tags.
    pub stats_tags: bool,
    /// Who gets the statistics besides the admin pages.
    pub statsd: Option<StatsD>,
    /// Whether pods get the group 1337, which may read mounted tokens of AWS roles, unless they have one.
    pub fs_group: bool,
    /// Whether pods of nodes in Cloud Map wait for their registration there: only if somebody registers them.
    pub cloud_map_gate: bool,
}

/// What becomes of a pod that wants a sidecar and is no member of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutMember {
    /// It is refused, as App Mesh did.
    Refuse,
    /// It runs without, and whoever created it is warned.
    Skip,
}

/// What becomes of a pod with an annotation that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedAnnotation {
    /// It is refused.
    Refuse,
    /// The annotation's default holds, and whoever created the pod is warned.
    Warn,
}

/// Where in the pod the sidecars stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidecarOrder {
    /// Init containers that go on running: the application starts when the proxy is ready, and a Job's pod ends.
    Native,
    /// Containers after the application's, as App Mesh did: the application may start before the proxy.
    Container,
}

/// Envoy's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoySettings {
    /// Its image: plain Envoy.
    pub image: String,
    /// What Envoy logs: `trace`, `debug`, `info`, `warning`, `error`, `critical` or `off`.
    pub log_level: String,
    /// Its worker threads.
    pub concurrency: u16,
    /// What it may use, and the interception's container too.
    pub resources: Resources,
    /// How long it goes on serving once the pod is to end, in seconds.
    pub prestop_delay: u32,
    /// How often one looks whether it is ready to begin with, in seconds.
    pub start_interval: u32,
    /// How long that may take, in seconds.
    pub start_timeout: u32,
    /// When one first asks whether it is ready, in seconds.
    pub readiness_initial_delay: u32,
    /// How often one asks from then on, in seconds.
    pub readiness_period: u32,
    /// The port of its admin pages.
    pub admin_port: u16,
    /// The file in which requests to them are noted; nowhere if empty.
    pub admin_access_log: String,
    /// Whether they are served on IPv6 too.
    pub admin_ipv6: bool,
}

/// What a container may use, as Kubernetes writes quantities; empty is not said.
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

/// How the proxy reaches the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneSettings {
    /// Where it listens.
    pub xds: HostPort,
    /// The authorities of its certificate, in PEM; plain text without.
    pub authority: Option<String>,
    /// The audience of the service account's token that the proxy shows; none is shown without.
    pub token_audience: Option<String>,
}

/// The daemon that takes traces for X-Ray.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XRayDaemon {
    /// Its image.
    pub image: String,
    /// What it logs: `dev`, `debug`, `info`, `prod`, `warn` or `error`.
    pub log_level: String,
    /// The role that it assumes; its own without.
    pub role_arn: Option<String>,
}

impl InjectorSettings {
    /// The defaults, with the addresses and images that there is no default for.
    pub fn new(xds: HostPort, init_image: String) -> Self {
        Self {
            without_member: WithoutMember::Refuse,
            malformed: MalformedAnnotation::Refuse,
            order: SidecarOrder::Native,
            envoy: EnvoySettings::default(),
            init_image,
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
