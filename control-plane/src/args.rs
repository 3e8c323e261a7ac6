//! The command line: what can be asked for, in words that teach. No logic.

mod authority;
mod bootstrap;
mod choice;
mod cluster;
mod envoy;
mod injector;
mod sidecar_telemetry;
mod xds;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::{
    bootstrap::BootstrapArgs,
    choice::{MalformedAnnotation, SidecarOrder, WithoutMember},
    cluster::{IpFamilyArg, KubernetesArgs, NamespacedName, WebhookArgs},
    envoy::EnvoyArgs,
    injector::InjectorArgs,
    sidecar_telemetry::SidecarTelemetryArgs,
    xds::{XdsArgs, XdsAuthentication},
};

/// A control plane for Envoy that speaks App Mesh.
///
/// Evermesh reads App Mesh's manifests (appmesh.k8s.aws/v1beta2) and Route objects
/// (evermesh.dev/v1alpha1), finds endpoints by DNS, in Cloud Map and in EndpointSlices, and configures
/// plain Envoys over xDS.
#[derive(Debug, Parser)]
#[command(name = "evermesh", version, propagate_version = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: EvermeshCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum EvermeshCommand {
    /// Serve a folder of manifests, or the objects of a cluster, to Envoys, and follow their changes
    Serve(Box<ServeArgs>),
    /// Check a folder of manifests without serving it
    Lint(LintArgs),
    /// Print the Envoy bootstrap for a node or gateway
    Bootstrap(Box<BootstrapArgs>),
    /// Print the custom resource definitions, to be piped into `kubectl apply -f -`
    Crds,
}

/// `evermesh serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Try it:
  evermesh serve --config examples/canary
  evermesh bootstrap --node mesh/demo/virtualNode/front_demo --xds 127.0.0.1:18000 > front.yaml
  envoy -c front.yaml
  curl -s http://127.0.0.1:18080/debug/proxies")]
pub struct ServeArgs {
    /// Where the mesh is described
    #[command(flatten)]
    pub source: SourceArgs,

    /// In a cluster
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,

    /// Admission
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// What is put into pods
    #[command(flatten)]
    pub injector: InjectorArgs,

    /// Where Envoys connect (gRPC: ADS and the separate services, delta and state of the world)
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:18000",
        env = "EVERMESH_XDS_ADDRESS"
    )]
    pub xds_address: SocketAddr,

    /// Who may connect there
    #[command(flatten)]
    pub xds: XdsArgs,

    /// Where operators look: /livez, /readyz, /metrics and, under /debug, everything that is served; keep it private
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:18080",
        env = "EVERMESH_ADMIN_ADDRESS"
    )]
    pub admin_address: SocketAddr,

    /// Where probes, metrics and other replicas come instead, without /debug: /livez, /readyz, /metrics and
    /// /replicas, which needs the key of a replica
    #[arg(long, value_name = "HOST:PORT", env = "EVERMESH_METRICS_ADDRESS")]
    pub metrics_address: Option<SocketAddr>,

    /// Threads that serve Envoys; one carries tens of thousands of deliveries a second
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256), env = "EVERMESH_XDS_THREADS")]
    pub xds_threads: u16,

    /// How long streams may take to end after SIGTERM, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "EVERMESH_SHUTDOWN_TIMEOUT")]
    pub shutdown_timeout: Duration,

    /// Cloud Map
    #[command(flatten)]
    pub cloud_map: CloudMapArgs,

    /// Logs and traces
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Where the mesh is described: one of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SourceArgs {
    /// The folder of manifests, watched with its subfolders: *.yaml, *.yml and *.json, several documents
    /// a file, `List`s too, so that a dump of `kubectl get -o yaml` can be served as it is
    #[arg(long, value_name = "DIR", env = "EVERMESH_CONFIG")]
    pub config: Option<PathBuf>,

    /// The cluster that KUBECONFIG or ~/.kube/config names or, inside of one, that cluster; the custom
    /// resource definitions must be installed (`evermesh crds`)
    #[arg(long, env = "EVERMESH_KUBERNETES")]
    pub kubernetes: bool,
}

/// Cloud Map discovery. Credentials and region come from AWS's usual places.
#[derive(Debug, Args)]
pub struct CloudMapArgs {
    /// Another endpoint than AWS's own, such as a local stand-in; no AWS account is then needed
    #[arg(long, value_name = "URL", env = "EVERMESH_CLOUD_MAP_ENDPOINT")]
    pub cloud_map_endpoint: Option<String>,

    /// How often each Cloud Map service is asked whether it changed (at least 100ms)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "EVERMESH_CLOUD_MAP_INTERVAL")]
    pub cloud_map_interval: Duration,

