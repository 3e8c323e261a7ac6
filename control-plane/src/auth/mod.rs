//! Authenticates xDS streams and authorizes each one for the proxy that its node ID names.
//!
//! In: the headers and the connection of a stream, and the `core.v3.Node` that the proxy sends. Out: the name of the
//! view that the stream may see and whether the proxy has proven its identity, or a gRPC status. The node ID alone
//! proves nothing; a token or a client certificate does, and is checked before the first message is read. Credentials are
//! checked once, when a stream begins: an unreachable API server or an expired token never ends a stream. The right of a
//! pod to act as the proxy is checked again whenever the pod, the node or the gateway changes ([`StreamGrants`]).
//!
//! The gRPC status is the same for all causes of a kind, so that a caller learns nothing about other workloads. The
//! details are in the log, and the metric `xds_authentications` counts the outcomes.

mod certificate;
mod denial;
mod grants;
mod metrics;
mod review;
mod tls;
mod token;
mod waiting;

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use evermesh_ingest::identity::{IdentityMismatch, WorkloadIdentity};
use evermesh_model::{ProxyKind, ResourceName, name::InvalidResourceName};
use evermesh_proto::core;
use evermesh_xds::{AuthDecision, Authenticate, Authorize, IdentifiedClient, PeerText, Revocation};
use http::request;
use kube::Client;
use tokio::{
    sync::watch,
    time::{self, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use self::{
    certificate::CertificateNames,
    denial::StreamDenial,
    grants::{RevokedStream, StreamGrants},
    metrics::AuthenticationOutcome,
    review::{TokenReviewResult, TokenReviewer},
    token::bearer,
    waiting::WaitingStreams,
};
pub use self::{metrics::AuthenticationMetrics, tls::XdsTls};
use crate::{
    args::{XdsArgs, XdsAuthentication},
    engine::EngineSnapshot,
    server_clock::Clock,
    throttle::LogThrottle,
};

/// Longest time that a stream waits until the watches deliver its pod, and its virtual node or gateway.
const WATCH_DELAY_LIMIT: Duration = Duration::from_secs(5);

/// The permissions of a file for others than its user and group.
const OTHERS: u32 = 0o007;

/// Newest snapshot of the engine, which tells which pods a virtual node or gateway selects.
type SnapshotReceiver = watch::Receiver<Arc<EngineSnapshot>>;

/// The Kubernetes cluster of the pods that are proxies.
pub struct AuthenticationCluster {
    /// Sends reviews of tokens.
    pub client: Client,
    /// The time by which tokens expire.
    pub clock: Clock,
    pub snapshots: watch::Receiver<Arc<EngineSnapshot>>,
}

/// Authenticates streams by one method and counts the outcomes.
pub struct Authenticator {
    method: Method,
    metrics: AuthenticationMetrics,
    denial_log: LogThrottle,
    waiting: Arc<WaitingStreams>,
    grants: Arc<StreamGrants>,
}

enum Method {
    None,
    /// File permissions decide who may connect.
    Socket {
        is_limited: bool,
    },
    Token(PathBuf),
    Kubernetes {
        reviewer: Arc<TokenReviewer>,
        snapshots: SnapshotReceiver,
        permissive: bool,
    },
    /// The snapshot is present with `--kubernetes`. Without it a certificate must name the proxy itself.
    Certificate(Option<SnapshotReceiver>),
}

/// A denial with its details for the log.
type Denied = (StreamDenial, String);

/// The proof in the request of a stream, before its node is known.
enum Proof {
    /// Nothing, and none is required.
    NotRequired,
    /// The right to open the Unix socket.
    Socket {
        is_limited: bool,
    },
    Token,
    /// Nothing, in the permissive mode.
    Anonymous,
    Pod(WorkloadIdentity, SnapshotReceiver),
    Certificate(CertificateNames, Option<SnapshotReceiver>),
}

/// A caller in log lines.
struct Caller {
    /// Absent before the caller has sent its node.
    proxy: Option<ResourceName>,
    address: Option<SocketAddr>,
}

impl Authenticator {
    /// Builds the method that the flags select. `address` is the address of the xDS server; `cluster` is present with
    /// `--kubernetes`.
    ///
    /// # Errors
    /// The flags select no method for an address that is not loopback, or a method that cannot work.
    pub fn new(
        args: &XdsArgs,
        address: SocketAddr,
        cluster: Option<AuthenticationCluster>,
        metrics: AuthenticationMetrics,
    ) -> anyhow::Result<Arc<Self>> {
        let selected = match args.xds_authentication {
            Some(selected) => selected,
            None if address.ip().is_loopback() => XdsAuthentication::None,
            None => bail!(
                "--xds-address {address} is not a loopback address: set --xds-authentication to the method by which proxies authenticate, or to `none`"
            ),
        };
        let method = match selected {
            XdsAuthentication::None => Method::None,
            XdsAuthentication::Token => {
                let file = args.xds_token_file.clone();
                let file = file.context("--xds-authentication=token needs --xds-token-file")?;
                token::read(&file)?;
                Method::Token(file)
            }
            XdsAuthentication::Kubernetes | XdsAuthentication::KubernetesPermissive => {
                let AuthenticationCluster {
                    client,
                    clock,
                    snapshots,
                } = cluster.context(
                    "--xds-authentication=kubernetes needs --kubernetes: tokens are verified by the API server",
                )?;
                let audience = args.xds_token_audience.clone();
                Method::Kubernetes {
                    reviewer: TokenReviewer::new(
                        audience.clone(),
                        clock,
                        review::with_api_server(client, audience),
                    ),
                    snapshots,
                    permissive: selected == XdsAuthentication::KubernetesPermissive,
                }
            }
            XdsAuthentication::Certificate => Method::Certificate(cluster.map(|it| it.snapshots)),
        };
        Ok(Self::with(method, metrics))
    }

    /// Accepts every proxy without authentication, for the Unix socket, whose file permissions decide who may connect.
    /// They count as proof of the identity if they are limited to the file's user and group.
    pub fn for_socket(permissions: u32) -> Arc<Self> {
        let is_limited = permissions & OTHERS == 0;
        Self::with(
            Method::Socket { is_limited },
            AuthenticationMetrics::default(),
        )
    }

    fn with(method: Method, metrics: AuthenticationMetrics) -> Arc<Self> {
        Arc::new(Self {
            method,
            metrics,
            denial_log: LogThrottle::default(),
            waiting: Arc::default(),
            grants: Arc::default(),
        })
    }

    /// Callback with which the xDS server authenticates each stream.
    pub fn hook(self: Arc<Self>) -> Authenticate {
        Arc::new(move |parts| self.authenticate(parts))
    }

    /// Ends the streams whose pod may no longer act as the proxy, until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let snapshots = match &self.method {
            Method::Kubernetes { snapshots, .. } | Method::Certificate(Some(snapshots)) => {
                snapshots
            }
            Method::None | Method::Socket { .. } | Method::Token(_) | Method::Certificate(None) => {
                return shutdown.cancelled().await;
            }
        };
        let mut snapshots = snapshots.clone();
        // Also if the engine has ended, which ends the process.
        while let Some(Ok(())) = shutdown.run_until_cancelled(snapshots.changed()).await {
            let now = Arc::clone(&snapshots.borrow_and_update());
            for stream in self.grants.check(&now) {
                self.log_revoked(&stream);
            }
        }
    }

    fn log_revoked(&self, stream: &RevokedStream) {
        if let Some(suppressed) = self.denial_log.pass() {
            let reason = StreamDenial::IdentityMismatch(stream.mismatch).reason();
            let (proxy, workloads) = (stream.proxy.to_string(), names(&stream.workloads));
            tracing::warn!(proxy = %PeerText(&proxy), reason, details = %PeerText(&workloads), suppressed, "ended an xDS stream whose pod may no longer act as the proxy");
        }
    }

    fn authenticate(self: &Arc<Self>, parts: &request::Parts) -> AuthDecision<Authorize> {
        let address = address(parts);
        match &self.method {
            Method::None => self.proven(address, Ok(Proof::NotRequired)).into(),
            Method::Socket { is_limited } => {
                let is_limited = *is_limited;
                self.proven(address, Ok(Proof::Socket { is_limited }))
                    .into()
            }
            Method::Token(file) => {
                let checked = token::check(file, bearer(&parts.headers));
                self.proven(address, checked.map(|()| Proof::Token)).into()
            }
            Method::Kubernetes {
                reviewer,
                snapshots,
                permissive,
            } => match bearer(&parts.headers) {
                Err(_) if *permissive => self.proven(address, Ok(Proof::Anonymous)).into(),
                Err(why) => {
                    let denied = (StreamDenial::NoCredentials, why.to_owned());
                    self.proven(address, Err(denied)).into()
                }
                Ok(token) => {
                    let review = reviewer.review(token, address.map(|it| it.ip()));
                    let (this, snapshots) = (Arc::clone(self), snapshots.clone());
                    AuthDecision::Later(Box::pin(async move {
                        let proof = match review.await {
                            TokenReviewResult::Authenticated(pod) => Ok(Proof::Pod(pod, snapshots)),
                            TokenReviewResult::Rejected(why) => {
                                Err((StreamDenial::BadCredentials, why.to_string()))
                            }
                            TokenReviewResult::Unreachable(why) => {
                                Err((StreamDenial::Unchecked, why.to_string()))
                            }
                            TokenReviewResult::Busy => {
                                let why = "too many token reviews are pending, of all clients or of its address";
                                let why = why.to_owned();
                                Err((StreamDenial::Busy, why))
                            }
                        };
                        this.proven(address, proof)
                    }))
                }
            },
            Method::Certificate(snapshots) => {
                let names = certificate::names(parts);
                let proof = if names.is_empty() {
                    Err((StreamDenial::OtherProxy, names.to_string()))
                } else {
                    Ok(Proof::Certificate(names, snapshots.clone()))
                };
                self.proven(address, proof).into()
            }
        }
    }

    /// Converts a proof into the decision about the node that follows.
    fn proven(
        self: &Arc<Self>,
        address: Option<SocketAddr>,
        proof: Result<Proof, Denied>,
    ) -> Result<Authorize, Status> {
        let this = Arc::clone(self);
        match proof {
            Ok(proof) => Ok(Box::new(move |node| this.authorize(address, proof, node))),
            Err(denied) => {
                let proxy = None;
                Err(self.deny(&Caller { proxy, address }, denied))
            }
        }
    }

    /// Decides whether the proof allows the client to act as the proxy that its node names.
    fn authorize(
        self: Arc<Self>,
        address: Option<SocketAddr>,
        proof: Proof,
        node: &core::Node,
    ) -> AuthDecision<IdentifiedClient> {
        let proxy = match proxy_of(node) {
            Ok(proxy) => proxy,
            Err(status) => return Err(status).into(),
        };
        match proof {
            Proof::NotRequired => Ok(client(&proxy, false, None)).into(),
            Proof::Socket { is_limited } => Ok(client(&proxy, is_limited, None)).into(),
            Proof::Token => {
                let by = AuthenticationOutcome::Token;
                self.conclude(proxy, address, Ok(None), by).into()
            }
            Proof::Anonymous => {
                let by = AuthenticationOutcome::Anonymous;
                self.conclude(proxy, address, Ok(None), by).into()
            }
            Proof::Pod(pod, snapshots) => {
                let by = AuthenticationOutcome::Token;
                self.await_watches(proxy, address, snapshots, vec![pod], by)
            }
            Proof::Certificate(names, snapshots) => {
                let by = AuthenticationOutcome::Certificate;
                if names.proxies.contains(&proxy) {
                    return self.conclude(proxy, address, Ok(None), by).into();
                }
                if let Some(snapshots) = snapshots.filter(|_| !names.workloads.is_empty()) {
                    self.await_watches(proxy, address, snapshots, names.workloads, by)
                } else {
                    let denied = (StreamDenial::OtherProxy, names.to_string());
                    self.conclude(proxy, address, Err(denied), by).into()
                }
            }
        }
    }

    fn await_watches(
        self: Arc<Self>,
        proxy: ResourceName,
        address: Option<SocketAddr>,
        snapshots: SnapshotReceiver,
        workloads: Vec<WorkloadIdentity>,
        by: AuthenticationOutcome,
    ) -> AuthDecision<IdentifiedClient> {
        AuthDecision::Later(Box::pin(async move {
            let decision = self.admit(snapshots, &workloads, &proxy).await;
            let decision = decision.map(Some);
            self.conclude(proxy, address, decision, by)
        }))
    }

    /// Checks that one of the workloads is a pod of the proxy's virtual node or gateway. Waits up to
    /// [`WATCH_DELAY_LIMIT`] for a pod, node or gateway that the watches have not delivered yet.
    async fn admit(
        &self,
        mut snapshots: SnapshotReceiver,
        workloads: &[WorkloadIdentity],
        proxy: &ResourceName,
    ) -> Result<Revocation, Denied> {
        let mut deadline = time::Instant::now() + WATCH_DELAY_LIMIT;
        let mut place = None;
        loop {
            let is_complete = snapshots.borrow_and_update().waiting_for.is_empty();
            let mismatch = match self.grants.admit(&snapshots, workloads, proxy) {
                Ok(revocation) => return Ok(revocation),
                Err(mismatch) => mismatch,
            };
            let denied = || (StreamDenial::IdentityMismatch(mismatch), names(workloads));
            if !is_complete {
                // Objects are missing until the first read of all sources, so no stream is rejected before it.
                deadline = time::Instant::now() + WATCH_DELAY_LIMIT;
            } else if mismatch == IdentityMismatch::NotSelected || time::Instant::now() >= deadline
            {
                return Err(denied());
            }
            if place.is_none() {
                let entered = self.waiting.enter(workloads);
                place = Some(entered.map_err(|why| (StreamDenial::Waiting, why))?);
            }
            if let Ok(Err(_engine_ended)) = timeout_at(deadline, snapshots.changed()).await {
                return Err(denied());
            }
        }
    }

    /// Counts a decision, and converts it into the client or the gRPC status.
    fn conclude(
        &self,
        proxy: ResourceName,
        address: Option<SocketAddr>,
        decision: Result<Option<Revocation>, Denied>,
        by: AuthenticationOutcome,
    ) -> Result<IdentifiedClient, Status> {
        match decision {
            Ok(revocation) => {
                self.metrics.count(by);
                let is_proven = by != AuthenticationOutcome::Anonymous;
                Ok(client(&proxy, is_proven, revocation))
            }
            Err(denied) => {
                let proxy = Some(proxy);
                Err(self.deny(&Caller { proxy, address }, denied))
            }
        }
    }

    /// Counts and logs a denial, and converts it into the gRPC status.
    fn deny(&self, caller: &Caller, (denial, why): Denied) -> Status {
        self.metrics.count(denial.outcome());
        if let Some(suppressed) = self.denial_log.pass() {
            let reason = denial.reason();
            tracing::warn!(%caller, reason, details = %PeerText(&why), suppressed, "rejected an xDS stream");
        }
        denial.status()
    }
}

