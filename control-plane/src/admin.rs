//! Admin pages over HTTP: probes, metrics, the debug pages and the reports of other replicas.
//!
//! In: snapshots of the engine, the store and the registry of the xDS server. Out: pages; no page changes what is
//! served.
//!
//! | path | on `--admin-address` | on `--metrics-address` |
//! |---|---|---|
//! | `/livez`, `/readyz`, `/metrics`, `/replicas` | yes | yes |
//! | `/debug/…` | yes, for requests to an address, `localhost` or a name of `--admin-host` | no, because it shows the whole configuration |

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType, json};
use evermesh_xds::{ConnectionLimit, PeerText, ProxyRegistry, ProxyStatus, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    changes::ChangeLog,
    effect::peers::PeerServer,
    engine::EngineSnapshot,
    http_server,
    liveness::{HungPart, Liveness},
    metrics::ProcessMetrics,
    source::kubernetes::ApiServerHealth,
    webhook::ServingCertificate,
};

/// Data of the pages.
#[derive(Clone)]
pub struct AdminState {
    /// Newest snapshot of the engine.
    pub published: watch::Receiver<Arc<EngineSnapshot>>,
    /// Resources that are served.
    pub store: Arc<Store>,
    /// Connected proxies.
    pub registry: Arc<ProxyRegistry>,
    /// Newest changes and their delivery times.
    pub changes: Arc<ChangeLog>,
    pub metrics: Arc<ProcessMetrics>,
    /// Health of the API server; `None` with `--config`.
    pub reachable: Option<Arc<ApiServerHealth>>,
    /// The flag by which proxies without credentials are served, for `/readyz`.
    pub open_access: Option<&'static str>,
    /// Certificate of the webhooks, if they are served.
    pub certificates: Option<Arc<ServingCertificate>>,
    /// Cancelled when this replica is about to end, so that `/readyz` fails.
    pub leaving: CancellationToken,
    /// The parts of the process that `/livez` watches.
    pub liveness: Arc<Liveness>,
    /// Host names under which the debug pages may be requested, besides `localhost`.
    pub hosts: Arc<[String]>,
    /// Receiver of the reports of other replicas; `None` without leader election.
    pub(crate) peer_server: Option<PeerServer>,
}

/// Longest time that open requests may take after the shutdown begins.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// A listener and its places for connections.
pub(crate) type PageListener = (TcpListener, Arc<ConnectionLimit>);

/// Serves all pages on `admin` and the public ones on `metrics`, until `shutdown`.
pub(crate) async fn serve(
    admin: PageListener,
    metrics: Option<PageListener>,
    state: AdminState,
    shutdown: CancellationToken,
) {
    let serve = async |(listener, limit): PageListener, router: Router| {
        let incoming = limit.connections(listener);
        http_server::serve(
            incoming,
            router,
            shutdown.clone(),
            shutdown.clone(),
            SHUTDOWN_LIMIT,
        )
        .await;
    };
    let public = async {
        if let Some(metrics) = metrics {
            serve(metrics, public(state.clone())).await;
        }
    };
    tokio::join!(public, serve(admin, private(state.clone())));
}

/// Pages without the configuration.
fn public(state: AdminState) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/replicas/{leader}/{replica}", post(replica))
        .with_state(state)
}

/// All pages.
fn private(state: AdminState) -> Router {
    let debug = Router::new()
        .route("/debug/graph", get(graph))
        .route("/debug/problems", get(problems))
        .route("/debug/resources", get(resources))
        .route("/debug/proxies", get(proxies))
        .route("/debug/changes", get(changes))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state.hosts),
            reject_foreign_hosts,
        ))
        .with_state(state.clone());
    public(state).merge(debug)
}

