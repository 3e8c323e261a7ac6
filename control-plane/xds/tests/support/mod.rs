//! A server on loopback, and clients of both flavours over aggregated or separate streams.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses its own part
#![allow(clippy::unwrap_used)] // test code

pub mod peer;
pub mod world;

use std::{collections::BTreeMap, net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use evermesh_proto::{
    core,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    pb::google::rpc,
    resource::ResourceType,
};
use evermesh_xds::{Delivery, Identity, ProxyRegistry, XdsServerOptions, serve};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedSender},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use self::world::World;

/// How long silence must last to count.
pub const SILENCE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it takes to find out who somebody is, where it takes time.
const ASKING: Duration = Duration::from_millis(50);

/// Stands for any resource: all five types have their name in field 1.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Named {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "1000")]
    pub content: String,
}

/// A running server whose view of a proxy is named by its node id.
pub struct TestServer {
    pub world: World,
    pub registry: Arc<ProxyRegistry>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub verdicts: mpsc::UnboundedReceiver<Delivery>,
    pub task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl TestServer {
    pub async fn start() -> Self {
        let world = World::new();
        let (sender, verdicts) = mpsc::unbounded_channel();
        let registry = ProxyRegistry::new(Some(Arc::new(move |verdict| {
            sender.send(verdict).ok();
        })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options =
            XdsServerOptions::new(Arc::new(|caller: &core::Node, _: &_| {
                match caller.id.as_str() {
                    "forbidden" => Identity::Now(Err(Status::permission_denied("not you"))),
                    "asked" => Identity::Later(Box::pin(async {
                        tokio::time::sleep(ASKING).await;
                        Ok(node().id.into())
                    })),
                    "asked-in-vain" => Identity::Later(Box::pin(async {
                        tokio::time::sleep(ASKING).await;
                        Err(Status::unauthenticated("who are you"))
                    })),
                    "asked-for-ever" => Identity::Later(Box::pin(std::future::pending())),
                    id => Identity::Now(Ok(id.into())),
                }
            }));
        options.max_request_bytes = 1 << 20;
        let shutdown = options.shutdown.clone();
        let served = serve(
            listener,
            Arc::clone(&world.store),
            Arc::clone(&registry),
            options,
        );
        Self {
            task: tokio::spawn(served),
            world,
            registry,
            address,
            shutdown,
            verdicts,
        }
    }

    pub async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.address);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }
}

impl Deref for TestServer {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// One gRPC stream.
pub struct Wire<Q, R> {
    pub requests: UnboundedSender<Q>,
    pub responses: Streaming<R>,
}

impl<Q, R> Wire<Q, R>
where
    Q: Message + Default + Send + Sync + 'static,
    R: Message + std::fmt::Debug + Default + Send + Sync + 'static,
{
    pub async fn open(channel: &Channel, path: &'static str) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.unwrap();
        let stream = tonic::Request::new(UnboundedReceiverStream::new(receiver));
        let codec = ProstCodec::<Q, R>::default();
        let response = grpc
            .streaming(stream, PathAndQuery::from_static(path), codec)
            .await
            .unwrap();
        Self {
            requests,
            responses: response.into_inner(),
        }
    }

    pub fn send(&self, request: Q) {
        self.requests.send(request).unwrap();
    }

    pub async fn receive(&mut self) -> R {
        let received = timeout(PATIENCE, self.responses.message()).await;
        received.expect("a response comes").unwrap().unwrap()
    }

    /// How the stream ends.
    pub async fn end(&mut self) -> Result<(), Status> {
        let received = timeout(PATIENCE, self.responses.message()).await;
        let received = received.expect("the stream ends");
        received.map(|message| assert!(message.is_none(), "{message:?}"))
    }

    pub async fn assert_silent(&mut self) {
        let received = timeout(SILENCE, self.responses.message()).await;
        assert!(received.is_err(), "{received:?}");
    }
}

pub fn path(variant: &str, kind: Option<ResourceType>) -> &'static str {
    match (variant, kind) {
        ("sotw", None) => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        }
        ("sotw", Some(ResourceType::Cluster)) => {
            "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
        }
        ("sotw", Some(ResourceType::Endpoint)) => {
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
        }
        ("sotw", Some(ResourceType::Listener)) => {
            "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners"
        }
        ("sotw", Some(ResourceType::Route)) => {
            "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes"
        }
        ("sotw", Some(ResourceType::Secret)) => {
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
        }
        (_, None) => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        }
        (_, Some(ResourceType::Cluster)) => {
            "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
        }
        (_, Some(ResourceType::Endpoint)) => {
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
        }
        (_, Some(ResourceType::Listener)) => {
            "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"
        }
        (_, Some(ResourceType::Route)) => {
            "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes"
        }
        (_, Some(ResourceType::Secret)) => {
            "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
        }
    }
}

pub fn node() -> core::Node {
    core::Node {
        id: "node".into(),
        user_agent_name: "test".into(),
        ..Default::default()
    }
}

/// The streams of one client: one for all types, or one for each that is used.
pub struct Streams<Q, R> {
    variant: &'static str,
    aggregated: bool,
    channel: Channel,
    wires: BTreeMap<Option<ResourceType>, Wire<Q, R>>,
    nonces: BTreeMap<ResourceType, String>,
    versions: BTreeMap<ResourceType, String>,
    names: BTreeMap<ResourceType, Vec<String>>,
    pub requests: usize,
    pub responses: usize,
}

pub type SotwClient = Streams<DiscoveryRequest, DiscoveryResponse>;
pub type DeltaClient = Streams<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

