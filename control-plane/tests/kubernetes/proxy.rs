//! A delta xDS client that answers as a test says.

use std::net::SocketAddr;

use evermesh_proto::{
    core,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    pb::google::rpc,
    resource::ResourceType,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

/// The gateway's route configuration with the Route `color`.
const ROUTES: &str = "rds_egress_http_15001";

/// Answer of the client to a response.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Policy {
    Ack,
    /// No answer until the policy changes.
    Wait,
    /// NACK with this message.
    Nack(String),
    /// NACK with the message `refused` for a response that contains a cluster with this text in its name, ACK for others.
    NackCluster(String),
}

/// A connected client; it disconnects when dropped.
pub(crate) struct TestProxy {
    policy: watch::Sender<Policy>,
    task: JoinHandle<()>,
}

impl TestProxy {
    /// Connects as the gateway. Subscribes to every cluster and listener, as Envoy does, and to [`ROUTES`].
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let (requests, body) = mpsc::channel(8);
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        for kind in [
            ResourceType::Cluster,
            ResourceType::Listener,
            ResourceType::Route,
        ] {
            let names = match kind {
                ResourceType::Route => vec![ROUTES.to_owned()],
                _ => Vec::new(),
            };
            let request = DeltaDiscoveryRequest {
                node: Some(core::Node {
                    id: "mesh/shop/virtualGateway/gate_shop".to_owned(),
                    ..core::Node::default()
                }),
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            };
            requests.try_send(request).unwrap();
        }
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(body))
            .await
            .unwrap()
            .into_inner();
        let (policy, receiver) = watch::channel(Policy::Ack);
        let task = tokio::spawn(answer(responses, requests, receiver));
        Self { policy, task }
    }

    pub(crate) fn answer(&self, policy: Policy) {
        self.policy.send_replace(policy);
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut responses: Streaming<DeltaDiscoveryResponse>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    mut policy: watch::Receiver<Policy>,
) {
    while let Ok(Some(response)) = responses.message().await {
        let decided = policy.wait_for(|policy| *policy != Policy::Wait).await;
        let refusal = match decided.as_deref() {
            Ok(Policy::Nack(message)) => Some(message.clone()),
            Ok(Policy::NackCluster(text)) => {
                let is_of_clusters = response.type_url == ResourceType::Cluster.type_url();
                let mut resources = response.resources.iter();
                (is_of_clusters && resources.any(|it| it.name.contains(text)))
                    .then(|| "refused".to_owned())
            }
            Ok(Policy::Ack | Policy::Wait) => None,
            Err(_) => return,
        };
        let error_detail = refusal.map(|message| rpc::Status {
            code: 3,
            message,
            ..rpc::Status::default()
        });
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        if requests.try_send(request).is_err() {
            return;
        }
    }
}
