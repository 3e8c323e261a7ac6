//! Endpoints of nodes, and the state of Cloud Map services from which some of them are derived.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::{Serialize, Serializer};

/// One address of a node. Several endpoints may have the same address and different ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Region and zone, as far as they are known.
    pub locality: Locality,
    /// The IP address.
    pub address: IpAddr,
    /// The ports of the address.
    pub ports: EndpointPorts,
    /// Whether the endpoint accepts new requests.
    pub health: Health,
}

/// The ports at which an endpoint takes what is sent to the listeners of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum EndpointPorts {
    /// The ports of the listeners.
    #[default]
    Same,
    /// From a listener's port to the endpoint's port. Listeners of other ports do not have the endpoint.
    Mapped(BTreeMap<u16, u16>),
}

impl EndpointPorts {
    /// The port for a listener's port. `None` if the endpoint is not one of that listener.
    pub fn of(&self, listener: u16) -> Option<u16> {
        match self {
            Self::Same => Some(listener),
            Self::Mapped(ports) => ports.get(&listener).copied(),
        }
    }
}

/// Region and zone of an endpoint; empty if unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Locality {
    /// Such as `eu-west-1`
    pub region: Arc<str>,
    /// Such as `eu-west-1a`
    pub zone: Arc<str>,
}

/// The health of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Health {
    /// The endpoint accepts requests.
    #[default]
    Healthy,
    /// The endpoint finishes open requests and accepts no new ones.
    Draining,
}

/// The identity of a Cloud Map service: the two parameters of `DiscoverInstances`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudMapService {
    /// The name of the Cloud Map namespace.
    pub namespace: Arc<str>,
    /// The name of the service in the namespace.
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

/// The state of a Cloud Map service after the last call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CloudMapState {
    /// The last known healthy instances, in ascending order of ID; empty before the first answer.
    pub instances: Vec<Instance>,
    /// Whether Cloud Map returned as many instances as one answer holds, so that there may be more.
    pub is_full: bool,
    /// The failure of the last call. `instances` and `is_full` then come from the last successful call.
    pub failure: Option<CloudMapFailure>,
}

/// The failure of a call to Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CloudMapFailure {
    /// The namespace or the service does not exist. Contains the message of Cloud Map.
    NotFound(String),
    /// The call was throttled, denied or did not reach Cloud Map. Contains the message of the AWS SDK.
    Unavailable(String),
}

/// A healthy instance of a Cloud Map service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// The instance ID in Cloud Map.
    pub id: Arc<str>,
    /// The attribute `AWS_INSTANCE_IPV4`.
    pub ipv4: Option<Ipv4Addr>,
    /// The attribute `AWS_INSTANCE_IPV6`.
    pub ipv6: Option<Ipv6Addr>,
    /// All attributes, including those that Cloud Map reserves.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
}