impl<Q, R> Streams<Q, R>
where
    Q: Message + Default + Send + Sync + 'static,
    R: Message + std::fmt::Debug + Default + Send + Sync + 'static,
{
    async fn new(server: &TestServer, variant: &'static str, aggregated: bool) -> Self {
        Self {
            variant,
            aggregated,
            channel: server.channel().await,
            wires: BTreeMap::new(),
            nonces: BTreeMap::new(),
            versions: BTreeMap::new(),
            names: BTreeMap::new(),
            requests: 0,
            responses: 0,
        }
    }

    /// The stream for a type, and whether it is new.
    async fn wire(&mut self, kind: ResourceType) -> (&mut Wire<Q, R>, bool) {
        let only = (!self.aggregated).then_some(kind);
        let new = !self.wires.contains_key(&only);
        if new {
            let wire = Wire::open(&self.channel, path(self.variant, only)).await;
            self.wires.insert(only, wire);
        }
        (self.wires.get_mut(&only).unwrap(), new)
    }

    pub async fn assert_silent(&mut self) {
        for wire in self.wires.values_mut() {
            wire.assert_silent().await;
        }
        assert!(
            self.requests > self.responses,
            "more answers than questions"
        );
    }
}

/// What a state-of-the-world response says.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub kind: ResourceType,
    pub resources: BTreeMap<String, String>,
    pub removed: Vec<String>,
    pub version: String,
}

impl Received {
    pub fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).collect()
    }
}

impl SotwClient {
    pub async fn sotw(server: &TestServer, aggregated: bool) -> Self {
        Self::new(server, "sotw", aggregated).await
    }

    async fn request(&mut self, kind: ResourceType, error: Option<&str>) {
        let request = DiscoveryRequest {
            version_info: self.versions.get(&kind).cloned().unwrap_or_default(),
            resource_names: self.names.get(&kind).cloned().unwrap_or_default(),
            type_url: kind.type_url().into(),
            response_nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            error_detail: error.map(|message| rpc::Status {
                message: message.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let (wire, new) = self.wire(kind).await;
        wire.send(DiscoveryRequest {
            node: new.then(node),
            ..request
        });
        self.requests += 1;
    }

    /// Subscribes to exactly these names.
    pub async fn names(&mut self, kind: ResourceType, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        self.names.insert(kind, names);
        self.request(kind, None).await;
    }

    async fn receive(&mut self, kind: ResourceType) -> (Received, String) {
        let response = self.wire(kind).await.0.receive().await;
        self.responses += 1;
        let found = ResourceType::from_type_url(&response.type_url).unwrap();
        let resources = response.resources.iter().map(|any| {
            assert_eq!(any.type_url, response.type_url);
            let named = Named::decode(any.value.clone()).unwrap();
            (named.name, named.content)
        });
        let received = Received {
            kind: found,
            resources: resources.collect(),
            removed: Vec::new(),
            version: response.version_info.clone(),
        };
        assert_eq!(received.resources.len(), response.resources.len());
        self.nonces.insert(found, response.nonce);
        (received, response.version_info)
    }

    /// The next response on the stream of this type, accepted.
    pub async fn next(&mut self, kind: ResourceType) -> Received {
        let (received, version) = self.receive(kind).await;
        self.versions.insert(received.kind, version);
        self.request(received.kind, None).await;
        received
    }

    /// The next response, refused.
    pub async fn refuse(&mut self, kind: ResourceType, error: &str) -> Received {
        let (received, _) = self.receive(kind).await;
        self.request(received.kind, Some(error)).await;
        received
    }
}

impl DeltaClient {
    pub async fn delta(server: &TestServer, aggregated: bool) -> Self {
        Self::new(server, "delta", aggregated).await
    }

    pub async fn send(&mut self, kind: ResourceType, request: DeltaDiscoveryRequest) {
        let (wire, new) = self.wire(kind).await;
        wire.send(DeltaDiscoveryRequest {
            node: new.then(node),
            type_url: kind.type_url().into(),
            ..request
        });
        self.requests += 1;
    }

    pub async fn subscribe(&mut self, kind: ResourceType, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.send(kind, request).await;
    }

    pub async fn unsubscribe(&mut self, kind: ResourceType, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            resource_names_unsubscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.send(kind, request).await;
    }

    async fn receive(&mut self, kind: ResourceType) -> (Received, String) {
        let response = self.wire(kind).await.0.receive().await;
        self.responses += 1;
        let found = ResourceType::from_type_url(&response.type_url).unwrap();
        let resources = response.resources.iter().map(|resource| {
            let any = resource.resource.as_ref().unwrap();
            assert_eq!(any.type_url, response.type_url);
            let named = Named::decode(any.value.clone()).unwrap();
            assert_eq!(named.name, resource.name);
            (named.name, named.content)
        });
        let received = Received {
            kind: found,
            resources: resources.collect(),
            removed: response.removed_resources,
            version: response.system_version_info,
        };
        (received, response.nonce)
    }

    /// The next response on the stream of this type, accepted.
    pub async fn next(&mut self, kind: ResourceType) -> Received {
        let (received, nonce) = self.receive(kind).await;
        let request = DeltaDiscoveryRequest {
            response_nonce: nonce,
            ..Default::default()
        };
        self.send(received.kind, request).await;
        received
    }

    /// The next response, refused.
    pub async fn refuse(&mut self, kind: ResourceType, error: &str) -> Received {
        let (received, nonce) = self.receive(kind).await;
        let request = DeltaDiscoveryRequest {
            response_nonce: nonce,
            error_detail: Some(rpc::Status {
                message: error.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.send(received.kind, request).await;
        received
    }
}
