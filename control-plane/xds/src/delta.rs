//! The incremental variant (xDS protocol, "Incremental xDS").
//!
//! A request subscribes to and unsubscribes from names; a response contains only what changed.

use evermesh_proto::{
    Any, core,
    discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::ResourceType,
};
use tonic::Status;

use crate::connection::{Connection, DiscoveryProtocol, XdsVariant};

/// The incremental variant.
#[derive(Debug)]
pub enum Delta {}

impl DiscoveryProtocol for Delta {
    const VARIANT: XdsVariant = XdsVariant::Delta;
    const NODE_FIELD: u32 = 1;
    const NAME_FIELDS: &'static [u32] = &[3, 4, 5];
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn take_node(request: &mut Self::Request) -> Option<core::Node> {
        request.node.take()
    }

    /// Applies changes of the subscription even if the nonce is stale, because the client does not repeat them.
    fn on_request(
        connection: &mut Connection,
        kind: ResourceType,
        request: Self::Request,
    ) -> Result<(), Status> {
        connection.handle_nonce(kind, &request.response_nonce, request.error_detail);
        let subscription = connection.subscription(kind);
        let subscribes = &request.resource_names_subscribe;
        let unsubscribes = &request.resource_names_unsubscribe;
        let is_new_wildcard = subscribes.is_empty()
            && subscription.is_legacy_wildcard()
            && !subscription.is_wildcard();
        if !is_new_wildcard && subscribes.is_empty() && unsubscribes.is_empty() {
            return Ok(());
        }
        let is_first = subscription.is_unused();
        let is_wildcard = is_new_wildcard || subscribes.iter().any(|name| name == "*");
        let claims = (is_first && is_wildcard).then(|| request.initial_resource_versions.keys());
        let names = subscribes.iter().chain(claims.into_iter().flatten());
        connection.check_names(kind, names)?;
        connection.update_subscription(kind, |subscription, reader| {
            if is_new_wildcard {
                subscription.subscribe_wildcard();
            }
            subscription.subscribe(subscribes.iter().map(String::as_str));
            subscription.unsubscribe(unsubscribes, reader);
            if is_first {
                subscription.set_initial_versions(&request.initial_resource_versions);
            }
        });
        Ok(())
    }

    fn next_response(connection: &mut Connection) -> Option<Self::Response> {
        let response = connection.respond(|kind, subscription, batch, nonce| {
            let resources = subscription
                .upserts(batch)
                .map(|resource| discovery::Resource {
                    name: resource.name.to_string(),
                    version: resource.version.to_string(),
                    resource: Some(Any {
                        type_url: kind.type_url().to_owned(),
                        value: resource.body.clone(),
                    }),
                    ..Default::default()
                });
            DeltaDiscoveryResponse {
                system_version_info: subscription.set_version(batch),
                resources: resources.collect(),
                type_url: kind.type_url().to_owned(),
                removed_resources: subscription
                    .removed(batch)
                    .map(ToString::to_string)
                    .collect(),
                nonce,
                ..Default::default()
            }
        })?;
        connection.count_resources(response.resources.len());
        Some(response)
    }

    fn empty_first_response(connection: &mut Connection) -> Option<Self::Response> {
        let (kind, nonce) = connection.first_nonce()?;
        Some(DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce,
            ..Default::default()
        })
    }
}
