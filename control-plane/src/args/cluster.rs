//! What can be asked for in a cluster.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

/// In a cluster.
#[derive(Debug, Args)]
pub struct KubernetesArgs {
    /// Namespaces whose objects count, all without this; repeat it, or separate them by commas
    #[arg(
        long = "watch-namespace",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        conflicts_with = "config",
        env = "EVERMESH_WATCH_NAMESPACE"
    )]
    pub watch_namespaces: Vec<String>,

    /// Serve nodes whose DNS name is a Service of the cluster from its EndpointSlices, and the pods of nodes that are
    /// found in Cloud Map as the cluster knows them: Envoy sees each pod, knows its zone and drains it, where App Mesh
    /// saw the Service's cluster IP alone, or what Cloud Map said some seconds ago. The annotation
    /// `evermesh.dev/endpoint-slices: "true"` or `"false"` of a Mesh decides for that mesh
    #[arg(long, conflicts_with = "config", env = "EVERMESH_ENDPOINT_SLICES")]
    pub endpoint_slices: bool,

    /// The namespace of the Lease by which replicas agree on who writes; without it, nothing is written to the
    /// cluster, no status either
    #[arg(
        long,
        value_name = "NAMESPACE",
        conflicts_with = "config",
        env = "EVERMESH_LEADER_ELECTION_NAMESPACE"
    )]
    pub leader_election_namespace: Option<String>,

    /// The name of that Lease
    #[arg(
        long,
        value_name = "NAME",
        default_value = "evermesh",
        env = "EVERMESH_LEADER_ELECTION_NAME"
    )]
    pub leader_election_name: String,

    /// The address at which the other replicas reach this one, such as the pod's own: they tell the one that leads
    /// what their proxies accept. It is that of --metrics-address, or of --admin-address without it, unless that is
    /// every address
    #[arg(long, value_name = "IP", env = "EVERMESH_ADVERTISE_ADDRESS")]
    pub advertise_address: Option<IpAddr>,

    /// The region in the ARNs that statuses show, us-east-1 without this, and the `AWS_REGION` of sidecars, which have
    /// none without this; nothing is asked of AWS for it
    #[arg(
        long,
        value_name = "REGION",
        value_parser = NonEmptyStringValueParser::new(),
        env = "EVERMESH_AWS_REGION"
    )]
    pub aws_region: Option<String>,

    /// The account in the ARNs that statuses show
    #[arg(
        long,
        value_name = "ID",
        default_value = "000000000000",
        env = "EVERMESH_AWS_ACCOUNT_ID"
    )]
    pub aws_account_id: String,
}

/// Admission: what the API server asks before it keeps an object of the mesh.
#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// Where the API server reaches the webhooks (HTTPS), such as 0.0.0.0:9443; without it none are served
    #[arg(
        long,
        value_name = "HOST:PORT",
        conflicts_with = "config",
        env = "EVERMESH_WEBHOOK_ADDRESS"
    )]
    pub webhook_address: Option<SocketAddr>,

    /// A folder with tls.crt and tls.key, such as a Secret of cert-manager's, followed while it changes;
    /// whoever writes it also sets the caBundle of the webhook configurations. Without it Evermesh makes
    /// its own certificates and does that itself
    #[arg(long, value_name = "DIR", env = "EVERMESH_WEBHOOK_CERTIFICATES")]
    pub webhook_certificates: Option<PathBuf>,

    /// The Service by which the API server reaches the webhooks: our own certificate is for its names, and
    /// webhooks that call it get our caBundle
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "evermesh-system/evermesh-webhook",
        env = "EVERMESH_WEBHOOK_SERVICE"
    )]
    pub webhook_service: NamespacedName,

    /// A further host name or address by which it does, where a webhook has a url instead of a service;
    /// may be repeated
    #[arg(
        long,
        value_name = "HOST",
        value_delimiter = ',',
        env = "EVERMESH_WEBHOOK_HOST"
    )]
    pub webhook_host: Vec<String>,

    /// The Secret in which all replicas keep our own certificates; made when it is not there
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "evermesh-system/evermesh-webhook",
        env = "EVERMESH_WEBHOOK_SECRET"
    )]
    pub webhook_secret: NamespacedName,

    /// The `MutatingWebhookConfiguration` whose caBundle is kept right
    #[arg(
        long,
        value_name = "NAME",
        default_value = "appmesh-controller-mutating-webhook-configuration",
        env = "EVERMESH_WEBHOOK_MUTATING_CONFIGURATION"
    )]
    pub webhook_mutating_configuration: String,

    /// The `ValidatingWebhookConfiguration` whose caBundle is kept right
    #[arg(
        long,
        value_name = "NAME",
        default_value = "appmesh-controller-validating-webhook-configuration",
        env = "EVERMESH_WEBHOOK_VALIDATING_CONFIGURATION"
    )]
    pub webhook_validating_configuration: String,

    /// The IP family of the cluster: meshes get the ipPreference that fits it, and with `ipv6` the admin pages of
    /// sidecars are served there, where the kubelet asks
    #[arg(
        long,
        value_name = "FAMILY",
        default_value = "ipv4",
        env = "EVERMESH_IP_FAMILY"
    )]
    pub ip_family: IpFamilyArg,
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IpFamilyArg {
    /// IPv4, or both
    Ipv4,
    /// IPv6
    Ipv6,
}

/// An object of a kind that goes without saying: `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
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
            _ => Err("a namespace and a name are needed: NAMESPACE/NAME".into()),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
