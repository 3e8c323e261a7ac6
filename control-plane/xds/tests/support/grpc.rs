//! A server on a loopback port, and clients that talk to it over gRPC.

use std::{collections::BTreeMap, net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use evermesh_proto::{
    core,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    resource::ResourceType,
};
use evermesh_xds::{
    AuthDecision, ConnectionLimit, Delivery, ProxyRegistry, XdsLimits, XdsServerOptions,
    XdsVariant, serve, without_credentials,
};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{
        Semaphore,
        mpsc::{self, Sender},
    },
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    client::{ClientState, Request, Response},
    store::TestStore,
};

/// Longer than anything takes on a busy machine. No test passes because this much time has passed.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Requests of a stream that may wait for the connection.
const QUEUED_REQUESTS: usize = 1 << 10;

/// Deliveries that are kept for [`TestServer::next_delivery`].
const QUEUED_DELIVERIES: usize = 1 << 16;

/// A node ID whose identity check does not finish before the test allows it ([`IdentityCheck`]).
pub const CHECKED: &str = "checked";
/// Like [`CHECKED`], but the check fails.
pub const CHECKED_AND_DENIED: &str = "checked-and-denied";
/// A node ID that is denied at once.
pub const FORBIDDEN: &str = "forbidden";

/// Lets a test wait until the server has begun to check an identity, and lets it finish the check.
pub struct IdentityCheck {
    begun: Semaphore,
    allowed: Semaphore,
}

impl IdentityCheck {
    async fn run(&self) {
        self.begun.add_permits(1);
        self.allowed.acquire().await.unwrap().forget();
    }

    pub async fn begins(&self) {
        let begun = timeout(DEADLINE, self.begun.acquire()).await;
        begun.expect("an identity check").unwrap().forget();
    }

    pub fn finish(&self) {
        self.allowed.add_permits(1);
    }
}

/// A running server that serves a client the view named by its node ID.
pub struct TestServer {
    pub store: TestStore,
    pub registry: Arc<ProxyRegistry>,
    pub identity_check: Arc<IdentityCheck>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub deliveries: mpsc::Receiver<Delivery>,
    pub task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(XdsLimits {
            request_bytes: 1 << 20,
            ..XdsLimits::default()
        })
        .await
    }

    /// A server that limits connections.
    pub async fn start_with_connections(connections: Arc<ConnectionLimit>) -> Self {
        Self::start_server(XdsLimits::default(), connections, None).await
    }

    pub async fn start_with(limits: XdsLimits) -> Self {
        Self::start_server(limits, ConnectionLimit::new(usize::MAX), None).await
    }

    /// A server whose streams end at about this age.
    pub async fn start_with_stream_age(age: Duration) -> Self {
        let connections = ConnectionLimit::new(usize::MAX);
        Self::start_server(XdsLimits::default(), connections, Some(age)).await
    }

    async fn start_server(
        limits: XdsLimits,
        connections: Arc<ConnectionLimit>,
        max_stream_age: Option<Duration>,
    ) -> Self {
        let store = TestStore::new();
        let (sender, deliveries) = mpsc::channel(QUEUED_DELIVERIES);
        let registry = ProxyRegistry::new(Some(Arc::new(move |delivery| {
            sender.try_send(delivery).ok();
        })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity_check = Arc::new(IdentityCheck {
            begun: Semaphore::new(0),
            allowed: Semaphore::new(0),
        });
        let check = Arc::clone(&identity_check);
        let mut options = XdsServerOptions::new(without_credentials(move |caller: &core::Node| {
            let check = Arc::clone(&check);
            match caller.id.as_str() {
                FORBIDDEN => AuthDecision::Now(Err(Status::permission_denied("forbidden node"))),
                CHECKED => AuthDecision::Later(Box::pin(async move {
                    check.run().await;
                    Ok(node().id.into())
                })),
                CHECKED_AND_DENIED => AuthDecision::Later(Box::pin(async move {
                    check.run().await;
                    Err(Status::unauthenticated("unknown node"))
                })),
                id => AuthDecision::Now(Ok(id.into())),
            }
        }));
        options.limits = limits;
        options.connections = connections;
        options.max_stream_age = max_stream_age;
        // No test waits for the end of the grace period.
        options.shutdown_grace = DEADLINE * 10;
        let shutdown = options.shutdown.clone();
        let served = serve(
            listener,
            Arc::clone(&store.store),
            Arc::clone(&registry),
            options,
        );
        Self {
            task: tokio::spawn(served),
            store,
            registry,
            identity_check,
            address,
            shutdown,
            deliveries,
        }
    }

    pub async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.address);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    pub async fn next_delivery(&mut self) -> Delivery {
        let delivery = timeout(DEADLINE, self.deliveries.recv()).await;
        delivery.expect("a delivery").unwrap()
    }
}