    /// Register the pods of nodes that are found in Cloud Map there, and set the readiness gates that wait for it, as
    /// App Mesh's controller did; by the replica that holds the Lease
    #[arg(
        long,
        conflicts_with = "config",
        requires = "leader_election_namespace",
        env = "EVERMESH_CLOUD_MAP_REGISTRATION"
    )]
    pub cloud_map_registration: bool,

    /// How long resolvers may keep an address of a service that is made in a DNS namespace, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(..=2_147_483_647),
        env = "EVERMESH_CLOUD_MAP_DNS_TTL"
    )]
    pub cloud_map_dns_ttl: u32,

    /// Make services with a custom health check: pods that are not ready are registered too, and called unhealthy
    #[arg(long, env = "EVERMESH_CLOUD_MAP_CUSTOM_HEALTH_CHECK")]
    pub cloud_map_custom_health_check: bool,
}

/// Logs and traces.
#[derive(Debug, Args)]
pub struct TelemetryArgs {
    /// What is logged: a level, or directives such as `info,evermesh_xds=debug`
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "EVERMESH_LOG"
    )]
    pub log: String,

    /// How it is written to standard error
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "human",
        env = "EVERMESH_LOG_FORMAT"
    )]
    pub log_format: LogFormat,

    /// An OTLP collector (gRPC, such as http://127.0.0.1:4317): each change becomes a trace from its
    /// source to the last ACK
    #[arg(long, value_name = "URL", env = "EVERMESH_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// A line for a person
    Human,
    /// A JSON object a line
    Json,
}

/// `evermesh lint`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 0: no errors (there may be warnings). 1: errors. 2: the folder could not be read.")]
pub struct LintArgs {
    /// The folder of manifests
    #[arg(value_name = "DIR", env = "EVERMESH_CONFIG")]
    pub config: PathBuf,

    /// How problems are printed
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "EVERMESH_OUTPUT"
    )]
    pub output: LintFormat,
}

/// How problems are printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LintFormat {
    /// A line a problem: file, object, field, message, reason
    Text,
    /// One JSON array
    Json,
}

/// Reads `5s`, `250ms`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let number_end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("a number and a unit are needed: 250ms, 5s or 1m".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .filter(|milliseconds| (100..=86_400_000).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "must be between 100ms and 24 hours".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_variable() {
        for command in CommandLine::command().get_subcommands() {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                if id != "help" && id != "version" {
                    let variable = argument.get_env().and_then(|name| name.to_str());
                    assert!(
                        variable.is_some_and(|name| name.starts_with("EVERMESH_")),
                        "{} --{id}",
                        command.get_name()
                    );
                }
            }
        }
    }

    #[test]
    fn reads_durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1m"), Ok(Duration::from_mins(1)));
        for bad in ["", "5", "s", "-1s", "1h", "1ms", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_webhooks_have_the_names_of_app_mesh() {
        let cli = CommandLine::parse_from(["evermesh", "serve", "--kubernetes"]);
        let EvermeshCommand::Serve(arguments) = cli.command else {
            panic!("not serve")
        };
        assert_eq!(
            arguments.webhook.webhook_mutating_configuration,
            "appmesh-controller-mutating-webhook-configuration"
        );
    }

    #[test]
    fn reads_namespaced_names() {
        let name = "a/b".parse::<NamespacedName>().unwrap();
        assert_eq!(name.to_string(), "a/b");
        for bad in ["", "a", "a/", "/b", "a/b/c"] {
            assert!(bad.parse::<NamespacedName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_of_a_cluster_wants_one() {
        let serve = ["evermesh", "serve", "--config", "x"];
        for flag in [
            "--webhook-address=127.0.0.1:1",
            "--leader-election-namespace=a",
            "--watch-namespace=a",
            "--endpoint-slices",
            "--sidecar-log-level=info",
            "--enable-stats-tags",
            "--cloud-map-registration",
            "--xds-token-audience=a",
        ] {
            let error = CommandLine::try_parse_from(serve.iter().chain(&[flag])).unwrap_err();
            assert!(error.to_string().contains("--config"), "{error}");
        }
    }

    #[test]
    fn what_a_way_to_authenticate_needs_must_be_given() {
        let serve = |more: &[&str]| {
            let line = ["evermesh", "serve", "--config", "x"].iter().chain(more);
            CommandLine::try_parse_from(line)
                .map(drop)
                .map_err(|it| it.to_string())
        };
        for (incomplete, missing) in [
            (&["--xds-authentication=token"][..], "--xds-token-file"),
            (&["--xds-authentication=certificate"], "--xds-client-ca"),
            (&["--xds-tls-cert=c"], "--xds-tls-key"),
            (&["--xds-client-ca=c"], "--xds-tls-cert"),
        ] {
            let error = serve(incomplete).unwrap_err();
            assert!(error.contains(missing), "{error}");
        }
        serve(&["--xds-authentication=token", "--xds-token-file=t"]).unwrap();
    }

    #[test]
    fn takes_an_arn_as_node() {
        let arn = "arn:aws:appmesh:eu-west-1:111122223333:mesh/m/virtualNode/n";
        let cli = CommandLine::parse_from(["evermesh", "bootstrap", "--node", arn, "--xds", "h:1"]);
        let EvermeshCommand::Bootstrap(arguments) = cli.command else {
            panic!("not bootstrap")
        };
        assert_eq!(arguments.node.to_string(), "mesh/m/virtualNode/n");
    }
}
