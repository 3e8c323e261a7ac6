//! A generic xDS v3 server: incremental and state-of-the-world, aggregated and one service per type.
//!
//! xDS is the protocol by which Envoy fetches its configuration. An Envoy opens a gRPC stream, subscribes to resources
//! (clusters, endpoints, listeners, routes, secrets) and confirms each response with an ACK, or refuses it with a NACK.
//! This crate implements the [xDS protocol]; the module docs name its sections in quotation marks.
//!
//! [xDS protocol]: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
//!
//! A dialogue on an incremental, aggregated stream:
//!
//! ```text
//! Envoy                                                Evermesh
//! type: Cluster, node: {id: "color-7f"}       ──▶      first request: the node ID selects a view; no names: wildcard
//!                                             ◀──      type: Cluster, nonce: "1", resources: [blue, green]
//! type: Endpoint, subscribe: [blue, green]    ──▶      Envoy warms the new clusters and needs their endpoints
//!                                             ◀──      type: Endpoint, nonce: "2", resources: [blue, green]
//! type: Cluster, response_nonce: "1"          ──▶      ACK of nonce 1
//! type: Endpoint, response_nonce: "2"         ──▶      ACK of nonce 2
//!                                                      the cluster `blue` changes in the store
//!                                             ◀──      type: Cluster, nonce: "3", resources: [blue]
//! type: Cluster, response_nonce: "3",
//!       error_detail: "blue: no such filter"  ──▶      NACK: Envoy keeps the previous `blue`; the server records the
//!                                                      rejection and waits for the next version of `blue`
//! ```
//!
//! A changed resource reaches Envoy like this:
//!
//! ```text
//! Store::commit         one writer puts resources and views into the Store
//!    │ dispatch
//!    ▼
//! Signal                one per stream: the set of resource IDs that are stale, and a wake-up
//!    │ wakes
//!    ▼
//! StreamBody            the gRPC response body of one stream, polled by its HTTP/2 connection
//!    │ polls
//!    ▼
//! Connection            protocol state of the stream, without I/O: reads the newest resources, makes one response
//!    │ encodes
//!    ▼
//! frame                 gRPC length-prefixed message, sent when HTTP/2 flow control has room
//!    ┆
//!    ▼ ACK or NACK of the proxy
//! ProxyRegistry         connected proxies with their ACKed versions and rejections; passes each Delivery to a sink
//! ```
//!
//! A stream has no task, no channel and no queue of its own. Its `Signal` is a set, so a client that reads
//! slowly costs the server at most one ID per resource, and always receives the newest version.
//!
//! The crate does not know App Mesh, Kubernetes or the fields of any resource.

mod accept;
mod answer;
mod barrier;
mod blocked;
mod body;
mod connection;
mod delivery;
mod delta;
mod entry;
mod fair_share;
mod frame;
mod large_request;
mod limits;
mod metrics;
mod peer_text;
mod registry;
mod server;
mod signal;
mod sotw;
mod store;
mod stream_age;
mod subscription;
mod tls;
mod turns;
mod unix;
mod wire;

pub use accept::{ConnectionLimit, LimitedConnectInfo, LimitedConnection, LimitedListener};
pub use answer::{Blockage, ClientAnswer};
pub use connection::{Connection, DiscoveryProtocol, ResourceStatus, XdsVariant};
pub use delivery::{Delivery, DeliveryOutcome, ProxyId, Rejection};
pub use delta::Delta;
pub use limits::XdsLimits;
pub use metrics::{Counter, XdsMetrics};
pub use peer_text::PeerText;
pub use registry::{ConnectedProxy, DeliverySink, ProxyAnswers, ProxyRegistry, ProxyStatus};
pub use server::{
    AuthDecision, Authenticate, Authorize, IdentifiedClient, Revocation, XdsServerOptions, routes,
    serve, serve_socket, without_credentials,
};
pub use sotw::Sotw;
pub use store::{Store, StoreCommit};
pub use tls::{TlsConnection, accept_tls};
pub use turns::{ReadReadiness, TurnStream};
