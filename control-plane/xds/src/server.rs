//! The gRPC services: the aggregated discovery service and one service per resource type, each with an incremental and
//! a state-of-the-world method.
//!
//! tonic accepts connections and routes calls. Each call of a streaming method becomes a [`StreamBody`], which reads and
//! writes the messages itself; of the generated services, only the names are used. The unary `Fetch…` methods of the API are
//! not implemented.

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

use evermesh_proto::{core, pb::envoy::service, resource::ResourceType};
use futures::StreamExt;
use http::{HeaderValue, header::CONTENT_TYPE, request};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, server::NamedService, service::Routes, transport::Server};
use tower::Service;

use crate::{
    accept::ConnectionLimit,
    body::{Charge, StreamBody, Transport, unwrap_transport},
    connection::{DiscoveryProtocol, XdsVariant},
    delta::Delta,
    large_request::LargeRequests,
    limits::XdsLimits,
    registry::ProxyRegistry,
    sotw::Sotw,
    store::Store,
    stream_age,
    tls::accept_tls,
    unix::UnixConnection,
};

/// Authenticates the client of a stream by its HTTP request, before the server reads a message. The extensions of the
/// request contain `TcpConnectInfo` or `TlsConnectInfo<TcpConnectInfo>`.
pub type Authenticate = Arc<dyn Fn(&request::Parts) -> AuthDecision<Authorize> + Send + Sync>;

/// Decides which view an authenticated client may see, by the node of its first request.
pub type Authorize = Box<dyn FnOnce(&core::Node) -> AuthDecision<IdentifiedClient> + Send>;

/// A result, or the status with which the stream ends.
pub enum AuthDecision<T> {
    /// The decision was made without waiting.
    Now(Result<T, Status>),
    /// The decision is made once the future is ready. Until then the stream neither reads nor sends messages.
    Later(Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>),
}

/// Accepts every client without credentials; the node of its first request decides which view it may see.
pub fn without_credentials(
    authorize: impl Fn(&core::Node) -> AuthDecision<IdentifiedClient> + Send + Sync + 'static,
) -> Authenticate {
    let authorize = Arc::new(authorize);
    Arc::new(move |_| {
        let authorize = Arc::clone(&authorize);
        let authorize: Authorize = Box::new(move |node| authorize(node));
        AuthDecision::Now(Ok(authorize))
    })
}

/// Ready with the status with which a stream ends, once its client has lost the right to its view. The stream drops it
/// when it ends.
pub type Revocation = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The client of a stream.
pub struct IdentifiedClient {
    /// Name of the client's view.
    pub view: Arc<str>,
    /// Whether the client has proven that the view is its own. Such a client gets
    /// [confidential](evermesh_proto::Resource::confidential) resources over TLS and over a Unix socket.
    pub is_proven: bool,
    /// Absent if the client keeps its view as long as the stream is open.
    pub revocation: Option<Revocation>,
}

/// A client that has proven nothing.
impl<T: Into<Arc<str>>> From<T> for IdentifiedClient {
    fn from(view: T) -> Self {
        Self {
            view: view.into(),
            is_proven: false,
            revocation: None,
        }
    }
}

impl fmt::Debug for IdentifiedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifiedClient")
            .field("view", &self.view)
            .field("is_proven", &self.is_proven)
            .finish_non_exhaustive()
    }
}

impl<T> From<Result<T, Status>> for AuthDecision<T> {
    fn from(result: Result<T, Status>) -> Self {
        Self::Now(result)
    }
}

/// Settings of an xDS server.
#[derive(Clone)]
pub struct XdsServerOptions {
    /// Authenticates each client.
    pub authenticate: Authenticate,
    /// Limits of what one client can make the server keep or do.
    pub limits: XdsLimits,
    /// Mean age at which a stream ends with `OK`, so that its client is authenticated again and may reach another replica
    /// (default: never). A stream ends up to a tenth earlier or later, so that streams that began together end spread
    /// over time.
    pub max_stream_age: Option<Duration>,
    /// The places for connections (default: no limit).
    pub connections: Arc<ConnectionLimit>,
    /// TLS settings; a new connection uses the newest. Without them the server accepts plain TCP.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Ends every stream with `UNAVAILABLE`, and then the server.
    pub shutdown: CancellationToken,
    /// Interval between HTTP/2 pings (default 30 s).
    pub keep_alive_interval: Duration,
    /// Time limit for the answer to a ping (default 20 s). The connection is closed afterwards.
    pub keep_alive_timeout: Duration,
    /// Time for which a shutdown waits until clients have read the end of their streams (default 5 s).
    pub shutdown_grace: Duration,
}

