//! A proxy that answers when and how a test says.

use std::net::SocketAddr;

use evermesh_proto::{
    core,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    pb::google::rpc,
    resource::ResourceType,
};
use evermesh_testkit::xds::DELTA;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel,
};
use tonic_prost::ProstCodec;

/// How it answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answers {
    /// At once.
    Acks,
    /// Not before it is told otherwise.
    Never,
    /// With these words.
    Refuses(String),
}

/// A connected proxy; it leaves when dropped.
pub(crate) struct Proxy {
    answers: watch::Sender<Answers>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Asks for every cluster and listener, as an Envoy does, and for these route configurations.
    pub(crate) async fn connect(address: SocketAddr, node: &str, routes: &[String]) -> Self {
        let (requests, body) = mpsc::unbounded_channel();
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let mut grpc = Grpc::new(channel.connect().await.unwrap());
        grpc.ready().await.unwrap();
        for kind in [
            ResourceType::Cluster,
            ResourceType::Listener,
            ResourceType::Route,
        ] {
            let wanted = if kind == ResourceType::Route {
                routes
            } else {
                &[]
            };
            let request = DeltaDiscoveryRequest {
                node: Some(core::Node {
                    id: node.to_owned(),
                    ..core::Node::default()
                }),
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: wanted.to_vec(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).unwrap();
        }
        let body = Request::new(UnboundedReceiverStream::new(body));
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let responses = grpc
            .streaming(body, PathAndQuery::from_static(DELTA), codec)
            .await
            .unwrap()
            .into_inner();
        let (answers, policy) = watch::channel(Answers::Acks);
        let task = tokio::spawn(answer(responses, requests, policy));
        Self { answers, task }
    }

    pub(crate) fn answer(&self, how: Answers) {
        self.answers.send_replace(how);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut responses: Streaming<DeltaDiscoveryResponse>,
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    mut policy: watch::Receiver<Answers>,
) {
    while let Ok(Some(response)) = responses.message().await {
        let decided = policy.wait_for(|answers| *answers != Answers::Never).await;
        let error_detail = match decided.as_deref() {
            Ok(Answers::Refuses(words)) => Some(rpc::Status {
                code: 3,
                message: words.clone(),
                ..rpc::Status::default()
            }),
            Ok(_) => None,
            Err(_) => return,
        };
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        if requests.send(request).is_err() {
            return;
        }
    }
}
