//! A generic xDS v3 server: state of the world and incremental, aggregated and one service for each type.
//!
//! In: a [`Store`] that somebody commits [`Resource`](evermesh_proto::Resource)s and
//! [`View`](evermesh_proto::View)s to. Out: streams that tell each client what it subscribes to of its
//! view, and a [`ProxyRegistry`] of what the clients made of it.
//!
//! A stream is a [`Connection`], a machine without I/O: requests and changed ids in, responses out, the
//! same for both [`XdsVariant`]s but for the messages. The server polls it from the response body, so a
//! stream has no task, no channel and no queue: it has a set of ids that may be stale, and reads the
//! newest when the client has room for it.
//!
//! Must not know App Mesh, Kubernetes, or the fields of any resource.

mod barrier;
mod body;
mod connection;
mod delivery;
mod delta;
mod entry;
mod frame;
mod metrics;
mod registry;
mod server;
mod signal;
mod sotw;
mod store;
mod subscription;
mod tls;
mod unix;

pub use connection::{Connection, DiscoveryProtocol, ResourceStatus, XdsVariant};
pub use delivery::{Delivery, DeliveryOutcome, ProxyId, Rejection};
pub use delta::Delta;
pub use metrics::{Counter, XdsMetrics};
pub use registry::{AckStatus, ConnectedProxy, DeliverySink, ProxyRegistry, ProxyStatus};
pub use server::{Identify, Identity, XdsServerOptions, routes, serve, serve_socket};
pub use sotw::Sotw;
pub use store::{Store, StoreCommit};
