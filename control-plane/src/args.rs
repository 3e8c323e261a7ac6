//! The command line: flags, environment variables, defaults and help texts.
//!
//! `-h` shows the flags that most installations need; `--help` shows all of them under the headings in [`heading`].
//! Flags of App Mesh's controller keep the names that they have there.

#![allow(clippy::doc_markdown)] // doc comments are help texts for a terminal

mod authority;
mod bootstrap;
mod choice;
mod cluster;
mod envoy;
mod injector;
mod sidecar_telemetry;
#[cfg(test)]
mod tests;
mod xds;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    authority::checked_authority,
    cluster::{MUTATING_CONFIGURATION, VALIDATING_CONFIGURATION},
};
pub use self::{
    bootstrap::BootstrapArgs,
    choice::{MalformedAnnotationArg, SidecarOrderArg, WithoutMemberArg},
    cluster::{IpFamilyArg, KubernetesArgs, NamespacedName, WebhookArgs},
    envoy::EnvoyArgs,
    injector::InjectorArgs,
    sidecar_telemetry::SidecarTelemetryArgs,
    xds::{XdsArgs, XdsAuthentication},
};

/// Headings of `evermesh serve --help`, in the order in which they appear.
mod heading {
    pub(super) const SOURCE: &str = "Source";
    pub(super) const XDS: &str = "xDS";
    pub(super) const IDENTITY: &str = "Identity";
    pub(super) const ADMISSION: &str = "Admission";
    pub(super) const INJECTION: &str = "Injection";
    pub(super) const SIDECAR: &str = "Sidecar";
    pub(super) const CLOUD_MAP: &str = "Cloud Map";
    pub(super) const OPERATIONS: &str = "Operations";
}

/// Control plane for Envoy that implements the App Mesh API
///
/// Evermesh reads App Mesh objects (appmesh.k8s.aws/v1beta2) and Route objects (evermesh.dev/v1alpha1) from a folder
/// or from a Kubernetes cluster. It finds endpoints through DNS, AWS Cloud Map and EndpointSlices, and configures
/// unmodified Envoy proxies over xDS.
#[derive(Debug, Parser)]
#[command(
    name = "evermesh",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  evermesh lint examples/canary
  evermesh serve --config examples/canary
  evermesh crds | kubectl apply -f -

`evermesh COMMAND -h` shows the flags that are needed most, `evermesh COMMAND --help` all of them with details."
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: EvermeshCommand,
}

#[derive(Debug, Subcommand)]
pub enum EvermeshCommand {
    /// Serve configuration to Envoy proxies from a folder or from a Kubernetes cluster
    ///
    /// Changes of the objects take effect without a restart. Proxies connect over xDS, with the delta or the
    /// state-of-the-world protocol, on one aggregated stream (ADS) or on one stream for each type.
    Serve(Box<ServeArgs>),
    /// Check a folder of manifests and print its errors and warnings
    ///
    /// `lint` reports the same problems that `serve` would report, without serving anything.
    Lint(LintArgs),
    /// Print the Envoy bootstrap configuration for a virtual node or virtual gateway
    ///
    /// Injected sidecars do not need this command: they get their bootstrap at admission.
    Bootstrap(Box<BootstrapArgs>),
    /// Print the custom resource definitions as YAML, for `kubectl apply`
    #[command(after_help = "\
Example:
  evermesh crds | kubectl apply -f -")]
    Crds,
    /// Remove what keeps objects from being deleted after Evermesh was uninstalled
    ///
    /// Removes the finalizers of Evermesh and of App Mesh's controller from all objects of the Kubernetes cluster that
    /// KUBECONFIG names, and prints the virtual nodes whose instances may remain in Cloud Map. Run this with an
    /// administrator's rights, after `helm uninstall`.
    RemoveFinalizers,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Serve a folder to a local Envoy:
    evermesh serve --config examples/canary
    evermesh bootstrap --node mesh/demo/virtualNode/front_demo --xds 127.0.0.1:18000 > front.yaml
    envoy -c front.yaml
    curl -s http://127.0.0.1:18080/debug/proxies
  Serve a Kubernetes cluster:
    evermesh serve --kubernetes --webhook-address 0.0.0.0:9443 \\
        --leader-election-namespace evermesh-system")]
pub struct ServeArgs {
    #[command(flatten)]
    pub source: SourceArgs,

    /// Address of the xDS server (gRPC) for proxies
    ///
    /// Proxies on other hosts can only connect if this address is not loopback, and then --xds-authentication is
    /// required.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:18000",
        env = "EVERMESH_XDS_ADDRESS",
        help_heading = heading::XDS
    )]
    pub xds_address: SocketAddr,

    /// Number of threads that serve proxies, from 1 to 256
    ///
    /// One thread carries tens of thousands of deliveries a second.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256),
        env = "EVERMESH_XDS_THREADS",
        help_heading = heading::XDS,
        hide_short_help = true
    )]
    pub xds_threads: u16,

    #[command(flatten)]
    pub xds: XdsArgs,

    #[command(flatten)]
    pub webhook: WebhookArgs,

    #[command(flatten)]
    pub injector: InjectorArgs,

    #[command(flatten)]
    pub cloud_map: CloudMapArgs,

    /// Address of the admin pages (HTTP): /livez, /readyz, /metrics and /debug
    ///
    /// /debug shows the whole configuration to every client that can connect, so keep this address private and give
    /// probes and Prometheus --metrics-address instead.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:18080",
        env = "EVERMESH_ADMIN_ADDRESS",
        help_heading = heading::OPERATIONS
    )]
    pub admin_address: SocketAddr,

    /// Host name under which a client may request /debug of --admin-address; repeatable
    ///
    /// An IP address and localhost are always allowed. A web page whose name was made to resolve to this address gets 403
    /// (DNS rebinding).
    #[arg(
        long = "admin-host",
        value_name = "NAME",
        value_delimiter = ',',
        env = "EVERMESH_ADMIN_HOST",
        help_heading = heading::OPERATIONS,
        hide_short_help = true
    )]
    pub admin_hosts: Vec<String>,

    /// Address for probes, metrics and other replicas (HTTP), without /debug
    ///
    /// Serves /livez, /readyz, /metrics and /replicas, which only accepts the key of another replica. Without this flag
    /// only --admin-address serves these paths.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "EVERMESH_METRICS_ADDRESS",
        help_heading = heading::OPERATIONS,
        hide_short_help = true
    )]
    pub metrics_address: Option<SocketAddr>,

    /// Longest time that streams may take to end after SIGTERM, such as 5s
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration,
        env = "EVERMESH_SHUTDOWN_TIMEOUT",
        help_heading = heading::OPERATIONS,
        hide_short_help = true
    )]
    pub shutdown_timeout: Duration,

    #[command(flatten)]
    pub kubernetes: KubernetesArgs,

    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = heading::SOURCE)]
