//! A Kubernetes API server in memory that misbehaves on command.
//!
//! It serves lists, watches, reads and writes of any kind, and `/version`, which is what a control plane without webhooks
//! requests. It accepts the tokens that [`FakeApiServer::token`] makes and rejects all others. It has no schemas,
//! permissions, selectors, pages or deletions; use [`kubernetes`](crate::kubernetes) for
//! tests that depend on one of these.
//!
//! A test reaches it over a socket ([`FakeApiServer::kubeconfig`]), or without one and then also with a paused clock
//! ([`FakeApiServer::client`]).

mod history;
mod review;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use self::history::{ApiPath, ObjectHistory};
use crate::tools;

type Behaviours = BTreeMap<String, ApiServerBehaviour>;
type ResponseBody = UnsyncBoxBody<Bytes, ClosedConnection>;

/// Treatment of requests and open watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ApiServerBehaviour {
    Healthy,
    /// Answers after this time.
    Slow(Duration),
    /// Answers nothing until the behaviour changes; then answers what was sent meanwhile, too.
    Silent,
    /// Answers nothing that it receives, not even later.
    Swallowing,
    /// Answers every request with this status.
    Refusing(StatusCode),
    /// Closes the connection of every request and watch.
    Closing,
    /// Is healthy, but ends every watch with the error 410, which asks for a new list.
    Expired,
    /// Is healthy, but ends every watch at once.
    EndingWatches,
}

/// Closes the connection instead of answering.
#[derive(Debug)]
pub struct ClosedConnection;

impl std::fmt::Display for ClosedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the fake API server closed the connection")
    }
}

impl std::error::Error for ClosedConnection {}

/// A fake API server; it ends with this handle.
#[derive(Debug)]
pub struct FakeApiServer {
    state: Arc<State>,
    /// The task that accepts connections, and the folder with the kubeconfig.
    socket: Option<(JoinHandle<()>, TempDir)>,
}

#[derive(Debug)]
struct State {
    /// Behaviour by prefix of the path; the longest prefix counts.
    behaviours: watch::Sender<Behaviours>,
    history: Mutex<ObjectHistory>,
    /// Revision of the newest object.
    revision: watch::Sender<u64>,
    requests: watch::Sender<BTreeMap<String, u64>>,
}

impl Default for FakeApiServer {
    /// A server without a socket.
    fn default() -> Self {
        let state = State {
            behaviours: watch::Sender::default(),
            history: Mutex::default(),
            revision: watch::Sender::new(0),
            requests: watch::Sender::default(),
        };
        Self {
            state: Arc::new(state),
            socket: None,
        }
    }
}

impl FakeApiServer {
    /// A server on loopback.
    pub async fn start() -> Result<Self> {
        let mut server = Self::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let dir = tools::scratch("fake-api-server")?;
        let kubeconfig = kubeconfig(listener.local_addr()?);
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string())?;
        let accepting = tokio::spawn(accept(listener, Arc::clone(&server.state)));
        server.socket = Some((accepting, dir));
        Ok(server)
    }

    /// The kubeconfig of a server with a socket.
    ///
    /// # Panics
    ///
    /// If the server has no socket.
    pub fn kubeconfig(&self) -> PathBuf {
        let (_, dir) = self.socket.as_ref().expect("a server with a socket");
        dir.path().join("kubeconfig")
    }

    /// A client that reaches the server without a socket.
    pub fn client(&self) -> kube::Client {
        let state = Arc::clone(&self.state);
        let service = tower::service_fn(move |request| answer(Arc::clone(&state), request));
        kube::Client::new(service, "default")
    }

    /// Changes the behaviour, also for open watches and requests that wait for an answer.
    pub fn switch(&self, behaviour: ApiServerBehaviour) {
        let behaviours = Behaviours::from([(String::new(), behaviour)]);
        self.state.behaviours.send_replace(behaviours);
    }

    /// Like [`Self::switch`], for requests whose path begins like this.
    pub fn switch_for(&self, path: &str, behaviour: ApiServerBehaviour) {
        self.state.behaviours.send_modify(|behaviours| {
            behaviours.insert(path.to_owned(), behaviour);
        });
    }

    /// Creates or replaces an object of the collection with this path, such as `/apis/apps/v1/namespaces/shop/deployments`.
    /// A new spec has a new generation.
    ///
    /// # Panics
    ///
    /// If the path is not that of a collection, or the object has an old `resourceVersion`.
    pub fn put(&self, collection: &str, object: Value) {
        let path = ApiPath::parse(collection).expect("the path of a collection");
        let written = self.state.write(|history| history.put(&path, object));
        written.expect("the newest resourceVersion or none");
    }

    /// The object with this path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.history().get(&ApiPath::parse(path)?)
    }

    /// A token of a pod for the audience `evermesh` that does not expire. `id` makes it differ from others of the pod.
    pub fn token(namespace: &str, pod: &str, uid: &str, id: &str) -> String {
        review::token(namespace, pod, uid, id)
    }

    /// Number of requests so far by method and path, as in `GET /version`. Those that start a watch have the method
    /// `WATCH`.
    pub fn requests(&self) -> watch::Receiver<BTreeMap<String, u64>> {
        self.state.requests.subscribe()
    }

    /// Number of requests so far whose method and path begin like this.
    pub fn count(&self, prefix: &str) -> u64 {
        let requests = self.state.requests.borrow();
        let matching = requests.iter().filter(|(key, _)| key.starts_with(prefix));
        matching.map(|(_, count)| count).sum()
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        if let Some((accepting, _)) = &self.socket {
            accepting.abort();
        }
    }
}

