//! Clients and a server for the tests of the xDS protocol.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses its own part
#![allow(clippy::unwrap_used)] // test code

pub mod blocked;
pub mod client;
pub mod grpc;
pub mod local;
pub mod store;

/// A message that stands for any resource: all five types have their name in field 1.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NamedMessage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "1000")]
    pub content: String,
    /// One entry per part: `NAME=CONTENT`.
    #[prost(string, repeated, tag = "1001")]
    pub parts: Vec<String>,
}

impl NamedMessage {
    /// The content, followed by the parts: `1 a=2 b=2`.
    pub fn text(&self) -> String {
        let words = std::iter::once(&self.content).chain(&self.parts);
        words.cloned().collect::<Vec<_>>().join(" ")
    }
}