pub struct SourceArgs {
    /// Read objects from the manifests in this folder and its subfolders
    ///
    /// Evermesh reads *.yaml, *.yml and *.json and follows their changes. A file may hold several documents and `List`
    /// objects, so the output of `kubectl get -o yaml` can be served unchanged.
    #[arg(long, value_name = "DIR", env = "EVERMESH_CONFIG")]
    pub config: Option<PathBuf>,

    /// Read objects from the Kubernetes cluster
    ///
    /// Outside a cluster, KUBECONFIG or ~/.kube/config names the Kubernetes cluster; inside, it is the one that
    /// Evermesh runs in. The custom resource definitions must be installed first: `evermesh crds | kubectl apply -f -`.
    #[arg(long, env = "EVERMESH_KUBERNETES")]
    pub kubernetes: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = heading::CLOUD_MAP)]
pub struct CloudMapArgs {
    /// URL of a Cloud Map API other than AWS's own
    ///
    /// Use this flag for a local stand-in; AWS credentials are then not needed. Without it, credentials and region come
    /// from the usual places of the AWS SDKs.
    #[arg(
        long,
        value_name = "URL",
        env = "EVERMESH_CLOUD_MAP_ENDPOINT",
        hide_short_help = true
    )]
    pub cloud_map_endpoint: Option<String>,

    /// Interval between two polls of each Cloud Map service in use, at least 100ms
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration,
        env = "EVERMESH_CLOUD_MAP_INTERVAL",
        hide_short_help = true
    )]
    pub cloud_map_interval: Duration,

    /// Register the pods of virtual nodes with awsCloudMap in Cloud Map
    ///
    /// The leader registers and deregisters the pods and sets their readiness gates, as the controller of App Mesh
    /// does. Requires --leader-election-namespace.
    #[arg(
        long,
        conflicts_with = "config",
        requires = "leader_election_namespace",
        env = "EVERMESH_CLOUD_MAP_REGISTRATION",
        hide_short_help = true
    )]
    pub cloud_map_registration: bool,

    /// TTL in seconds of the DNS records of Cloud Map services that Evermesh creates
    ///
    /// Only services in a DNS namespace have records.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(..=2_147_483_647),
        env = "EVERMESH_CLOUD_MAP_DNS_TTL",
        hide_short_help = true
    )]
    pub cloud_map_dns_ttl: u32,

    /// Create Cloud Map services with a custom health check
    ///
    /// Pods that are not ready are then registered too, with the status UNHEALTHY. Without this flag only ready pods
    /// are registered.
    #[arg(
        long,
        env = "EVERMESH_CLOUD_MAP_CUSTOM_HEALTH_CHECK",
        hide_short_help = true
    )]
    pub cloud_map_custom_health_check: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = heading::OPERATIONS)]
pub struct TelemetryArgs {
    /// Log level, or filter directives such as `info,evermesh_xds=debug`
    ///
    /// Levels are error, warn, info, debug, trace and off. Logs go to standard error.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "EVERMESH_LOG"
    )]
    pub log: String,

    /// Format of the log lines
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "human",
        env = "EVERMESH_LOG_FORMAT",
        hide_short_help = true
    )]
    pub log_format: LogFormat,

    /// URL of an OTLP collector (gRPC) for traces, such as `http://127.0.0.1:4317`
    ///
    /// Each change of an object becomes one trace, from its source to the last ACK. Without this flag no traces are
    /// sent.
    #[arg(
        long,
        value_name = "URL",
        env = "EVERMESH_OTLP_ENDPOINT",
        hide_short_help = true
    )]
    pub otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    Human,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0  no errors; there may be warnings
  1  at least one error
  2  the folder could not be read

Example:
  evermesh lint examples/canary --output json")]
pub struct LintArgs {
    /// Folder of manifests to check, with its subfolders
    #[arg(value_name = "DIR", env = "EVERMESH_CONFIG")]
    pub config: PathBuf,

    /// Format of the output
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "EVERMESH_OUTPUT"
    )]
    pub output: LintFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LintFormat {
    /// File, line, column, severity, object, field, message and reason of each problem, and the line at fault
    Text,
    /// One JSON array
    Json,
    /// A log in the format SARIF 2.1.0, for code scanning
    Sarif,
    /// Commands of GitHub Actions, which show problems beside the lines of a pull request
    Github,
}

/// Parses a duration such as `250ms`, `5s` or `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let number_end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("use a number and a unit, such as 250ms, 5s or 1m".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .filter(|milliseconds| (100..=86_400_000).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "use a duration from 100ms to 1440m".into())
}
