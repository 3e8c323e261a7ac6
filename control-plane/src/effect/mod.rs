//! Effects: everything that Evermesh writes into the Kubernetes cluster that it reads, and into Cloud Map.
//!
//! Input: the engine's snapshots and commits, the ACKs and NACKs of proxies, and the objects that the API server holds.
//! Output: the status of mesh objects, the removal of finalizers that App Mesh's controller left behind, and, with
//! `--cloud-map-registration`, instances in Cloud Map.
//!
//! ```text
//!  EffectInbox ──► ack_count ──► PeerClient ──(other replicas)──► PeerServer ──► peers
//!                     │                                                           │
//!                     └────────────────► status (leader only) ◄───────────────────┘
//!                                            │ condition: facts → status
//!                                            ▼
//!                                  API server: PATCH …/status, Events
//! ```
//!
//! Every replica counts the ACKs of its own proxies and reports the counts to the leader. The leader is the replica that
//! holds the [`lease`]. It alone writes, through a client that stops with its [`term`]. Nothing in this module changes
//! what proxies are served.

mod ack_count;
mod condition;
mod graph_fields;
mod inbox;
mod index;
pub(crate) mod key;
pub(crate) mod lease;
pub(crate) mod peers;
mod presence;
mod queue;
mod reasons;
pub(crate) mod registration;
pub(crate) mod status;
mod term;
#[cfg(test)]
mod test_log;
mod write;

use std::time::Duration;

pub use self::inbox::EffectInbox;
pub(crate) use self::status::is_old_finalizer;

/// Time for which the leader expects the proxies of a replica that is gone to reconnect elsewhere. With Evermesh's
/// bootstrap an Envoy notices a dead connection within 15 s and reconnects within 10 s.
const RECONNECT_TIME: Duration = Duration::from_secs(30);

/// A client whose requests never get an answer.
#[cfg(test)]
fn unreachable_client() -> kube::Client {
    let service = axum::Router::new().fallback(std::future::pending::<()>);
    kube::Client::new(service, "default")
}
