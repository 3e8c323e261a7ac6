//! State-of-the-world xDS (xDS protocol, "Streaming gRPC subscriptions").
//!
//! In: `DiscoveryRequest`, each with the whole list of names. Out: `DiscoveryResponse`: the whole set of
//! clusters or listeners each time, of the other types what changed.
//! Must not keep state of its own, do I/O or wait.

use evermesh_proto::{
    Any, core,
    discovery::{DiscoveryRequest, DiscoveryResponse},
    resource::ResourceType,
};

use crate::connection::{Connection, DiscoveryProtocol, XdsVariant};

/// State-of-the-world xDS.
#[derive(Debug)]
pub enum Sotw {}

impl DiscoveryProtocol for Sotw {
    const VARIANT: XdsVariant = XdsVariant::Sotw;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn take_node(request: &mut Self::Request) -> Option<core::Node> {
        request.node.take()
    }

    /// A request about an older response is ignored, its names too: the one that ack_statuses the newest
    /// repeats them.
    fn on_request(connection: &mut Connection, kind: ResourceType, request: Self::Request) {
        if !connection.answer(kind, &request.response_nonce, request.error_detail) {
            return;
        }
        let subscription = connection.subscription(kind);
        let names = &request.resource_names;
        if names.is_empty() && subscription.is_legacy_wildcard() {
            if !subscription.is_wildcard() {
                connection.change(kind, |subscription, _| subscription.subscribe_all());
            }
        } else if !subscription.lists(names) {
            connection.change(kind, |subscription, reading| {
                subscription.set_names(names, reading);
            });
        }
    }

    fn next_response(connection: &mut Connection) -> Option<Self::Response> {
        let response = connection.respond(|kind, subscription, batch, nonce| {
            let resources = subscription.carried(batch).into_iter().map(|resource| Any {
                type_url: kind.type_url().to_owned(),
                value: resource.body.clone(),
            });
            DiscoveryResponse {
                version_info: subscription.set_version(batch),
                resources: resources.collect(),
                type_url: kind.type_url().to_owned(),
                nonce,
                ..Default::default()
            }
        })?;
        connection.count_resources(response.resources.len());
        Some(response)
    }
}
