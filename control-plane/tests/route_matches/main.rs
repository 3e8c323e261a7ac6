//! Matches of routes, as real Envoys decide on them.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod envoy;
mod mesh;
mod random;
mod statements;
