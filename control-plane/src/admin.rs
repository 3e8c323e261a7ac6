//! The admin interface: probes, metrics and what an operator asks when something is odd.
//!
//! Reads what the engine published and what the xDS server keeps; the leader also hears the other replicas here. Must
//! not change anything that is served. What `/debug` shows, the whole configuration, must not be reachable from outside:
//! those who have to come from there, the kubelet, Prometheus and replicas, have a listener without it.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use evermesh_proto::{ResourceKey, Resource, ResourceType, ProxyView, json};
use evermesh_xds::{ProxyRegistry, ProxyStatus, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    changes::ChangeLog, effect::peers::PeerServer, engine::EngineSnapshot, metrics::ProcessMetrics,
    source::kubernetes::ApiServerHealth, webhook::ServingCertificate,
};

/// What the pages read.
#[derive(Clone)]
pub struct AdminState {
    /// The engine's newest turn.
    pub published: watch::Receiver<Arc<EngineSnapshot>>,
    /// What is served.
    pub store: Arc<Store>,
    /// Who is connected.
    pub registry: Arc<ProxyRegistry>,
    /// How long changes took.
    pub changes: Arc<ChangeLog>,
    /// The metric families.
    pub metrics: Arc<ProcessMetrics>,
    /// Whether the API server answers, if objects come from one.
    pub reachable: Option<Arc<ApiServerHealth>>,
    /// The webhooks' certificate, if webhooks are served.
    pub certificates: Option<Arc<ServingCertificate>>,
    /// Cancelled when nobody is to be sent here any more.
    pub leaving: CancellationToken,
    /// Where other replicas tell what their proxies accept, if there may be any.
    pub(crate) ear: Option<PeerServer>,
}

/// Serves the admin interface until cancelled, and what others may see of it at `metrics`.
///
/// # Errors
/// A listener failed.
pub async fn serve(
    admin: TcpListener,
    metrics: Option<TcpListener>,
    sources: AdminState,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let public = async {
        let Some(metrics) = metrics else {
            return Ok(());
        };
        axum::serve(metrics, public(sources.clone()))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .await
    };
    let private = axum::serve(admin, private(sources.clone()))
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::try_join!(public, private.into_future()).map(drop)
}

/// What anybody may see, and what replicas tell.
fn public(sources: AdminState) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/replicas/{leader}/{replica}", post(replica))
        .with_state(sources)
}

/// The same and what is served.
fn private(sources: AdminState) -> Router {
    let debug = Router::new()
        .route("/debug/graph", get(graph))
        .route("/debug/problems", get(problems))
        .route("/debug/resources", get(resources))
        .route("/debug/proxies", get(proxies))
        .route("/debug/changes", get(changes))
        .with_state(sources.clone());
    public(sources).merge(debug)
}

/// 200 once the first full turn is served and webhooks have a certificate, 503 with what is missing before, and 503 again
/// when it is about to end.
async fn readyz(State(sources): State<AdminState>) -> Response {
    if sources.leaving.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    let mut waiting_for = sources.published.borrow().waiting_for.clone();
    if sources.certificates.is_some_and(|it| !it.is_loaded()) {
        waiting_for.push("the certificate of the webhooks".to_owned());
    }
    if waiting_for.is_empty() {
        let silent_for = sources.reachable.and_then(|it| it.silent_for());
        silent_for
            .map_or_else(|| "ok\n".to_owned(), |silent_for| format!("ok, but the API server has not answered for {} s: what it last said is served\n", silent_for.as_secs()))
            .into_response()
    } else {
        let text = format!("waiting for {}\n", waiting_for.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics(State(sources): State<AdminState>) -> Response {
    match sources.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, ProcessMetrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => failed(error),
    }
}

/// Another replica tells this one, which leads, what its proxies accept.
async fn replica(
    State(sources): State<AdminState>,
    Path((leader, replica)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match sources.ear {
        Some(ear) => ear.listen(&leader, replica, &headers, body).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The resolved graph: meshes, nodes, services, routers, gateways and endpoints.
async fn graph(State(sources): State<AdminState>) -> Response {
    let published = Arc::clone(&sources.published.borrow());
    off_the_worker(move || {
        let mut graph = serde_json::to_value(&*published.graph)?;
        for (node, endpoints) in &published.endpoints {
            graph["endpoints"][node.to_string()] = serde_json::to_value(&**endpoints)?;
        }
        Ok(graph)
    })
    .await
}

/// Everything found wrong in what was read.
async fn problems(State(sources): State<AdminState>) -> Response {
    let published = Arc::clone(&sources.published.borrow());
    off_the_worker(move || Ok(serde_json::to_value(&*published.problems)?)).await
}

/// `?proxy=mesh/M/virtualNode/N` narrows to what one proxy may see, and shows the contents;
/// `&type=route` narrows to one type.
#[derive(Debug, Deserialize)]
struct ResourceFilter {
    proxy: Option<String>,
    r#type: Option<String>,
}

async fn resources(
    State(sources): State<AdminState>,
    Query(narrow): Query<ResourceFilter>,
) -> Response {
    let wanted = narrow.r#type.as_deref();
    let kinds: Vec<ResourceType> = ResourceType::ALL
        .into_iter()
        .filter(|kind| wanted.is_none_or(|word| kind.as_str() == word))
        .collect();
    if kinds.is_empty() {
        let text = "type is none of cluster, endpoint, listener, route, secret\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let Some(proxy) = narrow.proxy.as_deref() else {
        return off_the_worker(move || Ok(overview(&sources.store.views(), &kinds))).await;
    };
    let Some(view) = sources.store.view(proxy) else {
        let text = format!(
            "nothing is served to `{proxy}`; /debug/resources lists the proxies that are known\n"
        );
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    off_the_worker(move || {
        kinds
            .iter()
            .flat_map(|kind| view.of_type(*kind))
            .filter_map(|key| sources.store.get(key).map(|resource| shown(key, &resource)))
            .collect()
    })
    .await
}

/// How many resources of each type each proxy may see.
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

/// One resource with its content as protobuf JSON.
fn shown(key: &ResourceKey, resource: &Resource) -> anyhow::Result<Value> {
    Ok(json!({
        "type": key.kind.as_str(),
        "name": key.name,
        "shared": key.scope.is_none(),
        "version": resource.version.to_string(),
        "bytes": resource.body.len(),
        "origins": resource.origins,
        "content": json::encoded_to_json(resource.kind.message_name(), &resource.body)?,
    }))
}

/// Connected proxies: who they are, what each was sent, ACKed and refused.
async fn proxies(State(sources): State<AdminState>) -> Response {
    off_the_worker(move || Ok(sources.registry.proxies().iter().map(proxy).collect())).await
}

fn proxy(proxy: &ProxyStatus) -> Value {
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
        "flavour": format!("{:?}", proxy.variant).to_lowercase(),
        "aggregated": proxy.aggregated,
        "since_ms": since_1970_ms(proxy.since),
        "resources": resources,
    })
}

fn since_1970_ms(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}

/// The newest changes and how long each took to the last ACK.
async fn changes(State(sources): State<AdminState>) -> Response {
    Json(sources.changes.list()).into_response()
}

/// Builds a page where it cannot hold up anything else.
async fn off_the_worker(page: impl FnOnce() -> anyhow::Result<Value> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(page).await {
        Ok(Ok(page)) => Json(page).into_response(),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    }
}

fn failed(error: impl std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}