impl Deref for TestServer {
    type Target = TestStore;

    fn deref(&self) -> &TestStore {
        &self.store
    }
}

/// One gRPC stream.
pub struct GrpcStream<Q, R> {
    requests: Option<Sender<Q>>,
    responses: Streaming<R>,
}

impl<Q, R> GrpcStream<Q, R>
where
    Q: Message + Default + Send + Sync + 'static,
    R: Message + std::fmt::Debug + Default + Send + Sync + 'static,
{
    pub async fn open(channel: &Channel, path: &'static str) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUED_REQUESTS);
        let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.unwrap();
        let stream = tonic::Request::new(ReceiverStream::new(receiver));
        let codec = ProstCodec::<Q, R>::default();
        let response = grpc
            .streaming(stream, PathAndQuery::from_static(path), codec)
            .await
            .unwrap();
        Self {
            requests: Some(requests),
            responses: response.into_inner(),
        }
    }

    pub fn send(&self, request: Q) {
        let requests = self.requests.as_ref().unwrap();
        requests.try_send(request).unwrap();
    }

    pub async fn receive(&mut self) -> R {
        let received = timeout(DEADLINE, self.responses.message()).await;
        received.expect("a response").unwrap().unwrap()
    }

    /// Ends the requests. The server answers the ones that it has received, and then ends the stream.
    pub fn close(&mut self) {
        self.requests = None;
    }

    /// Waits for the end of the stream, which must come without another response.
    pub async fn end(&mut self) -> Result<(), Status> {
        let received = timeout(DEADLINE, self.responses.message()).await;
        let received = received.expect("the end of the stream");
        received.map(|message| assert!(message.is_none(), "{message:?}"))
    }
}

pub type DeltaStream = GrpcStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub type SotwStream = GrpcStream<DiscoveryRequest, DiscoveryResponse>;

/// The path of a discovery service's method: of one type, or of the aggregated service.
pub fn path(variant: XdsVariant, single_type: Option<ResourceType>) -> &'static str {
    macro_rules! paths {
        ($service:literal, $resources:literal) => {
            match variant {
                XdsVariant::Sotw => concat!("/envoy.service.", $service, "/Stream", $resources),
                XdsVariant::Delta => concat!("/envoy.service.", $service, "/Delta", $resources),
            }
        };
    }
    match single_type {
        None => paths!(
            "discovery.v3.AggregatedDiscoveryService",
            "AggregatedResources"
        ),
        Some(ResourceType::Cluster) => paths!("cluster.v3.ClusterDiscoveryService", "Clusters"),
        Some(ResourceType::Endpoint) => paths!("endpoint.v3.EndpointDiscoveryService", "Endpoints"),
        Some(ResourceType::Listener) => paths!("listener.v3.ListenerDiscoveryService", "Listeners"),
        Some(ResourceType::Route) => paths!("route.v3.RouteDiscoveryService", "Routes"),
        Some(ResourceType::Secret) => paths!("secret.v3.SecretDiscoveryService", "Secrets"),
    }
}

pub fn node() -> core::Node {
    core::Node {
        id: "node".into(),
        user_agent_name: "test".into(),
        ..Default::default()
    }
}

