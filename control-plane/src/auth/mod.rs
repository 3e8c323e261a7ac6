//! Who is calling over xDS, and whether it may be the proxy that it says it is.
//!
//! In: a stream's headers, its connection and the node it describes itself as. Out: the name of its view, or a status.
//! A node's description is a wish and never an identity; what proves one is a token or a certificate. That is looked at
//! once, when a stream begins: later an API server that is gone, or a token that expires, ends no stream.
//!
//! What a caller hears is short and the same for trust_all; the reason is in the log, and counted.
//!
//! Must not know what is served.

mod certificate;
mod metrics;
mod review;
mod tls;
mod token;

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use evermesh_ingest::identity::{IdentityMismatch, WorkloadIdentity};
use evermesh_model::{ProxyKind, ResourceName, name::InvalidResourceName};
use evermesh_proto::core;
use evermesh_xds::{Identify, Identity};
use http::request;
use kube::Client;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, timeout_at},
};
use tonic::{
    Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

pub use self::{metrics::AuthenticationMetrics, tls::XdsTls};
use self::{
    metrics::AuthenticationOutcome,
    review::{TokenReviewResult, TokenReviewer},
    token::bearer,
};
use crate::{
    args::{XdsArgs, XdsAuthentication},
    engine::EngineSnapshot,
};

/// How long a stream may wait for the watches to bring its pod, or its node.
const PATIENCE: Duration = Duration::from_secs(5);

/// Refusals logged: one in this time, with how many there were.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How much of what a caller says of itself is logged.
const LOGGED: usize = 200;

/// The newest turn, by which workloads are compared with nodes.
type Newest = watch::Receiver<Arc<EngineSnapshot>>;

/// Decides who is calling.
pub struct Authenticator {
    method: Method,
    metrics: AuthenticationMetrics,
    refusals: Mutex<Refusals>,
}

enum Method {
    None,
    Token(PathBuf),
    Kubernetes {
        reviews: Arc<TokenReviewer>,
        newest: Newest,
        permissive: bool,
    },
    /// The newest turn of a cluster, if there is one.
    Certificate(Option<Newest>),
}

/// Why a stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamDenial {
    /// It shows nothing.
    NoCredentials,
    /// What it shows is not accepted.
    BadCredentials,
    /// It is somebody, but not who it says.
    IdentityMismatch(IdentityMismatch),
    /// It is somebody, but another one.
    AnotherProxy,
    /// What it shows cannot be checked now.
    Unchecked,
    /// What it shows cannot be checked yet: too many others are before it.
    Busy,
}

/// What was refused since the last line of the log.
#[derive(Default)]
struct Refusals {
    last: Option<Instant>,
    more: u64,
}

/// Who is calling, as far as the log is concerned.
struct Caller {
    proxy: ResourceName,
    address: Option<SocketAddr>,
}

impl Authenticator {
    /// The method that is asked for; `address` is where xDS is served, `cluster` is there when there is one.
    pub fn new(
        args: &XdsArgs,
        address: SocketAddr,
        cluster: Option<(Client, Newest)>,
        metrics: AuthenticationMetrics,
    ) -> anyhow::Result<Arc<Self>> {
        let asked = match args.xds_authentication {
            Some(asked) => asked,
            None if address.ip().is_loopback() => XdsAuthentication::None,
            None => bail!(
                "--xds-address {address} can be reached by others: say with --xds-authentication how proxies show who they are (`none`: not at all)"
            ),
        };
        let method = match asked {
            XdsAuthentication::None => Method::None,
            XdsAuthentication::Token => {
                let file = args.xds_token_file.clone();
                let file = file.context("--xds-token-file is needed")?;
                token::read(&file)?;
                Method::Token(file)
            }
            XdsAuthentication::Kubernetes | XdsAuthentication::KubernetesPermissive => {
                let (client, newest) = cluster.context(
                    "--xds-authentication: there is no API server to ask without --kubernetes",
                )?;
                let audience = args.xds_token_audience.clone();
                Method::Kubernetes {
                    reviews: TokenReviewer::new(audience.clone(), review::ask(client, audience)),
                    newest,
                    permissive: asked == XdsAuthentication::KubernetesPermissive,
                }
            }
            XdsAuthentication::Certificate => {
                Method::Certificate(cluster.map(|(_, newest)| newest))
            }
        };
        Ok(Self::with(method, metrics))
    }

    /// Everybody is believed: where who may connect is somebody else's business.
    pub fn trust_all() -> Arc<Self> {
        Self::with(Method::None, AuthenticationMetrics::default())
    }

    fn with(method: Method, metrics: AuthenticationMetrics) -> Arc<Self> {
        Arc::new(Self {
            method,
            metrics,
            refusals: Mutex::default(),
        })
    }

    /// The hook of the xDS server.
    pub fn hook(self: Arc<Self>) -> Identify {
        Arc::new(move |node, parts| self.identify(node, parts))
    }

