//! Incremental xDS (xDS protocol, "Incremental xDS").
//!
//! In: `DeltaDiscoveryRequest`. Out: `DeltaDiscoveryResponse`, which carries only what changed.
//! Must not keep state of its own, do I/O or wait.

use evermesh_proto::{
    Any, core,
    discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::ResourceType,
};

use crate::connection::{Connection, DiscoveryProtocol, XdsVariant};

/// Incremental xDS.
#[derive(Debug)]
pub enum Delta {}

impl DiscoveryProtocol for Delta {
    const VARIANT: XdsVariant = XdsVariant::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn take_node(request: &mut Self::Request) -> Option<core::Node> {
        request.node.take()
    }

    /// A request may answer a response, change the subscription, or both. The change counts even if the
    /// answer is to an older response: it is not repeated.
    fn on_request(connection: &mut Connection, kind: ResourceType, request: Self::Request) {
        connection.answer(kind, &request.response_nonce, request.error_detail);
        let subscription = connection.subscription(kind);
        let subscribes = &request.resource_names_subscribe;
        let unsubscribes = &request.resource_names_unsubscribe;
        let all = subscribes.is_empty()
            && subscription.is_legacy_wildcard()
            && !subscription.is_wildcard();
        if !all && subscribes.is_empty() && unsubscribes.is_empty() {
            return;
        }
        let first = subscription.is_untouched();
        connection.change(kind, |subscription, reading| {
            if all {
                subscription.subscribe_all();
            }
            subscription.subscribe(subscribes.iter().map(String::as_str));
            subscription.unsubscribe(unsubscribes, reading);
            if first {
                subscription.claim(&request.initial_resource_versions);
            }
        });
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
}