enum AnyStream {
    Delta(DeltaStream),
    Sotw(SotwStream),
}

impl AnyStream {
    async fn receive(&mut self) -> Response {
        match self {
            Self::Delta(stream) => stream.receive().await.into(),
            Self::Sotw(stream) => stream.receive().await.into(),
        }
    }
}

/// A client over gRPC: one stream for all types, or one per type that it uses.
pub struct GrpcClient {
    channel: Channel,
    aggregated: bool,
    state: ClientState,
    streams: BTreeMap<Option<ResourceType>, AnyStream>,
}

impl GrpcClient {
    pub async fn new(server: &TestServer, variant: XdsVariant, aggregated: bool) -> Self {
        Self {
            channel: server.channel().await,
            aggregated,
            state: ClientState::new(variant),
            streams: BTreeMap::new(),
        }
    }

    fn single_type(&self, kind: ResourceType) -> Option<ResourceType> {
        (!self.aggregated).then_some(kind)
    }

    async fn send(&mut self, kind: ResourceType, request: Request) {
        let single_type = self.single_type(kind);
        let path = path(self.state.variant, single_type);
        let is_first = !self.streams.contains_key(&single_type);
        if is_first {
            let stream = match self.state.variant {
                XdsVariant::Delta => AnyStream::Delta(DeltaStream::open(&self.channel, path).await),
                XdsVariant::Sotw => AnyStream::Sotw(SotwStream::open(&self.channel, path).await),
            };
            self.streams.insert(single_type, stream);
        }
        match (&self.streams[&single_type], request) {
            (AnyStream::Delta(stream), Request::Delta(request)) => {
                stream.send(DeltaDiscoveryRequest {
                    node: is_first.then(node),
                    type_url: kind.type_url().into(),
                    ..request
                });
            }
            (AnyStream::Sotw(stream), Request::Sotw(request)) => stream.send(DiscoveryRequest {
                node: is_first.then(node),
                type_url: kind.type_url().into(),
                ..request
            }),
            (AnyStream::Delta(_) | AnyStream::Sotw(_), _) => panic!("a request of another variant"),
        }
    }

    /// Subscribes to exactly these names; no name at all in the first request is a wildcard.
    pub async fn subscribe_to(&mut self, kind: ResourceType, names: &[&str]) {
        let request = self.state.subscribe_to(kind, names);
        self.send(kind, request).await;
    }

    async fn receive(&mut self, kind: ResourceType) -> Response {
        let single_type = self.single_type(kind);
        let response = self.streams.get_mut(&single_type).unwrap().receive().await;
        self.state.receive(&response);
        response
    }

    /// ACKs the next response on the stream of this type. On an aggregated stream it may be of another type.
    pub async fn receive_and_ack(&mut self, kind: ResourceType) -> Response {
        let response = self.receive(kind).await;
        let request = self.state.ack(&response);
        self.send(response.kind, request).await;
        response
    }

    /// NACKs the next response on the stream of this type.
    pub async fn receive_and_nack(&mut self, kind: ResourceType, message: &str) -> Response {
        let response = self.receive(kind).await;
        let request = self.state.nack(&response, message);
        self.send(response.kind, request).await;
        response
    }

    /// Whether every response of the type contains the complete set.
    pub fn has_complete_sets(&self, kind: ResourceType) -> bool {
        self.state.has_complete_sets(kind)
    }

    pub fn variant(&self) -> XdsVariant {
        self.state.variant
    }

    /// Ends the requests and checks that each stream ends without another response.
    ///
    /// The server reads the requests in order and answers them before it ends a stream, so a response that is due would
    /// come first.
    pub async fn assert_no_more_responses(mut self) {
        for stream in self.streams.values_mut() {
            match stream {
                AnyStream::Delta(stream) => {
                    stream.close();
                    stream.end().await.unwrap();
                }
                AnyStream::Sotw(stream) => {
                    stream.close();
                    stream.end().await.unwrap();
                }
            }
        }
    }
}
