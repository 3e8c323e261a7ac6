//! The doors back: what Evermesh writes into the cluster that it reads.
//!
//! In: what the engine published, what it committed, what proxies answered, what the API holds. Out: the status of the
//! mesh's objects, the end of finalizers that nobody else would remove, and, if asked for, instances in Cloud Map. Only
//! the replica that holds the Lease writes; the others know the same and stand by.
//!
//! Must not influence what is served.

mod ack_count;
mod condition;
mod graph_fields;
mod index;
pub(crate) mod key;
pub(crate) mod lease;
pub(crate) mod peers;
mod presence;
mod queue;
pub(crate) mod registration;
pub(crate) mod status;
mod write;

use std::{sync::Arc, time::Duration};

use evermesh_proto::{ResourceKey, Resource};
use evermesh_xds::Delivery;

/// How long a replica counts that is gone: its proxies find another one within that time. With our bootstrap an Envoy
/// notices within 15 seconds and calls again within 10.
const RETURNING: Duration = Duration::from_secs(30);

/// What happened that a status may depend on.
#[derive(Debug)]
pub enum EffectEvent {
    /// The engine committed.
    Commit {
        /// Resources that are new or have another content.
        upserts: Vec<(ResourceKey, Arc<Resource>)>,
        /// Resources that are gone.
        removals: Vec<ResourceKey>,
    },
    /// A proxy answered.
    Delivery(Delivery),
}
