//! The file source on real files: which changes it reports, what it keeps, and which problems it finds.
//!
//! `changes` covers what is read and reported, `problems` covers files that are wrong in some way, and `replacement`
//! covers how editors, tools and the kubelet replace files and folders.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod problems;
mod replacement;
mod source;
