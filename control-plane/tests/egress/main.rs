//! Egress of nodes, proven by traffic through real Envoys: the egress filter, shared ports, host names, DNS discovery, IP
//! families and the client's address.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod client_address;
#[path = "../common/mod.rs"]
mod common;
mod discovery;
mod egress_lab;
mod families;
mod filter;
mod host_names;
mod many;
mod shared_ports;