    fn identify(self: &Arc<Self>, node: &core::Node, parts: &request::Parts) -> Identity {
        let proxy = match named(node) {
            Ok(proxy) => proxy,
            Err(status) => return Err(status).into(),
        };
        let address = address(parts);
        let caller = Caller { proxy, address };
        match &self.method {
            Method::None => Ok(caller.view()).into(),
            Method::Token(file) => {
                let decision = token::check(file, bearer(&parts.headers));
                self.decided(&caller, decision, AuthenticationOutcome::Token)
                    .into()
            }
            Method::Kubernetes {
                reviews,
                newest,
                permissive,
            } => match bearer(&parts.headers) {
                Err(_) if *permissive => self
                    .decided(&caller, Ok(()), AuthenticationOutcome::Anonymous)
                    .into(),
                Err(why) => {
                    let decision = Err((StreamDenial::NoCredentials, why.to_owned()));
                    self.decided(&caller, decision, AuthenticationOutcome::Token)
                        .into()
                }
                Ok(token) => {
                    let answer = reviews.of(token);
                    let (this, newest) = (Arc::clone(self), newest.clone());
                    Identity::Later(Box::pin(async move {
                        let decision = match answer.await {
                            TokenReviewResult::Is(workload) => {
                                fits(newest, &[workload], &caller.proxy).await
                            }
                            TokenReviewResult::Refused(why) => {
                                Err((StreamDenial::BadCredentials, why.to_string()))
                            }
                            TokenReviewResult::Unreachable(why) => {
                                Err((StreamDenial::Unchecked, why.to_string()))
                            }
                            TokenReviewResult::Busy => {
                                let why = "too many tokens wait to be checked".to_owned();
                                Err((StreamDenial::Busy, why))
                            }
                        };
                        this.decided(&caller, decision, AuthenticationOutcome::Token)
                    }))
                }
            },
            Method::Certificate(newest) => {
                let names = certificate::names(parts);
                if names.proxies.contains(&caller.proxy) {
                    return self
                        .decided(&caller, Ok(()), AuthenticationOutcome::Certificate)
                        .into();
                }
                let Some(newest) = newest.clone().filter(|_| !names.workloads.is_empty()) else {
                    let decision = Err((StreamDenial::AnotherProxy, names.to_string()));
                    return self
                        .decided(&caller, decision, AuthenticationOutcome::Certificate)
                        .into();
                };
                let this = Arc::clone(self);
                Identity::Later(Box::pin(async move {
                    let decision = fits(newest, &names.workloads, &caller.proxy).await;
                    this.decided(&caller, decision, AuthenticationOutcome::Certificate)
                }))
            }
        }
    }

    /// Counts and logs a decision, and says it as the caller may hear it.
    fn decided(
        &self,
        caller: &Caller,
        decision: Result<(), (StreamDenial, String)>,
        by: AuthenticationOutcome,
    ) -> Result<Arc<str>, Status> {
        let Err((denial, why)) = decision else {
            self.metrics.count(by);
            return Ok(caller.view());
        };
        self.metrics.count(denial.outcome());
        let mut refusals = self.refusals.lock();
        let now = Instant::now();
        let is_quiet = |last: Instant| now.duration_since(last) >= LOG_INTERVAL;
        if refusals.last.is_none_or(is_quiet) {
            let more = std::mem::take(&mut refusals.more);
            refusals.last = Some(now);
            drop(refusals);
            tracing::warn!(%caller, ?denial, why = short(&why), more, "refused a proxy");
        } else {
            refusals.more += 1;
        }
        Err(denial.status())
    }
}

/// Whether one of these workloads may be the proxy, waiting a moment for what may be on its way.
async fn fits(
    mut newest: Newest,
    workloads: &[WorkloadIdentity],
    proxy: &ResourceName,
) -> Result<(), (StreamDenial, String)> {
    let mut end = time::Instant::now() + PATIENCE;
    loop {
        let now = Arc::clone(&newest.borrow_and_update());
        let mut unfit = IdentityMismatch::PodNotFound;
        for workload in workloads {
            match now.workloads.may_act_as(&now.graph, workload, proxy) {
                Ok(()) => return Ok(()),
                Err(other) => unfit = other,
            }
        }
        let refused = || {
            let who: Vec<String> = workloads.iter().map(ToString::to_string).collect();
            Err((StreamDenial::IdentityMismatch(unfit), who.join(", ")))
        };
        if !now.waiting_for.is_empty() {
            // Nothing is served yet, and so nobody is refused.
            end = time::Instant::now() + PATIENCE;
        } else if unfit == IdentityMismatch::NotSelected || time::Instant::now() >= end {
            return refused();
        }
        drop(now);
        if let Ok(Err(_gone)) = timeout_at(end, newest.changed()).await {
            return refused();
        }
    }
}

/// The proxy that a node says it is.
fn named(node: &core::Node) -> Result<ResourceName, Status> {
    let name: ResourceName = node.id.parse().map_err(|error: InvalidResourceName| {
        Status::invalid_argument(format!("node.id: {}", short(&error.to_string())))
    })?;
    if name.kind == ProxyKind::VirtualRouter {
        let name = name.to_string();
        let message = format!("node.id: {} is not a proxy", short(&name));
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

/// The beginning of a text that may be as long as a caller likes.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(LOGGED).map(|(end, _)| end);
    end.map_or(text, |end| &text[..end])
}

impl Caller {
    fn view(&self) -> Arc<str> {
        self.proxy.to_string().into()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(short(&self.proxy.to_string()))?;
        match self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

impl StreamDenial {
    /// What the caller hears.
    fn status(self) -> Status {
        match self {
            Self::NoCredentials => Status::unauthenticated("show who you are"),
            Self::BadCredentials => Status::unauthenticated("what you show is not accepted"),
            Self::IdentityMismatch(_) | Self::AnotherProxy => {
                Status::permission_denied("you may not be this proxy")
            }
            Self::Unchecked | Self::Busy => {
                Status::unavailable("what you show cannot be checked now")
            }
        }
    }

    const fn outcome(self) -> AuthenticationOutcome {
        match self {
            Self::NoCredentials => AuthenticationOutcome::NoCredentials,
            Self::BadCredentials => AuthenticationOutcome::BadCredentials,
            Self::IdentityMismatch(_) | Self::AnotherProxy => AuthenticationOutcome::WrongProxy,
            Self::Unchecked => AuthenticationOutcome::Unchecked,
            Self::Busy => AuthenticationOutcome::Busy,
        }
    }
}

#[cfg(test)]
mod tests;
