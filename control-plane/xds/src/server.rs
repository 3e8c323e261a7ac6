//! The gRPC services on tonic's server and routing: aggregated and one for each type, both flavours, all
//! of them thin shells over the same machine.
//!
//! In: connections of a listener. Out: a [`StreamBody`] for each stream.
//! Must not read messages; the body does.

use std::{
    convert::Infallible,
    fmt,
    future::{self, Ready},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use evermesh_proto::{core, resource::ResourceType};
use http::{HeaderValue, header::CONTENT_TYPE, request};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower::Service;

use crate::{
    body::StreamBody,
    connection::{DiscoveryProtocol, XdsVariant},
    delta::Delta,
    registry::ProxyRegistry,
    sotw::Sotw,
    store::Store,
    tls,
    unix::UnixConnection,
};

/// Who is calling, from the node a client describes itself as, and the request's headers and connection
/// (in the extensions: `TcpConnectInfo`, or `TlsConnectInfo` of it).
pub type Identify = Arc<dyn Fn(&core::Node, &request::Parts) -> Identity + Send + Sync>;

/// The name of the view that a client gets, or the status that its stream ends with.
pub enum Identity {
    /// Known at once.
    Now(Result<Arc<str>, Status>),
    /// Known when this is ready. Until then the stream reads and sends nothing.
    Later(Pin<Box<dyn Future<Output = Result<Arc<str>, Status>> + Send>>),
}

impl From<Result<Arc<str>, Status>> for Identity {
    fn from(known: Result<Arc<str>, Status>) -> Self {
        Self::Now(known)
    }
}

/// How to serve.
#[derive(Clone)]
pub struct XdsServerOptions {
    /// Who is calling.
    pub identify: Identify,
    /// Serves over TLS by these settings, each new connection by the newest; without TLS if none.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Ends every stream with `UNAVAILABLE`, then the server.
    pub shutdown: CancellationToken,
    /// The largest request read. A client that reconnects lists every resource it has.
    pub max_request_bytes: usize,
    /// After this much silence a client is asked whether it is still there.
    pub keep_alive_interval: Duration,
    /// How long it may take to answer.
    pub keep_alive_timeout: Duration,
    /// How long the server waits for clients that do not read the end of their streams.
    pub shutdown_grace: Duration,
}

impl XdsServerOptions {
    /// The usual ones.
    pub fn new(identify: Identify) -> Self {
        Self {
            identify,
            tls: None,
            shutdown: CancellationToken::new(),
            max_request_bytes: 16 << 20,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for XdsServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsServerOptions")
            .field("max_request_bytes", &self.max_request_bytes)
            .field("keep_alive_interval", &self.keep_alive_interval)
            .field("keep_alive_timeout", &self.keep_alive_timeout)
            .field("shutdown_grace", &self.shutdown_grace)
            .finish_non_exhaustive()
    }
}

/// What all streams share.
pub(crate) struct XdsServerState {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Arc<ProxyRegistry>,
    pub(crate) identify: Identify,
    pub(crate) max_request_bytes: usize,
    shutdown: CancellationToken,
}

/// Serves xDS on a listener until [`XdsServerOptions::shutdown`].
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    options: XdsServerOptions,
) -> Result<(), tonic::transport::Error> {
    let shutdown = options.shutdown.clone();
    let grace = options.shutdown_grace;
    let tls = options.tls.clone();
    let mut server = server(&options);
    let router = server.add_routes(routes(Arc::clone(&store), registry, options));
    let end = shutdown.clone().cancelled_owned();
    let server = async {
        if let Some(tls) = tls {
            let incoming = tls::accept(listener, tls);
            router.serve_with_incoming_shutdown(incoming, end).await
        } else {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, end).await
        }
    };
    let closed = async {
        shutdown.cancelled().await;
        store.close_streams();
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        result = server => result,
        () = store.dispatch() => Ok(()),
        () = closed => Ok(()),
    }
}

