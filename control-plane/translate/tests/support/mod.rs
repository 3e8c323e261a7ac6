//! What the tests and benchmarks of this crate share: small graphs, and checks that hold for every view.

#![allow(dead_code)] // each test uses its part
#![allow(unreachable_pub)] // a module of several test crates

pub mod builders;
pub mod check;
pub mod static_bootstrap;