impl State {
    fn history(&self) -> MutexGuard<'_, ObjectHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the history and tells the watches.
    fn write<T>(&self, change: impl FnOnce(&mut ObjectHistory) -> T) -> T {
        let mut history = self.history();
        let result = change(&mut history);
        self.revision.send_replace(history.revision());
        result
    }
}

/// The behaviour for a path.
fn behaviour(behaviours: &Behaviours, path: &str) -> ApiServerBehaviour {
    behaviours
        .iter()
        .filter(|(prefix, _)| path.starts_with(*prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map_or(ApiServerBehaviour::Healthy, |(_, behaviour)| *behaviour)
}

fn kubeconfig(server: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "current-context": "fake",
    })
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(Arc::clone(&state), request));
            // Fails if the client has gone, or to close the connection.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer<B: Body>(
    state: Arc<State>,
    request: Request<B>,
) -> Result<Response<ResponseBody>, ClosedConnection> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_broken| ClosedConnection)?;
    let query = head.uri.query().unwrap_or_default();
    let mut parameters = query.split('&');
    let is_watch = parameters.clone().any(|it| it == "watch=true");
    let path = head.uri.path().to_owned();
    let method = if is_watch {
        "WATCH"
    } else {
        head.method.as_str()
    };
    let key = format!("{method} {path}");
    state
        .requests
        .send_modify(|requests| *requests.entry(key).or_default() += 1);

    let mut behaviours = state.behaviours.subscribe();
    let behaviours = behaviours.wait_for(|it| behaviour(it, &path) != ApiServerBehaviour::Silent);
    let now = behaviour(
        &*behaviours.await.map_err(|_ended| ClosedConnection)?,
        &path,
    );
    match now {
        ApiServerBehaviour::Healthy
        | ApiServerBehaviour::Expired
        | ApiServerBehaviour::EndingWatches
        | ApiServerBehaviour::Silent => {}
        ApiServerBehaviour::Swallowing => std::future::pending().await,
        ApiServerBehaviour::Slow(delay) => tokio::time::sleep(delay).await,
        ApiServerBehaviour::Refusing(status) => return Ok(refusal(status, "refused by command")),
        ApiServerBehaviour::Closing => return Err(ClosedConnection),
    }
    if is_watch {
        let since = parameters.find_map(|it| it.strip_prefix("resourceVersion="));
        let since = since.and_then(|it| it.parse().ok()).unwrap_or_default();
        return Ok(match ApiPath::parse(&path) {
            Some(target) => Response::new(events(state, path, target, since)),
            None => refusal(StatusCode::NOT_FOUND, "not a collection"),
        });
    }
    Ok(respond(&state, &head.method, &path, &body.to_bytes()))
}

