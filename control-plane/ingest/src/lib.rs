//! Objects to graph: from what users wrote to what is served, and everything that is wrong with it.
//!
//! The engine applies changes to [`Inputs`] and calls [`build`], which gives a [`BuildOutput`]: the graph and the
//! problems. A mistake never stops the work; what can be made of the rest is made. [`endpoints`] is the
//! short cut for the most frequent change.
//!
//! Every stage is a pure function over `Arc`s. A [`BuildMemo`] remembers what they last saw and made, so
//! that a turn derives only what changed; the result never depends on it.
//!
//! Must not talk to anything, start anything or log: no client, no clock, no environment, no hash order.

pub mod admission;
mod build;
mod cloud_map;
mod conflict;
mod endpoints;
mod expression;
mod gateway;
mod gateway_admission;
mod gateway_route;
pub mod identity;
pub mod inputs;
pub mod local_ports;
mod matches;
pub mod membership;
mod mesh;
mod name_index;
mod node;
pub mod object;
mod pods;
pub mod registration;
mod route;
mod router;
pub mod schema;
mod security;
mod service;
mod slices;
mod stage;
mod values;

pub use build::{BuildMemo, BuildOutput, build};
pub use endpoints::{cloud_map_users, endpoints};
pub use inputs::{IngestSettings, Inputs};
