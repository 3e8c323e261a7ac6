//! Authenticates xDS streams and authorizes each one for the proxy that its node ID names.
//!
//! In: the headers and the connection of a stream, and the `core.v3.Node` that the proxy sends. Out: the name of the
//! view that the stream may see and whether the proxy has proven its identity, or a gRPC status. The node ID alone
//! proves nothing; a token or a client certificate does, and is checked before the first message is read. Both checks
//! happen once, when a stream begins: an unreachable API server or an expired token never ends a stream.
//!
//! The gRPC status is the same for all causes of a kind, so that a caller learns nothing about other workloads. The
//! details are in the log, and the metric `xds_authentications` counts the outcomes.

mod certificate;
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
use evermesh_xds::{AuthDecision, Authenticate, Authorize, IdentifiedClient, PeerText};
use http::request;
use kube::Client;
use tokio::{
    sync::watch,
    time::{self, timeout_at},
};
use tonic::{
    Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use self::{
    certificate::CertificateNames,
    metrics::AuthenticationOutcome,
    review::{TokenReviewResult, TokenReviewer},
    token::bearer,
    waiting::{WAITING_LIMIT, WaitingStreams},
};
pub use self::{metrics::AuthenticationMetrics, tls::XdsTls};
use crate::{
    args::{XdsArgs, XdsAuthentication},
    engine::EngineSnapshot,
    throttle::LogThrottle,
};

/// Longest time that a stream waits until the watches deliver its pod, and its virtual node or gateway.
const WATCH_DELAY_LIMIT: Duration = Duration::from_secs(5);

/// The permissions of a file for others than its user and group.
const OTHERS: u32 = 0o007;

/// Newest snapshot of the engine, which tells which pods a virtual node or gateway selects.
type SnapshotReceiver = watch::Receiver<Arc<EngineSnapshot>>;

/// Authenticates streams by one method and counts the outcomes.
pub struct Authenticator {
    method: Method,
    metrics: AuthenticationMetrics,
    denial_log: LogThrottle,
    waiting: Arc<WaitingStreams>,
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

/// Reason why a stream is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamDenial {
    NoCredentials,
    BadCredentials,
    /// The workload is authenticated, but is not a pod of the virtual node or gateway.
    IdentityMismatch(IdentityMismatch),
    /// The certificate names other proxies only.
    OtherProxy,
    /// The credentials cannot be verified: the API server or the token file is not available.
    Unchecked,
    /// Too many token reviews are pending.
    Busy,
    /// Too many streams of the workload wait for its pod, or for the virtual node or gateway.
    Waiting,
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
        cluster: Option<(Client, SnapshotReceiver)>,
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
                let (client, snapshots) = cluster.context(
                    "--xds-authentication=kubernetes needs --kubernetes: tokens are verified by the API server",
                )?;
                let audience = args.xds_token_audience.clone();
                Method::Kubernetes {
                    reviewer: TokenReviewer::new(
                        audience.clone(),
                        review::with_api_server(client, audience),
                    ),
                    snapshots,
                    permissive: selected == XdsAuthentication::KubernetesPermissive,
                }
            }
            XdsAuthentication::Certificate => {
                Method::Certificate(cluster.map(|(_, snapshots)| snapshots))
            }
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
        })
    }

    /// Callback with which the xDS server authenticates each stream.
    pub fn hook(self: Arc<Self>) -> Authenticate {
        Arc::new(move |parts| self.authenticate(parts))
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
                    let review = reviewer.review(token);
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
                                let why = "too many token reviews are pending".to_owned();
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
            Proof::NotRequired => Ok(client(&proxy, false)).into(),
            Proof::Socket { is_limited } => Ok(client(&proxy, is_limited)).into(),
            Proof::Token => {
                let by = AuthenticationOutcome::Token;
                self.conclude(proxy, address, Ok(()), by).into()
            }
            Proof::Anonymous => {
                let by = AuthenticationOutcome::Anonymous;
                self.conclude(proxy, address, Ok(()), by).into()
            }
            Proof::Pod(pod, snapshots) => {
                let by = AuthenticationOutcome::Token;
                self.await_watches(proxy, address, snapshots, vec![pod], by)
            }
            Proof::Certificate(names, snapshots) => {
                let by = AuthenticationOutcome::Certificate;
                if names.proxies.contains(&proxy) {
                    return self.conclude(proxy, address, Ok(()), by).into();
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
            let decision = may_act_as(snapshots, &workloads, &proxy, &self.waiting).await;
            self.conclude(proxy, address, decision, by)
        }))
    }

    /// Counts a decision, and converts it into the client or the gRPC status.
    fn conclude(
        &self,
        proxy: ResourceName,
        address: Option<SocketAddr>,
        decision: Result<(), Denied>,
        by: AuthenticationOutcome,
    ) -> Result<IdentifiedClient, Status> {
        match decision {
            Ok(()) => {
                self.metrics.count(by);
                Ok(client(&proxy, by != AuthenticationOutcome::Anonymous))
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

/// Checks that one of the workloads is a pod of the proxy's virtual node or gateway. Waits up to [`WATCH_DELAY_LIMIT`]
/// for a pod, node or gateway that the watches have not delivered yet.
async fn may_act_as(
    mut snapshots: SnapshotReceiver,
    workloads: &[WorkloadIdentity],
    proxy: &ResourceName,
    waiting: &Arc<WaitingStreams>,
) -> Result<(), Denied> {
    let mut deadline = time::Instant::now() + WATCH_DELAY_LIMIT;
    let mut place = None;
    loop {
        let now = Arc::clone(&snapshots.borrow_and_update());
        let mut mismatch = IdentityMismatch::PodNotFound;
        for workload in workloads {
            match now.workloads.may_act_as(&now.graph, workload, proxy) {
                Ok(()) => return Ok(()),
                Err(other) => mismatch = other,
            }
        }
        let reject = || {
            let names: Vec<String> = workloads.iter().map(ToString::to_string).collect();
            Err((StreamDenial::IdentityMismatch(mismatch), names.join(", ")))
        };
        if !now.waiting_for.is_empty() {
            // Objects are missing until the first read of all sources, so no stream is rejected before it.
            deadline = time::Instant::now() + WATCH_DELAY_LIMIT;
        } else if mismatch == IdentityMismatch::NotSelected || time::Instant::now() >= deadline {
            return reject();
        }
        drop(now);
        if place.is_none() {
            place = Some(
                waiting
                    .enter(workloads)
                    .map_err(|why| (StreamDenial::Waiting, why))?,
            );
        }
        if let Ok(Err(_engine_ended)) = timeout_at(deadline, snapshots.changed()).await {
            return reject();
        }
    }
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

fn client(proxy: &ResourceName, is_proven: bool) -> IdentifiedClient {
    IdentifiedClient {
        view: proxy.to_string().into(),
        is_proven,
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

impl StreamDenial {
    /// The gRPC status for the caller.
    fn status(self) -> Status {
        match self {
            Self::NoCredentials => Status::unauthenticated(
                "unauthenticated: send a bearer token or a client certificate",
            ),
            Self::BadCredentials => {
                Status::unauthenticated("unauthenticated: the token is not valid for this server")
            }
            Self::IdentityMismatch(_) | Self::OtherProxy => Status::permission_denied(
                "the credentials are not valid for the proxy that node.id names",
            ),
            Self::Unchecked | Self::Busy => {
                Status::unavailable("the credentials cannot be verified now; try again later")
            }
            Self::Waiting => Status::resource_exhausted(format!(
                "{WAITING_LIMIT} streams of the workload already wait for its pod, or for the proxy that node.id names: keep one stream open"
            )),
        }
    }

    /// The reason in log lines.
    const fn reason(self) -> &'static str {
        match self {
            Self::IdentityMismatch(IdentityMismatch::PodNotFound) => "pod_not_found",
            Self::IdentityMismatch(IdentityMismatch::ProxyNotFound) => "proxy_not_found",
            Self::IdentityMismatch(IdentityMismatch::NotSelected) => "not_selected",
            Self::NoCredentials
            | Self::BadCredentials
            | Self::OtherProxy
            | Self::Unchecked
            | Self::Busy => self.outcome().as_str(),
            Self::Waiting => "waiting",
        }
    }

    const fn outcome(self) -> AuthenticationOutcome {
        match self {
            Self::NoCredentials => AuthenticationOutcome::NoCredentials,
            Self::BadCredentials => AuthenticationOutcome::BadCredentials,
            Self::IdentityMismatch(_) | Self::OtherProxy => AuthenticationOutcome::WrongProxy,
            Self::Unchecked => AuthenticationOutcome::Unchecked,
            Self::Busy | Self::Waiting => AuthenticationOutcome::Busy,
        }
    }
}

#[cfg(test)]
mod tests;