/// The response to a request that is not a watch.
fn respond(state: &State, method: &Method, path: &str, body: &[u8]) -> Response<ResponseBody> {
    if path == "/version" {
        let fields = [
            "major",
            "minor",
            "gitVersion",
            "gitCommit",
            "gitTreeState",
            "buildDate",
            "goVersion",
            "compiler",
            "platform",
        ];
        let version: BTreeMap<_, _> = fields.map(|field| (field, "1")).into();
        return success(&json!(version));
    }
    let Some(target) = ApiPath::parse(path) else {
        return refusal(StatusCode::NOT_FOUND, "not a path of this API server");
    };
    if target.is_token_review() {
        return success(&review::answer(body));
    }
    let result = if method == Method::GET {
        let history = state.history();
        match &target.name {
            None => Ok(history.list(&target)),
            Some(_) => history.get(&target).ok_or(StatusCode::NOT_FOUND),
        }
    } else {
        match serde_json::from_slice(body) {
            Ok(object) if method == Method::PATCH => {
                state.write(|history| history.patch(&target, &object))
            }
            Ok(object) => state.write(|history| history.put(&target, object)),
            Err(_) => Err(StatusCode::BAD_REQUEST),
        }
    };
    match result {
        Ok(value) => success(&value),
        Err(status) => refusal(status, "see the status"),
    }
}

/// The events of a watch that follow a revision.
fn events(state: Arc<State>, path: String, collection: ApiPath, since: u64) -> ResponseBody {
    let behaviours = state.behaviours.subscribe();
    let revision = state.revision.subscribe();
    let watched = Arc::new((state, path, collection));
    let first = Some((since, behaviours, revision));
    let lines = stream::unfold(first, move |position| {
        let watched = Arc::clone(&watched);
        async move {
            let (state, path, collection) = &*watched;
            let (mut since, mut behaviours, mut revision) = position?;
            loop {
                let now = behaviour(&behaviours.borrow_and_update(), path);
                let last = *revision.borrow_and_update();
                match now {
                    ApiServerBehaviour::Healthy | ApiServerBehaviour::Slow(_) => {
                        let line = state.history().events(collection, since);
                        if !line.is_empty() {
                            return Some((Ok(line), Some((last, behaviours, revision))));
                        }
                        since = last;
                    }
                    ApiServerBehaviour::Silent | ApiServerBehaviour::Swallowing => {}
                    ApiServerBehaviour::Refusing(_) | ApiServerBehaviour::EndingWatches => {
                        return None;
                    }
                    ApiServerBehaviour::Closing => return Some((Err(ClosedConnection), None)),
                    ApiServerBehaviour::Expired => {
                        let status = failure(StatusCode::GONE, "too old resource version");
                        let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
                        return Some((Ok(line), None));
                    }
                }
                tokio::select! {
                    changed = behaviours.changed() => changed.ok()?,
                    changed = revision.changed() => changed.ok()?,
                }
            }
        }
    });
    let frames = lines.map(|line| line.map(|line| Frame::data(Bytes::from(line))));
    StreamBody::new(frames).boxed_unsync()
}

fn success(value: &Value) -> Response<ResponseBody> {
    response(StatusCode::OK, value)
}

fn refusal(status: StatusCode, message: &str) -> Response<ResponseBody> {
    response(status, &failure(status, message))
}

fn failure(status: StatusCode, message: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": status.canonical_reason().unwrap_or_default().replace(' ', ""),
        "code": status.as_u16(),
    })
}

