//! TLS between proxies, from the manifest to the handshake: modes, client policies, sources and renewal of certificates,
//! with real Envoys on hosts whose traffic is intercepted.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod certificates;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod gateway;
mod hosts;
mod missing;
mod modes;
mod policies;
mod renewal;
mod sds;
mod spire;
