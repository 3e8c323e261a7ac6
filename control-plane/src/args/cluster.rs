//! Flags that only apply to a Kubernetes cluster: watches, leader election and admission.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use super::heading;

/// Default names of the webhook configurations: those of App Mesh's controller, so that they replace its own.
pub(crate) const MUTATING_CONFIGURATION: &str = "appmesh-controller-mutating-webhook-configuration";
pub(crate) const VALIDATING_CONFIGURATION: &str =
    "appmesh-controller-validating-webhook-configuration";

#[derive(Debug, Args)]
#[command(next_help_heading = heading::OPERATIONS)]
pub struct KubernetesArgs {
    /// Namespaces to watch, separated by commas; all namespaces by default
    ///
    /// The flag may be repeated. Objects in other namespaces are ignored.
    #[arg(
        long = "watch-namespace",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        conflicts_with = "config",
        env = "EVERMESH_WATCH_NAMESPACE",
        help_heading = heading::SOURCE
    )]
    pub watch_namespaces: Vec<String>,

    /// Namespaces of Secrets that replace ACM certificates, separated by commas; none by default
    ///
    /// Evermesh reads the Secrets of these namespaces that have the label `evermesh.dev/certificate=true`. It needs the
    /// permission to list and watch Secrets there. The annotation `evermesh.dev/acm-secrets` of a Mesh names the Secret
    /// of each ARN. The flag may be repeated.
    #[arg(
        long = "secret-namespace",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        conflicts_with = "config",
        env = "EVERMESH_SECRET_NAMESPACE",
        help_heading = heading::SOURCE,
        hide_short_help = true
    )]
    pub secret_namespaces: Vec<String>,

    /// Take endpoints from EndpointSlices and pods instead of DNS and Cloud Map
    ///
    /// Applies to virtual nodes whose DNS hostname is a Kubernetes Service, and to virtual nodes with awsCloudMap whose
    /// pods run in this Kubernetes cluster. Envoy then knows each pod and its zone, and drains it. Without this flag
    /// Envoy gets the cluster IP of the Service, as in App Mesh, or the instances from the last poll of Cloud Map. The
    /// annotation `evermesh.dev/endpoint-slices: "true"` or `"false"` of a Mesh overrides this flag for that mesh.
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENDPOINT_SLICES",
        help_heading = heading::SOURCE,
        hide_short_help = true
    )]
    pub endpoint_slices: bool,

    /// Namespace of the Lease for leader election; statuses are written only with it
    ///
    /// The leader writes statuses and events, and registers pods in Cloud Map. Without this flag Evermesh does none of
    /// that.
    #[arg(
        long,
        value_name = "NAMESPACE",
        conflicts_with = "config",
        env = "EVERMESH_LEADER_ELECTION_NAMESPACE"
    )]
    pub leader_election_namespace: Option<String>,

    /// Name of the Lease for leader election
    #[arg(
        long,
        value_name = "NAME",
        default_value = "evermesh",
        env = "EVERMESH_LEADER_ELECTION_NAME",
        hide_short_help = true
    )]
    pub leader_election_name: String,

    /// IP address at which other replicas reach this one, such as the pod IP
    ///
    /// Replicas send the leader what their proxies have ACKed. The default is the address of --metrics-address, or of
    /// --admin-address without it, unless that is a wildcard address such as 0.0.0.0.
    #[arg(
        long,
        value_name = "IP",
        env = "EVERMESH_ADVERTISE_ADDRESS",
        hide_short_help = true
    )]
    pub advertise_address: Option<IpAddr>,

    /// AWS region in the ARNs of statuses and in `AWS_REGION` of sidecars
    ///
    /// Without this flag ARNs show us-east-1 and sidecars have no `AWS_REGION`. Evermesh does not ask AWS for the
    /// region.
    #[arg(
        long,
        value_name = "REGION",
        value_parser = NonEmptyStringValueParser::new(),
        env = "EVERMESH_AWS_REGION",
        hide_short_help = true
    )]
    pub aws_region: Option<String>,

    /// AWS account ID in the ARNs of statuses
    #[arg(
        long,
        value_name = "ID",
        default_value = "000000000000",
        env = "EVERMESH_AWS_ACCOUNT_ID",
        hide_short_help = true
    )]
    pub aws_account_id: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = heading::ADMISSION)]
