//! The control plane `evermesh serve`: reads App Mesh objects and serves Envoy configuration over xDS.
//!
//! Data flows in one direction:
//!
//! ```text
//!  source ────────► engine ─────────────► store ──────────► streams ──────► Envoy
//!  files,           objects → graph →     xDS resources      xDS over gRPC     │
//!  Kubernetes,      xDS resources         and views          (evermesh-xds)    │ ACK, NACK
//!  Cloud Map        (one writer)          (evermesh-xds)                       ▼
//!     ▲                                                                     effect
//!     └───────────── statuses, events, finalizers, Cloud Map instances ◄───────┘
//! ```
//!
//! This crate does I/O and runs the tasks. `evermesh-ingest` makes the graph, `evermesh-translate` makes the resources,
//! and `evermesh-xds` serves them; the binary only calls this crate. Admission ([`webhook`]), authentication of proxies
//! ([`auth`]) and the admin pages ([`admin`]) read the engine's snapshots and change nothing that is served.
//!
//! # A change on its way
//!
//! A user edits `color.yaml`: the Route `color` now sends 10 % of the requests to `green`.
//!
//! 1. [`source::file`] gets the kernel's event when the writer closes the file. It reads the file, parses the one
//!    document that changed, and sends a [`source::ChangeBatch`] with the new Route.
//! 2. [`engine::Engine::step`] applies the batch. `evermesh_ingest::build` resolves the Route and the router that it is
//!    attached to, and reuses all other parts of the graph. `evermesh_translate::derive_changes` derives again what read
//!    the router: one virtual host, in the route configuration of every node that calls the service.
//! 3. The engine announces the commit to [`changes`] and to the status writer, and calls `Store::commit`. The store marks
//!    the route configuration as stale in each stream that watches it and wakes those streams.
//! 4. Each stream sends the new version when its Envoy can receive it, and Envoy ACKs it.
//! 5. The ACK goes to [`changes`], which records the time since step 1 for `/debug/changes` and `/metrics`, and to the
//!    [`effect`] module. There it is counted; the leader then writes `Programmed: True` and `WeightsAcked:
//!    blue=90,green=10` into the status. (Only objects of a Kubernetes cluster have a status.)
//!
//! # Threads and tasks
//!
//! | runs on | what | module |
//! |---|---|---|
//! | thread `engine` | all rebuilds; owns inputs, graph and memos without a lock | [`engine`] |
//! | runtime `xds` (1 thread by default) | one task per stream and the store's dispatcher | `evermesh_xds` |
//! | runtime `main` (1 thread) | folder source, with its watch on a blocking thread | [`source::file`] |
//! | runtime `main` | one watch per kind and namespace, and the probe of the API server | [`source::kubernetes`] |
//! | runtime `main` | one poller per Cloud Map service | [`source::cloud_map`] |
//! | runtime `main` | tracker of change latency | [`changes`] |
//! | runtime `main` | end of streams whose pod may no longer act as the proxy | [`auth`] |
//! | runtime `status` (1 thread) | status writer | [`effect`] |
//! | runtime `main` | leader election, Cloud Map registration | [`effect`] |
//! | runtime `admission` (1 thread) | admission server and its certificates | [`webhook`] |
//! | runtime `main` | warnings of certificates that expire | [`certificate_health`] |
//! | runtime `main` | admin and metrics pages | [`admin`] |
//!
//! # Channels
//!
//! The `app` module creates all of them.
//!
//! | channel | from | to | when full |
//! |---|---|---|---|
//! | `batches`, 256 [`source::ChangeBatch`] | sources | engine | the source waits |
//! | `wanted_services`, watch | engine | Cloud Map source | newest value only |
//! | `snapshots`, watch of [`engine::EngineSnapshot`] | engine | admin, auth, metrics, status writer, registration | newest value only |
//! | `admission_snapshots`, watch | engine | admission | newest value only |
//! | `tracker_events`, 65,536 | engine, streams | tracker | the event is dropped and counted |
//! | [`effect::EffectInbox`] | engine, streams | status writer | newest state only |
//! | `peer_events`, 64 | admin server (reports of other replicas) | status writer | the replica waits |
//! | `leader`, watch | leader election | status writer, registration, report handler | newest value only |
//! | `registration_messages`, watch | registration | status writer | newest value only |
//!
//! The registry of connected proxies is shared: each stream writes its own entry, and every task may read.

#![allow(missing_docs)] // only the binary and the tests of this crate use its items

pub mod admin;
mod api_client;
pub mod app;
pub mod args;
pub mod auth;
pub mod certificate_health;
pub mod changes;
mod cluster;
mod descriptors;
pub mod effect;
pub mod engine;
mod event;
mod http_server;
pub mod lint;
pub mod liveness;
mod memory;
pub mod metrics;
mod reload;
pub mod removal;
mod retry;
pub mod server_clock;
mod socket;
pub mod source;
pub mod telemetry;
mod throttle;
pub mod webhook;

/// Chooses the implementation of cryptography for all TLS connections of the process.
fn install_crypto_provider() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_already| anyhow::anyhow!("a crypto provider is already installed"))
}
