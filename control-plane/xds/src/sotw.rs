//! The state-of-the-world variant (xDS protocol, "Streaming gRPC subscriptions").
//!
//! A request lists all subscribed names of a type. A response contains the complete set of clusters or listeners, or
//! the changed resources of the other types (xDS protocol, "Grouping Resources into Responses").

use evermesh_proto::{
    Any, core,
    discovery::{DiscoveryRequest, DiscoveryResponse},
    resource::ResourceType,
};
use tonic::Status;

use crate::connection::{Connection, DiscoveryProtocol, XdsVariant};

/// The state-of-the-world variant.
#[derive(Debug)]
pub enum Sotw {}

impl DiscoveryProtocol for Sotw {
    const VARIANT: XdsVariant = XdsVariant::Sotw;
    const NODE_FIELD: u32 = 2;
    const NAME_FIELDS: &'static [u32] = &[3];
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn take_node(request: &mut Self::Request) -> Option<core::Node> {
        request.node.take()
    }

    /// Ignores a request with a stale nonce, including its names: the client repeats them when it answers the newest
    /// response.
    fn on_request(
        connection: &mut Connection,
        kind: ResourceType,
        request: Self::Request,
    ) -> Result<(), Status> {
        if !connection.handle_nonce(kind, &request.response_nonce, request.error_detail) {
            return Ok(());
        }
        let subscription = connection.subscription(kind);
        let names = &request.resource_names;
        if names.is_empty() && subscription.is_legacy_wildcard() {
            if !subscription.is_wildcard() {
                connection.update_subscription(kind, |subscription, _| {
                    subscription.subscribe_wildcard();
                });
            }
        } else if !subscription.has_exactly(names) {
            connection.check_names(kind, names.iter())?;
            connection.update_subscription(kind, |subscription, reader| {
                subscription.set_names(names, reader);
            });
        }
        Ok(())
    }

    fn next_response(connection: &mut Connection) -> Option<Self::Response> {
        let response = connection.respond(|kind, subscription, batch, nonce| {
            let resources = subscription.response_resources(batch);
            let resources = resources.into_iter().map(|resource| Any {
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

    /// A complete set without resources removes them all. A stream that has had no response waits for its view.
    fn empty_first_response(_: &mut Connection) -> Option<Self::Response> {
        None
    }
}