fn response(status: StatusCode, value: &Value) -> Response<ResponseBody> {
    let body = Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(
        body.map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        api::{ListParams, Patch, PatchParams, PostParams, WatchParams},
        core::WatchEvent,
    };

    use super::*;

    fn config_map(name: &str) -> ConfigMap {
        let mut config_map = ConfigMap::default();
        config_map.metadata.name = Some(name.to_owned());
        config_map
    }

    /// The answers to a read and to a watch, as the status of the error.
    async fn answers(api: &Api<ConfigMap>) -> [Option<u16>; 2] {
        let code = |error: kube::Error| match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        };
        let read = api.get("a").await.map_or_else(code, |_| Some(200));
        let events = async {
            let events = api.watch(&WatchParams::default(), "0").await?;
            Box::pin(events).try_next().await
        };
        let watched = match events.await {
            Ok(Some(WatchEvent::Error(status))) => Some(status.code),
            Ok(Some(_)) => Some(200),
            Ok(None) => Some(0),
            Err(error) => code(error),
        };
        [read, watched]
    }

    #[tokio::test]
    async fn objects_are_created_listed_patched_and_watched() {
        let server = FakeApiServer::default();
        let api: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
        assert!(api.get_opt("a").await.unwrap().is_none());
        let created = api
            .create(&PostParams::default(), &config_map("a"))
            .await
            .unwrap();
        let patch = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}});
        let patch = Patch::Merge(&patch);
        api.patch("a", &PatchParams::default(), &patch)
            .await
            .unwrap();
        let conflict = api.patch("a", &PatchParams::default(), &patch).await;
        assert!(conflict.is_err(), "{conflict:?}");
        let conflict = api.replace("a", &PostParams::default(), &created).await;
        assert!(conflict.is_err(), "{conflict:?}");

        let all: Api<ConfigMap> = Api::all(server.client());
        let listed = all.list(&ListParams::default()).await.unwrap();
        let data = listed.items[0].data.as_ref().unwrap();
        assert_eq!((listed.items.len(), data["k"].as_str()), (1, "v"));

        let watch = WatchParams::default();
        let version = listed.metadata.resource_version.unwrap();
        let mut events = Box::pin(all.watch(&watch, &version).await.unwrap());
        api.create(&PostParams::default(), &config_map("b"))
            .await
            .unwrap();
        let Some(WatchEvent::Modified(seen)) = events.try_next().await.unwrap() else {
            panic!("a modified object")
        };
        assert_eq!(seen.metadata.name.as_deref(), Some("b"));
        assert_eq!(server.count("WATCH /api/v1/configmaps"), 1);
        assert_eq!(
            server.count("PATCH /api/v1/namespaces/shop/configmaps/a"),
            2
        );
    }

    #[tokio::test]
    async fn each_behaviour_shows_in_reads_and_watches() {
        let server = FakeApiServer::start().await.unwrap();
        let over_socket = crate::kubernetes::client(&server.kubeconfig())
            .await
            .unwrap();
        let cases = [
            (ApiServerBehaviour::Healthy, [Some(200), Some(200)]),
            (
                ApiServerBehaviour::Slow(Duration::from_millis(1)),
                [Some(200), Some(200)],
            ),
            (
                ApiServerBehaviour::Refusing(StatusCode::FORBIDDEN),
                [Some(403), Some(403)],
            ),
            (ApiServerBehaviour::Closing, [None, None]),
            (ApiServerBehaviour::Expired, [Some(200), Some(410)]),
            (ApiServerBehaviour::EndingWatches, [Some(200), Some(0)]),
        ];
        for client in [over_socket, server.client()] {
            let api: Api<ConfigMap> = Api::namespaced(client, "shop");
            for (behaviour, expected) in cases {
                server.put(
                    "/api/v1/namespaces/shop/configmaps",
                    json!({"metadata": {"name": "a"}}),
                );
                server.switch(behaviour);
                assert_eq!(answers(&api).await, expected, "{behaviour:?}");
                server.switch(ApiServerBehaviour::Healthy);
            }
        }
    }

    #[tokio::test]
    async fn silence_ends_with_the_next_behaviour() {
        let server = FakeApiServer::default();
        server.switch_for("/api/v1/namespaces/shop/", ApiServerBehaviour::Silent);
        let api: Api<ConfigMap> = Api::namespaced(server.client(), "shop");
        let other: Api<ConfigMap> = Api::namespaced(server.client(), "other");
        let mut read = Box::pin(api.get_opt("a"));
        tokio::select! {
            biased;
            _ = read.as_mut() => panic!("the server is silent"),
            other = other.get_opt("a") => assert!(other.unwrap().is_none()),
        }
        server.switch(ApiServerBehaviour::Healthy);
        assert!(read.await.unwrap().is_none());
    }
}
