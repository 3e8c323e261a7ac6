//! The doors back: what Evermesh writes into the cluster that it reads.
//!
//! In: what the engine published, what it committed, what proxies answered, what the API holds. Out: the status of the
//! mesh's objects, the end of finalizers that nobody else would remove, and, if asked for, instances in Cloud Map. Only
//! the replica that holds the Lease writes; the others know the same and stand by.
//!
//! Must not influence what is served.

mod condition;
mod index;
pub(crate) mod key;
pub(crate) mod lease;
mod naming;
pub(crate) mod peers;
mod presence;
mod queue;
pub(crate) mod registration;
pub(crate) mod status;
mod tally;
mod write;

use std::{sync::Arc, time::Duration};

use evermesh_proto::{Key, Resource};
use evermesh_xds::Verdict;

/// How long a replica counts that is gone: its proxies find another one within that time. With our bootstrap an Envoy
/// notices within 15 seconds and calls again within 10.
const RETURNING: Duration = Duration::from_secs(30);

/// What happened that a status may depend on.
#[derive(Debug)]
pub enum Notice {
    /// The engine committed.
    Commit {
        /// Resources that are new or have another content.
        upserts: Vec<(Key, Arc<Resource>)>,
        /// Resources that are gone.
        removals: Vec<Key>,
    },
    /// A proxy answered.
    Verdict(Verdict),
}
