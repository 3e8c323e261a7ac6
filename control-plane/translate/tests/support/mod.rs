//! Shared by the tests of this crate: small graphs, golden cases, and checks that hold for every view.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used)] // a test may panic
#![allow(unreachable_pub)] // a module of several test crates

pub mod builders;
pub mod case;
pub mod check;
pub mod settings;
pub mod tls;