/// Serves xDS on a Unix socket, without TLS, until [`XdsServerOptions::shutdown`]; beside a [`serve`] of the same store.
///
/// # Errors
/// The listener fails.
pub async fn serve_socket(
    listener: UnixListener,
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    options: XdsServerOptions,
) -> Result<(), tonic::transport::Error> {
    let end = options.shutdown.clone().cancelled_owned();
    let mut server = server(&options);
    let router = server.add_routes(routes(store, registry, options));
    let incoming = UnixListenerStream::new(listener).map(|it| it.map(UnixConnection::new));
    router.serve_with_incoming_shutdown(incoming, end).await
}

fn server(options: &XdsServerOptions) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.keep_alive_timeout))
}

/// The services, to be mounted on a server of one's own; that one must also run [`Store::dispatch`] and,
/// to end the streams, cancel [`XdsServerOptions::shutdown`] and then call [`Store::close_streams`].
pub fn routes(
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    options: XdsServerOptions,
) -> Routes {
    let shared = Arc::new(XdsServerState {
        store,
        registry,
        identify: options.identify,
        max_request_bytes: options.max_request_bytes,
        shutdown: options.shutdown,
    });
    Routes::new(Discovery::<Aggregated>::new(&shared))
        .add_service(Discovery::<Clusters>::new(&shared))
        .add_service(Discovery::<Endpoints>::new(&shared))
        .add_service(Discovery::<Listeners>::new(&shared))
        .add_service(Discovery::<RouteConfigurations>::new(&shared))
        .add_service(Discovery::<Secrets>::new(&shared))
        .prepare()
}

/// One of the discovery services.
trait Api: Send + Sync + 'static {
    const SERVICE: &'static str;
    const METHODS: [(&'static str, XdsVariant); 2];
    const ONLY: Option<ResourceType>;
}

macro_rules! api {
    ($name:ident, $service:literal, $method:literal, $only:expr) => {
        enum $name {}

        impl Api for $name {
            const SERVICE: &'static str = $service;
            const METHODS: [(&'static str, XdsVariant); 2] = [
                (concat!("/", $service, "/Stream", $method), XdsVariant::Sotw),
                (concat!("/", $service, "/Delta", $method), XdsVariant::Delta),
            ];
            const ONLY: Option<ResourceType> = $only;
        }
    };
}

api!(
    Aggregated,
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "AggregatedResources",
    None
);
api!(
    Clusters,
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "Clusters",
    Some(ResourceType::Cluster)
);
api!(
    Endpoints,
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "Endpoints",
    Some(ResourceType::Endpoint)
);
api!(
    Listeners,
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "Listeners",
    Some(ResourceType::Listener)
);
api!(
    RouteConfigurations,
    "envoy.service.route.v3.RouteDiscoveryService",
    "Routes",
    Some(ResourceType::Route)
);
api!(
    Secrets,
    "envoy.service.secret.v3.SecretDiscoveryService",
    "Secrets",
    Some(ResourceType::Secret)
);

struct Discovery<A> {
    shared: Arc<XdsServerState>,
    api: PhantomData<A>,
}

impl<A: Api> Discovery<A> {
    fn new(shared: &Arc<XdsServerState>) -> Self {
        Self {
            shared: Arc::clone(shared),
            api: PhantomData,
        }
    }

    fn open<P: DiscoveryProtocol>(&self, request: http::Request<Body>) -> http::Response<Body> {
        let body = StreamBody::<P>::new(Arc::clone(&self.shared), A::ONLY, request);
        if self.shared.shutdown.is_cancelled() {
            return Status::unavailable("the server is going away").into_http();
        }
        let mut response = http::Response::new(Body::new(body));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

impl<A> Clone for Discovery<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            api: PhantomData,
        }
    }
}

impl<A: Api> NamedService for Discovery<A> {
    const NAME: &'static str = A::SERVICE;
}

impl<A: Api> Service<http::Request<Body>> for Discovery<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let method = A::METHODS.into_iter().find(|(method, _)| *method == path);
        let response = match method {
            Some((_, XdsVariant::Sotw)) => self.open::<Sotw>(request),
            Some((_, XdsVariant::Delta)) => self.open::<Delta>(request),
            None => Status::unimplemented("only streams are served").into_http(),
        };
        future::ready(Ok(response))
    }
}