/// Answers 403 to a request under a foreign name. A web page in an operator's browser may let a name of its own resolve to
/// this address (DNS rebinding), and the browser would then let the page read the answer. An address cannot be rebound.
async fn reject_foreign_hosts(
    State(hosts): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(header::HOST);
    let header = header.and_then(|it| it.to_str().ok()?.parse::<Authority>().ok());
    let authority = request.uri().authority().or(header.as_ref());
    let host = authority.map_or("", Authority::host);
    if is_own_host(host, &hosts) {
        return next.run(request).await;
    }
    let text = format!(
        "the host `{}` is not a name of this server; use an address, localhost, or a name of --admin-host\n",
        PeerText(host)
    );
    (StatusCode::FORBIDDEN, text).into_response()
}

fn is_own_host(host: &str, own: &[String]) -> bool {
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_name = |name: &String| host.eq_ignore_ascii_case(name);
    address.unwrap_or(host).parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || own.iter().any(is_name)
}

/// 200 while every part of the process makes progress or waits for work, else 503 with the parts that hang.
async fn livez(State(state): State<AdminState>) -> Response {
    let hung = state.liveness.hung_parts(Instant::now());
    if hung.is_empty() {
        return "ok\n".into_response();
    }
    for HungPart { part, busy_for } in &hung {
        let seconds = busy_for.as_secs();
        tracing::error!(part, seconds, "a part of the process hangs");
    }
    let lines: Vec<String> = hung.iter().map(ToString::to_string).collect();
    let text = lines.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// 200 once the first complete rebuild is served and the webhooks have a certificate. Before, and once the shutdown has
/// begun, 503 with the reason.
async fn readyz(State(state): State<AdminState>) -> Response {
    if state.leaving.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    let mut waiting_for = state.published.borrow().waiting_for.clone();
    if state.certificates.is_some_and(|it| !it.is_loaded()) {
        waiting_for.push("the certificate of the webhooks".to_owned());
    }
    if waiting_for.is_empty() {
        let silent_for = state.reachable.and_then(|it| it.silent_for());
        ready_text(silent_for, state.open_access).into_response()
    } else {
        let text = format!("waiting for {}\n", waiting_for.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

/// The page of a ready replica, with what an operator should know.
fn ready_text(silent_for: Option<Duration>, open_access: Option<&str>) -> String {
    let silence = silent_for.map(|it| {
        format!(
            "the API server has not answered for {} s; serving the last known objects",
            it.as_secs()
        )
    });
    let open = open_access.map(|flag| {
        format!("{flag} serves a proxy without credentials as any proxy that it claims to be")
    });
    let caveats: Vec<String> = silence.into_iter().chain(open).collect();
    if caveats.is_empty() {
        return "ok\n".to_owned();
    }
    format!("ok, but {}\n", caveats.join(", and "))
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match state.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, ProcessMetrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => internal_error(error),
    }
}

/// Receives the report of another replica, if this one is the leader.
async fn replica(
    State(state): State<AdminState>,
    Path((leader, replica)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match state.peer_server {
        Some(server) => server.receive(&leader, replica, &headers, body).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The graph with the newest endpoints.
async fn graph(State(state): State<AdminState>) -> Response {
    let published = Arc::clone(&state.published.borrow());
    build_page(move || {
        let mut graph = serde_json::to_value(&*published.graph)?;
        for (node, endpoints) in &published.endpoints {
            graph["endpoints"][node.to_string()] = serde_json::to_value(&**endpoints)?;
        }
        Ok(graph)
    })
    .await
}

/// Problems of all objects.
async fn problems(State(state): State<AdminState>) -> Response {
    let published = Arc::clone(&state.published.borrow());
    build_page(move || Ok(serde_json::to_value(&*published.problems)?)).await
}

/// Query of `/debug/resources`: `proxy=mesh/M/virtualNode/N` shows the contents of the resources of one proxy,
/// `type=route` selects one type.
#[derive(Debug, Deserialize)]
struct ResourceFilter {
    proxy: Option<String>,
    r#type: Option<String>,
}

async fn resources(
    State(state): State<AdminState>,
    Query(filter): Query<ResourceFilter>,
) -> Response {
    let wanted = filter.r#type.as_deref();
    let kinds: Vec<ResourceType> = ResourceType::ALL
        .into_iter()
        .filter(|kind| wanted.is_none_or(|word| kind.as_str() == word))
        .collect();
    if kinds.is_empty() {
        let text = "the query parameter `type` must be one of cluster, endpoint, listener, route, secret\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let Some(proxy) = filter.proxy.as_deref() else {
        return build_page(move || Ok(overview(&state.store.views(), &kinds))).await;
    };
    let Some(view) = state.store.view(proxy) else {
        let text =
            format!("no proxy `{proxy}` is known; /debug/resources lists the known proxies\n");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    build_page(move || {
        kinds
            .iter()
            .flat_map(|kind| view.of_type(*kind))
            .filter_map(|key| {
                state
                    .store
                    .get(key)
                    .map(|resource| resource_json(key, &resource))
            })
            .collect()
    })
    .await
}

/// Number of resources of each type in each view.
fn overview(views: &[(Arc<str>, Arc<ProxyView>)], kinds: &[ResourceType]) -> Value {
    views
        .iter()
        .map(|(name, view)| {
            let counts: BTreeMap<&str, usize> = kinds
                .iter()
                .map(|kind| (kind.as_str(), view.of_type(*kind).len()))
                .collect();
            (name.to_string(), json!(counts))
        })
        .collect()
}

/// One resource with its content as protobuf JSON. Secrets have no content here.
fn resource_json(key: &ResourceKey, resource: &Resource) -> anyhow::Result<Value> {
    let content = match key.kind {
        ResourceType::Secret => Value::Null,
        kind => json::encoded_to_json(kind.message_name(), &resource.body)?,
    };
    Ok(json!({
        "type": key.kind.as_str(),
        "name": key.name,
        "shared": key.scope.is_none(),
        "version": resource.version.to_string(),
        "bytes": resource.body.len(),
        "origins": resource.origins,
        "content": content,
    }))
}

/// Connected proxies with the versions that each one was sent, has ACKed and has rejected, and with the Secrets that it
/// does not get.
async fn proxies(State(state): State<AdminState>) -> Response {
    build_page(move || Ok(state.registry.proxies().iter().map(proxy_json).collect())).await
}

fn proxy_json(proxy: &ProxyStatus) -> Value {
    let resources: Vec<Value> = proxy
        .resources
        .iter()
        .map(|resource| {
            json!({
                "type": resource.kind.as_str(),
                "name": resource.name,
                "sent": resource.sent.map(|version| version.to_string()),
                "acked": resource.acked.map(|version| version.to_string()),
                "rejected": resource.rejection.as_ref().map(|rejection| json!({
                    "version": rejection.version.to_string(),
                    "message": rejection.message,
                    "at_ms": since_1970_ms(rejection.at),
                })),
                "blocked_by": resource.blocked_by,
            })
        })
        .collect();
    json!({
        "id": proxy.id.to_string(),
        "proxy": proxy.view,
        "node_id": proxy.node_id,
        "node_cluster": proxy.node_cluster,
        "user_agent": proxy.user_agent,
        "peer": proxy.peer,
        "flavour": proxy.variant.as_str(),
        "aggregated": proxy.aggregated,
        "since_ms": since_1970_ms(proxy.since),
        "resources": resources,
        "withheld": proxy.withheld,
    })
}

fn since_1970_ms(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}

/// Newest changes, each with the time until its last ACK.
async fn changes(State(state): State<AdminState>) -> Response {
    Json(state.changes.list()).into_response()
}

/// Builds a large page on the blocking pool, so that it does not delay other tasks.
async fn build_page(page: impl FnOnce() -> anyhow::Result<Value> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(page).await {
        Ok(Ok(page)) => Json(page).into_response(),
        Ok(Err(error)) => internal_error(error),
        Err(error) => internal_error(error),
    }
}

fn internal_error(error: impl std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests;
