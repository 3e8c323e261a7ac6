//! The connected proxies, with the resources that they were sent and their answers.
//!
//! A stream registers itself once its client is identified, and unregisters when it ends. Status and debug pages read
//! snapshots; each ACK and NACK goes to the [`DeliverySink`] at once. The registry keeps no copy of a stream's state: it
//! shares the [`Connection`] with the stream, behind a mutex.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::SystemTime,
};

use dashmap::DashMap;
use evermesh_proto::{ResourceKey, core};
use parking_lot::Mutex;

use crate::{
    answer::ClientAnswer,
    connection::{Connection, ResourceStatus, XdsVariant},
    delivery::{Delivery, ProxyId},
    limits::{NODE_FIELD_BYTES, NODE_ID_BYTES},
    peer_text::PeerText,
};

/// Receiver of ACKs and NACKs. Runs on the stream's task, so it must not block; it may read the registry.
pub type DeliverySink = Arc<dyn Fn(Delivery) + Send + Sync>;

/// The connected proxies, one entry per stream: a proxy that opens one stream per type has several entries.
#[derive(Default)]
pub struct ProxyRegistry {
    proxies: DashMap<ProxyId, Arc<RegisteredProxy>>,
    last_id: AtomicU64,
    /// Number of streams that were added and removed.
    turnover: AtomicU64,
    sink: Option<DeliverySink>,
}

/// Snapshot of one stream and its proxy.
#[derive(Debug, Clone)]
pub struct ProxyStatus {
    /// The stream.
    pub id: ProxyId,
    /// `node.id`, as the proxy sent it.
    pub node_id: String,
    /// `node.cluster`, as the proxy sent it, up to 256 bytes.
    pub node_cluster: String,
    /// `node.user_agent_name`, such as `envoy`, up to 256 bytes.
    pub user_agent: String,
    /// Name of the proxy's view.
    pub view: Arc<str>,
    /// Remote address; absent on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Variant of the protocol.
    pub variant: XdsVariant,
    /// Whether the stream carries all types.
    pub aggregated: bool,
    /// Time at which the client was identified.
    pub since: SystemTime,
    /// Subscribed resources, ordered by type and name.
    pub resources: Vec<ResourceStatus>,
    /// Names of the confidential resources of the view that the proxy does not get.
    pub withheld: Vec<Arc<str>>,
}

/// The answers of one stream to some resources.
#[derive(Debug, Clone)]
pub struct ProxyAnswers {
    /// The answers to each resource, in the order of the question. Absent for a resource that does not concern the
    /// proxy: it did not subscribe to it, and has ACKed everything that could make it subscribe.
    pub answers: Vec<Option<ClientAnswer>>,
    /// Names of the confidential resources of the proxy's view that it does not get.
    pub withheld: Vec<Arc<str>>,
}

/// One stream without its resources, cheaper than [`ProxyStatus`].
#[derive(Debug, Clone)]
pub struct ConnectedProxy {
    /// The stream.
    pub id: ProxyId,
    /// `node.id`, as the proxy sent it.
    pub node_id: Arc<str>,
    /// Name of the proxy's view.
    pub view: Arc<str>,
    /// Time at which the proxy was identified.
    pub since: SystemTime,
    /// Whether the proxy gets confidential resources.
    pub is_trusted: bool,
}

/// Description of the client of a stream.
#[derive(Debug)]
pub(crate) struct StreamPeer {
    pub(crate) node: PeerNode,
    pub(crate) view: Arc<str>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) variant: XdsVariant,
    pub(crate) aggregated: bool,
    pub(crate) is_trusted: bool,
}

/// The fields of a client's node that are kept.
#[derive(Debug)]
pub(crate) struct PeerNode {
    id: Arc<str>,
    cluster: Box<str>,
    user_agent: Box<str>,
}

impl From<&core::Node> for PeerNode {
    fn from(node: &core::Node) -> Self {
        Self {
            id: PeerText(&node.id).within(NODE_ID_BYTES).into(),
            cluster: PeerText(&node.cluster).within(NODE_FIELD_BYTES).into(),
            user_agent: PeerText(&node.user_agent_name)
                .within(NODE_FIELD_BYTES)
                .into(),
        }
    }
}

/// Entry of the registry, shared with the stream.
#[derive(Debug)]
pub(crate) struct RegisteredProxy {
    id: ProxyId,
    node: PeerNode,
    view: Arc<str>,
    address: Option<SocketAddr>,
    variant: XdsVariant,
    aggregated: bool,
    is_trusted: bool,
    since: SystemTime,
    connection: Mutex<Connection>,
}

