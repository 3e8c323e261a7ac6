//! What clients answered: for each resource version, accepted or refused and why.
//!
//! Must not decide anything; the subscription does.

use std::{fmt, sync::Arc, time::SystemTime};

use evermesh_proto::resource::{Resource, ContentVersion};

/// One stream among all since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId(pub(crate) u64);

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What one client answered to one resource.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The stream.
    pub proxy: ProxyId,
    /// The view of its client.
    pub view: Arc<str>,
    /// What it answered to: type, name, version, and the objects it was made from.
    pub resource: Arc<Resource>,
    /// The answer.
    pub outcome: DeliveryOutcome,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// It is in use.
    Acked,
    /// It was refused, in the client's own words. The client keeps the last version it accepted.
    Rejected(String),
}

/// The last time a client refused a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The refused version.
    pub version: ContentVersion,
    /// The client's own words.
    pub message: String,
    /// When.
    pub at: SystemTime,
}
