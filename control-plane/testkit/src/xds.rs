//! A minimal xDS client, for tests of authentication: it asks for clusters and keeps the stream open.

use evermesh_proto::{
    core,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    resource::ResourceType,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, metadata::AsciiMetadataValue, transport::Channel};

/// An open stream that received its first response; dropping it closes the stream.
#[derive(Debug)]
pub struct DeltaStream {
    _requests: mpsc::Sender<DeltaDiscoveryRequest>,
    /// Responses after the first one.
    pub responses: Streaming<DeltaDiscoveryResponse>,
}

/// Subscribes to all clusters of a node, with an optional `authorization` header, and waits for the first response.
///
/// The error is the server's status, or `Unknown` if the connection breaks.
pub async fn open_stream(
    channel: Channel,
    node: &str,
    authorization: Option<&str>,
) -> Result<DeltaStream, Status> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let (requests, body) = mpsc::channel(1);
    let first = DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: node.to_owned(),
            ..core::Node::default()
        }),
        type_url: ResourceType::Cluster.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    requests
        .try_send(first)
        .map_err(|error| Status::internal(error.to_string()))?;
    let mut request = Request::new(ReceiverStream::new(body));
    if let Some(authorization) = authorization {
        let value = AsciiMetadataValue::try_from(authorization)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut responses = client
        .delta_aggregated_resources(request)
        .await?
        .into_inner();
    match responses.message().await? {
        Some(_) => Ok(DeltaStream {
            _requests: requests,
            responses,
        }),
        None => Err(Status::unknown("the stream ended without a response")),
    }
}
