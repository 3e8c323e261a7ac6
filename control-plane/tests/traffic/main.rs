//! Routes, gateways and settings of listeners, proven by requests through real Envoys.
//!
//! Each test starts a few processes with the manifests of many services, and then works through a table of requests.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod call;
#[path = "../common/mod.rs"]
mod common;
mod gateway;
mod listener;
mod manifests;
mod mesh_hosts;
mod route;