impl ProxyRegistry {
    /// Creates an empty registry.
    pub fn new(sink: Option<DeliverySink>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            ..Self::default()
        })
    }

    /// The number of identified streams.
    pub fn len(&self) -> usize {
        self.proxies.len()
    }

    /// Whether no identified stream is open.
    pub fn is_empty(&self) -> bool {
        self.proxies.is_empty()
    }

    /// Snapshots of all streams, oldest first.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        let mut proxies: Vec<_> = self
            .proxies
            .iter()
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        proxies.sort_by_key(|proxy| proxy.id);
        proxies.iter().map(|proxy| proxy.status()).collect()
    }

    /// Number of streams that were identified and that ended so far. While it stays equal, [`Self::connected`] returns the
    /// same streams.
    pub fn turnover(&self) -> u64 {
        self.turnover.load(Acquire)
    }

    /// All streams, in arbitrary order.
    pub fn connected(&self) -> Vec<ConnectedProxy> {
        self.proxies.iter().map(|proxy| proxy.connected()).collect()
    }

    /// One stream; `None` if it has ended.
    pub fn connected_proxy(&self, id: ProxyId) -> Option<ConnectedProxy> {
        Some(self.proxies.get(&id)?.connected())
    }

    /// The resources among the given ones that a stream was sent and has not answered. A key with a scope means the
    /// streams of that view.
    ///
    /// Reads unanswered resources only until all keys are found: very many streams may leave very much unanswered.
    pub fn unanswered<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k ResourceKey>,
    ) -> BTreeSet<&'k ResourceKey> {
        let mut missing = HashMap::<&str, Vec<&ResourceKey>>::new();
        for key in keys {
            missing.entry(&key.name).or_default().push(key);
        }
        let mut found = BTreeSet::new();
        let proxies = self.proxies.iter();
        let proxies: Vec<_> = proxies.map(|entry| Arc::clone(entry.value())).collect();
        for proxy in proxies {
            if missing.is_empty() {
                break;
            }
            let connection = proxy.connection.lock();
            for (kind, name) in connection.unanswered() {
                let Some(keys) = missing.get_mut(&**name) else {
                    continue;
                };
                found
                    .extend(keys.extract_if(.., |key| key.kind == kind && key.is_for(&proxy.view)));
                if keys.is_empty() {
                    missing.remove(&**name);
                }
            }
        }
        found
    }

    /// Snapshot of one stream; `None` if it has ended.
    pub fn proxy(&self, id: ProxyId) -> Option<ProxyStatus> {
        let proxy = Arc::clone(self.proxies.get(&id)?.value());
        Some(proxy.status())
    }

    /// The answers of a stream to resources that the view of its proxy lists; `None` if the stream has ended.
    pub fn answers<'k>(
        &self,
        id: ProxyId,
        keys: impl IntoIterator<Item = &'k ResourceKey>,
    ) -> Option<ProxyAnswers> {
        let proxy = Arc::clone(self.proxies.get(&id)?.value());
        let connection = proxy.connection.lock();
        let answers = keys
            .into_iter()
            .map(|key| connection.answer(key, proxy.aggregated));
        Some(ProxyAnswers {
            answers: answers.collect(),
            withheld: connection.withheld(),
        })
    }

    pub(crate) fn register(
        &self,
        peer: StreamPeer,
        connection: Connection,
    ) -> Arc<RegisteredProxy> {
        let StreamPeer {
            node,
            view,
            address,
            variant,
            aggregated,
            is_trusted,
        } = peer;
        let proxy = Arc::new(RegisteredProxy {
            id: ProxyId(self.last_id.fetch_add(1, Relaxed) + 1),
            node,
            view,
            address,
            variant,
            aggregated,
            is_trusted,
            since: SystemTime::now(),
            connection: Mutex::new(connection),
        });
        self.proxies.insert(proxy.id, Arc::clone(&proxy));
        self.turnover.fetch_add(1, Release);
        proxy
    }

    pub(crate) fn unregister(&self, proxy: &RegisteredProxy) {
        self.proxies.remove(&proxy.id);
        self.turnover.fetch_add(1, Release);
    }

    /// Runs `run` on the connection of a stream, then passes the client's answers to the sink.
    pub(crate) fn with_connection<R>(
        &self,
        proxy: &RegisteredProxy,
        run: impl FnOnce(&mut Connection) -> R,
    ) -> R {
        let mut connection = proxy.connection.lock();
        let result = run(&mut connection);
        let outcomes = connection.take_outcomes();
        drop(connection);
        if let Some(sink) = &self.sink {
            for (resource, outcome) in outcomes {
                sink(Delivery {
                    proxy: proxy.id,
                    view: Arc::clone(&proxy.view),
                    resource,
                    outcome,
                });
            }
        }
        result
    }
}

impl fmt::Debug for ProxyRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyRegistry")
            .field("proxies", &self.proxies.len())
            .finish_non_exhaustive()
    }
}

impl RegisteredProxy {
    pub(crate) fn id(&self) -> ProxyId {
        self.id
    }

    fn connected(&self) -> ConnectedProxy {
        ConnectedProxy {
            id: self.id,
            node_id: Arc::clone(&self.node.id),
            view: Arc::clone(&self.view),
            since: self.since,
            is_trusted: self.is_trusted,
        }
    }

    pub(crate) fn view(&self) -> &str {
        &self.view
    }

    fn status(&self) -> ProxyStatus {
        let connection = self.connection.lock();
        let (resources, withheld) = (connection.resources(), connection.withheld());
        drop(connection);
        ProxyStatus {
            id: self.id,
            node_id: self.node.id.to_string(),
            node_cluster: self.node.cluster.to_string(),
            user_agent: self.node.user_agent.to_string(),
            view: Arc::clone(&self.view),
            peer: self.address,
            variant: self.variant,
            aggregated: self.aggregated,
            since: self.since,
            resources,
            withheld,
        }
    }
}
