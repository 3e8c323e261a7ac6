//! Tests of the crate through its interface: so the generated types are compiled once.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod any;
mod json;
mod part;
mod resource;
mod rules;