pub struct WebhookArgs {
    /// Address of the admission webhooks (HTTPS), such as 0.0.0.0:9443
    ///
    /// Without this flag no webhooks are served and no sidecars are injected.
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with = "config",
        env = "EVERMESH_WEBHOOK_ADDRESS"
    )]
    pub webhook_address: Option<SocketAddr>,

    /// Folder with tls.crt and tls.key for the webhooks, such as a Secret of cert-manager
    ///
    /// Evermesh reloads the files when they change, and the caBundle of the webhook configurations must be set by the
    /// owner of the files, for instance by cert-manager. Without this flag Evermesh creates its own certificates and
    /// sets the caBundle itself.
    #[arg(
        long,
        value_name = "DIR",
        env = "EVERMESH_WEBHOOK_CERTIFICATES",
        hide_short_help = true
    )]
    pub webhook_certificates: Option<PathBuf>,

    /// Kubernetes Service through which the API server calls the webhooks
    ///
    /// The certificate that Evermesh creates is valid for the names of this Service, and Evermesh sets the caBundle of
    /// webhooks that call it.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "evermesh-system/evermesh-webhook",
        env = "EVERMESH_WEBHOOK_SERVICE",
        hide_short_help = true
    )]
    pub webhook_service: NamespacedName,

    /// Host names or IP addresses of webhooks that are called by URL, separated by commas
    ///
    /// The certificate that Evermesh creates is valid for them too, and Evermesh sets the caBundle of webhooks whose
    /// `clientConfig.url` has one of these hosts. The flag may be repeated.
    #[arg(
        long,
        value_name = "HOST",
        value_delimiter = ',',
        env = "EVERMESH_WEBHOOK_HOST",
        hide_short_help = true
    )]
    pub webhook_host: Vec<String>,

    /// Secret in which the replicas share the certificates that Evermesh creates
    ///
    /// Evermesh creates the Secret if it does not exist.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "evermesh-system/evermesh-webhook",
        env = "EVERMESH_WEBHOOK_SECRET",
        hide_short_help = true
    )]
    pub webhook_secret: NamespacedName,

    /// MutatingWebhookConfiguration whose caBundle Evermesh sets
    #[arg(
        long,
        value_name = "NAME",
        default_value = MUTATING_CONFIGURATION,
        env = "EVERMESH_WEBHOOK_MUTATING_CONFIGURATION",
        hide_short_help = true
    )]
    pub webhook_mutating_configuration: String,

    /// ValidatingWebhookConfiguration whose caBundle Evermesh sets
    #[arg(
        long,
        value_name = "NAME",
        default_value = VALIDATING_CONFIGURATION,
        env = "EVERMESH_WEBHOOK_VALIDATING_CONFIGURATION",
        hide_short_help = true
    )]
    pub webhook_validating_configuration: String,

    /// IP family of the Kubernetes cluster
    ///
    /// Decides the `ipPreference` that meshes get at admission, and with it whether sidecars listen on IPv6. With `dual`
    /// and `ipv6` the pages of sidecars for probes and Prometheus are served on IPv6 too.
    #[arg(
        long,
        value_name = "FAMILY",
        default_value = "ipv4",
        env = "EVERMESH_IP_FAMILY",
        hide_short_help = true
    )]
    pub ip_family: IpFamilyArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IpFamilyArg {
    /// IPv4 only
    Ipv4,
    /// IPv4 and IPv6
    Dual,
    /// IPv6 only
    Ipv6,
}

/// Name of an object whose kind is known from the context, written `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacedName {
    pub namespace: String,
    pub name: String,
}

impl NamespacedName {
    /// The DNS names of the Kubernetes Service with this name.
    pub(crate) fn service_hosts(&self) -> [String; 2] {
        let host = format!("{}.{}.svc", self.name, self.namespace);
        let complete = format!("{host}.cluster.local");
        [host, complete]
    }
}

impl FromStr for NamespacedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("use a namespace and a name: NAMESPACE/NAME".into()),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
