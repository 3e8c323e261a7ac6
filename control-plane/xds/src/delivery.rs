//! A client's answers, resource by resource: ACKed or rejected
//! (xDS protocol, "ACK/NACK and resource type instance version").

use std::{fmt, sync::Arc, time::SystemTime};

use evermesh_proto::resource::{ContentVersion, Resource};

/// Identifies one stream among all streams since the start of the process. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId(pub u64);

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One resource that one client answered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The client's stream.
    pub proxy: ProxyId,
    /// Name of the client's view.
    pub view: Arc<str>,
    /// The resource in the version that the client answered.
    pub resource: Arc<Resource>,
    /// The client's answer.
    pub outcome: DeliveryOutcome,
}

/// A client's answer to one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The client uses this version.
    Acked,
    /// The client refused this version with this message and keeps the last version that it accepted.
    Rejected(String),
    /// The client does not get this version, or cannot use all of it, because it rejected these clusters, which the
    /// version needs. It keeps what it has of the parts that need them.
    Blocked(Vec<Arc<str>>),
}

/// The last NACK that blamed a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The refused version.
    pub version: ContentVersion,
    /// `error_detail.message` of the NACK: its first KiB, with control characters escaped.
    pub message: String,
    /// Time at which the server read the NACK.
    pub at: SystemTime,
}
