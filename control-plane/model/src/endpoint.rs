//! Where the traffic of a node finally goes, and what Cloud Map said of it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::{Serialize, Serializer};

/// One address of a node. The port is that of the listener which is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Where it is, as far as known.
    pub locality: Locality,
    /// Its address.
    pub address: IpAddr,
    /// The port, where it is not the listener's (a Service whose `targetPort` differs from its `port`),
    /// by listener port.
    pub target_ports: BTreeMap<u16, u16>,
    /// Whether it takes new requests.
    pub health: Health,
}

/// Region and zone of an endpoint; empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Locality {
    /// Such as `eu-west-1`
    pub region: Arc<str>,
    /// Such as `eu-west-1a`
    pub zone: Arc<str>,
}

/// What we know of an endpoint's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Health {
    /// Takes requests.
    #[default]
    Healthy,
    /// Finishes what it has, takes nothing new.
    Draining,
}

/// A service in a Cloud Map namespace, by the names `DiscoverInstances` takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudMapService {
    /// The namespace's name.
    pub namespace: Arc<str>,
    /// The service's name.
    pub service: Arc<str>,
}

impl fmt::Display for CloudMapService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.namespace)
    }
}

impl Serialize for CloudMapService {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is known of a Cloud Map service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CloudMapState {
    /// The last known healthy instances, ascending by id; none before the first answer.
    pub instances: Vec<Instance>,
    /// Why the last call failed, if it did; the instances are then those of the last one that succeeded.
    pub failure: Option<CloudMapFailure>,
}

/// Why Cloud Map gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CloudMapFailure {
    /// The namespace or the service does not exist; Cloud Map's words.
    NotFound(String),
    /// Throttled, refused, or not reached; the SDK's words.
    Unavailable(String),
}

/// A healthy instance of a Cloud Map service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// Its id in Cloud Map.
    pub id: Arc<str>,
    /// `AWS_INSTANCE_IPV4`
    pub ipv4: Option<Ipv4Addr>,
    /// `AWS_INSTANCE_IPV6`
    pub ipv6: Option<Ipv6Addr>,
    /// Every attribute, those that Cloud Map reserves among them.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
}