impl XdsServerOptions {
    /// Default settings, without TLS.
    pub fn new(authenticate: Authenticate) -> Self {
        Self {
            authenticate,
            limits: XdsLimits::default(),
            max_stream_age: None,
            connections: ConnectionLimit::new(usize::MAX),
            tls: None,
            shutdown: CancellationToken::new(),
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for XdsServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsServerOptions")
            .field("limits", &self.limits)
            .field("max_stream_age", &self.max_stream_age)
            .field("keep_alive_interval", &self.keep_alive_interval)
            .field("keep_alive_timeout", &self.keep_alive_timeout)
            .field("shutdown_grace", &self.shutdown_grace)
            .finish_non_exhaustive()
    }
}

/// State that all streams share.
pub(crate) struct XdsServerState {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Arc<ProxyRegistry>,
    pub(crate) limits: XdsLimits,
    pub(crate) max_stream_age: Option<Duration>,
    pub(crate) large_requests: Arc<LargeRequests>,
    authenticate: Authenticate,
    shutdown: CancellationToken,
}

/// Serves xDS on a listener until [`XdsServerOptions::shutdown`].
///
/// # Errors
/// Fails if the listener fails.
pub async fn serve(
    listener: TcpListener,
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    options: XdsServerOptions,
) -> Result<(), tonic::transport::Error> {
    let shutdown = options.shutdown.clone();
    let grace = options.shutdown_grace;
    let tls = options.tls.clone();
    let connections = Arc::clone(&options.connections);
    let mut server = server(&options);
    let router = server.add_routes(routes(Arc::clone(&store), registry, options));
    let end = shutdown.clone().cancelled_owned();
    let server = async {
        if let Some(tls) = tls {
            let incoming = accept_tls(listener, connections, tls);
            router.serve_with_incoming_shutdown(incoming, end).await
        } else {
            let incoming = connections.connections(listener);
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

/// Serves xDS on a Unix socket, without TLS, until [`XdsServerOptions::shutdown`].
///
/// Needs a [`serve`] of the same store beside it, which dispatches commits and closes the streams.
///
/// # Errors
/// Fails if the listener fails.
pub async fn serve_socket(
    listener: UnixListener,
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    options: XdsServerOptions,
) -> Result<(), tonic::transport::Error> {
    let end = options.shutdown.clone().cancelled_owned();
    let connections = Arc::clone(&options.connections);
    let mut server = server(&options);
    let router = server.add_routes(routes(store, registry, options));
    let incoming = connections.connections(listener);
    let incoming = incoming.map(|accepted| accepted.map(|it| it.map(UnixConnection::new)));
    router.serve_with_incoming_shutdown(incoming, end).await
}

fn server(options: &XdsServerOptions) -> Server {
    let limits = options.limits;
    let server = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes)
        .http2_max_pending_accept_reset_streams(Some(limits.pending_resets))
        .http2_max_local_error_reset_streams(Some(limits.error_resets))
        .http2_max_header_list_size(limits.header_bytes)
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.keep_alive_timeout));
    match options.max_stream_age {
        Some(age) => server.max_connection_age(stream_age::connection_age(age)),
        None => server,
    }
}

/// The discovery services, for a tonic server of the caller.
///
/// The caller must also run [`Store::dispatch`]. To end the streams, it cancels [`XdsServerOptions::shutdown`] and then
/// calls [`Store::close_streams`].
pub fn routes(
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    options: XdsServerOptions,
) -> Routes {
    let shared = Arc::new(XdsServerState {
        store,
        registry,
        limits: options.limits,
        max_stream_age: options.max_stream_age,
        large_requests: Arc::default(),
        authenticate: options.authenticate,
        shutdown: options.shutdown,
    });
    Routes::new(ServiceRoute::<Aggregated>::new(&shared))
        .add_service(ServiceRoute::<Clusters>::new(&shared))
        .add_service(ServiceRoute::<Endpoints>::new(&shared))
        .add_service(ServiceRoute::<Listeners>::new(&shared))
        .add_service(ServiceRoute::<RouteConfigurations>::new(&shared))
        .add_service(ServiceRoute::<Secrets>::new(&shared))
        .prepare()
}

/// One discovery service.
trait DiscoveryService: Send + Sync + 'static {
    const SERVICE: &'static str;
    /// Names without the service, as in the last part of a request's path.
    const METHODS: [(&'static str, XdsVariant); 2];
    /// The type that the service serves; absent for the aggregated service.
    const SINGLE_TYPE: Option<ResourceType>;
}

macro_rules! discovery_service {
    ($name:ident, $generated:path, $method:literal, $single_type:expr) => {
        enum $name {}

        impl DiscoveryService for $name {
            const SERVICE: &'static str = {
                use $generated as generated;
                generated::SERVICE_NAME
            };
            const METHODS: [(&'static str, XdsVariant); 2] = [
                (concat!("Stream", $method), XdsVariant::Sotw),
                (concat!("Delta", $method), XdsVariant::Delta),
            ];
            const SINGLE_TYPE: Option<ResourceType> = $single_type;
        }
    };
}

discovery_service!(
    Aggregated,
    service::discovery::v3::aggregated_discovery_service_server,
    "AggregatedResources",
    None
);
discovery_service!(
    Clusters,
    service::cluster::v3::cluster_discovery_service_server,
    "Clusters",
    Some(ResourceType::Cluster)
);
discovery_service!(
    Endpoints,
    service::endpoint::v3::endpoint_discovery_service_server,
    "Endpoints",
    Some(ResourceType::Endpoint)
);
discovery_service!(
    Listeners,
    service::listener::v3::listener_discovery_service_server,
    "Listeners",
    Some(ResourceType::Listener)
);
discovery_service!(
    RouteConfigurations,
    service::route::v3::route_discovery_service_server,
    "Routes",
    Some(ResourceType::Route)
);
discovery_service!(
    Secrets,
    service::secret::v3::secret_discovery_service_server,
    "Secrets",
    Some(ResourceType::Secret)
);

struct ServiceRoute<A> {
    shared: Arc<XdsServerState>,
    service: PhantomData<A>,
}

impl<A: DiscoveryService> ServiceRoute<A> {
    fn new(shared: &Arc<XdsServerState>) -> Self {
        Self {
            shared: Arc::clone(shared),
            service: PhantomData,
        }
    }

    fn open<P: DiscoveryProtocol>(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, requests) = request.into_parts();
        let body = match (self.shared.authenticate)(&parts) {
            AuthDecision::Now(Err(status)) => return status.into_http(),
            decision => StreamBody::<P>::new(
                Arc::clone(&self.shared),
                A::SINGLE_TYPE,
                (Transport::of(&parts), Charge::of(&parts)),
                decision,
                requests,
            ),
        };
        if self.shared.shutdown.is_cancelled() {
            return Status::unavailable("the server is shutting down; connect to another replica")
                .into_http();
        }
        let mut response = http::Response::new(Body::new(body));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

impl<A> Clone for ServiceRoute<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            service: PhantomData,
        }
    }
}

impl<A: DiscoveryService> NamedService for ServiceRoute<A> {
    const NAME: &'static str = A::SERVICE;
}

impl<A: DiscoveryService> Service<http::Request<Body>> for ServiceRoute<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        unwrap_transport(request.extensions_mut());
        let path = request.uri().path().strip_prefix('/');
        let called = path.and_then(|path| path.strip_prefix(A::SERVICE)?.strip_prefix('/'));
        let method = A::METHODS
            .into_iter()
            .find(|(method, _)| Some(*method) == called);
        let response = match method {
            Some((_, XdsVariant::Sotw)) => self.open::<Sotw>(request),
            Some((_, XdsVariant::Delta)) => self.open::<Delta>(request),
            None => Status::unimplemented("only the Stream and Delta methods are implemented")
                .into_http(),
        };
        future::ready(Ok(response))
    }
}