/// Workloads in log lines.
fn names(workloads: &[WorkloadIdentity]) -> String {
    let names: Vec<String> = workloads.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// The proxy that the node ID names.
fn proxy_of(node: &core::Node) -> Result<ResourceName, Status> {
    let name: ResourceName = node.id.parse().map_err(|error: InvalidResourceName| {
        Status::invalid_argument(format!("node.id: {}", PeerText(&error.to_string())))
    })?;
    if name.kind == ProxyKind::VirtualRouter {
        let name = name.to_string();
        let message = format!(
            "node.id: `{}` is a virtual router; use the name of a virtual node or virtual gateway",
            PeerText(&name)
        );
        return Err(Status::invalid_argument(message));
    }
    Ok(name)
}

fn address(parts: &request::Parts) -> Option<SocketAddr> {
    let tcp = parts.extensions.get::<TcpConnectInfo>();
    let tls = parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    tcp.or_else(|| tls.map(TlsConnectInfo::get_ref))?
        .remote_addr()
}

fn client(
    proxy: &ResourceName,
    is_proven: bool,
    revocation: Option<Revocation>,
) -> IdentifiedClient {
    IdentifiedClient {
        view: proxy.to_string().into(),
        is_proven,
        revocation,
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "{}", PeerText(&proxy.to_string()))?,
            None => f.write_str("a client")?,
        }
        match self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
