//! The connected proxies: who they are, what they were sent and what they answered.
//!
//! In: every stream enters itself, and leaves when it ends. Out: snapshots for status and debug pages,
//! and verdicts to whoever asked for them when the registry was made.
//! Must not copy what a stream knows: a snapshot reads the stream's own state.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use dashmap::DashMap;
use evermesh_proto::{ResourceKey, ContentVersion, core};
use parking_lot::Mutex;

use crate::{
    Store,
    connection::{Connection, ResourceStatus, XdsVariant},
    delivery::{Delivery, ProxyId, Rejection},
};

/// Where verdicts go. Called on the stream's task, so it must be quick; it may read the registry.
pub type DeliverySink = Arc<dyn Fn(Delivery) + Send + Sync>;

/// All connected proxies. A proxy that uses a stream for each type is in it once for each.
#[derive(Default)]
pub struct ProxyRegistry {
    proxies: DashMap<ProxyId, Arc<RegisteredProxy>>,
    last_id: AtomicU64,
    sink: Option<DeliverySink>,
}

/// A connected proxy at one moment.
#[derive(Debug, Clone)]
pub struct ProxyStatus {
    /// The stream.
    pub id: ProxyId,
    /// The node id it gave.
    pub node_id: String,
    /// The cluster it says it is of.
    pub node_cluster: String,
    /// What it runs: its user agent's name, such as `envoy`.
    pub user_agent: String,
    /// The view it gets.
    pub view: Arc<str>,
    /// Its address, if the connection has one.
    pub peer: Option<SocketAddr>,
    /// Incremental or state of the world.
    pub variant: XdsVariant,
    /// One stream for all types, or one for each.
    pub aggregated: bool,
    /// When it connected.
    pub since: SystemTime,
    /// What it has of each resource, in the order of types and names.
    pub resources: Vec<ResourceStatus>,
}

/// What one connected proxy has made of one resource of its view.
#[derive(Debug, Clone)]
pub struct AckStatus {
    /// The stream.
    pub proxy: ProxyId,
    /// The node id it gave.
    pub node_id: String,
    /// The version in use: the last one accepted. None if it has none yet.
    pub acked: Option<ContentVersion>,
    /// The last refusal.
    pub rejection: Option<Rejection>,
    /// When it connected.
    pub since: SystemTime,
}

/// That a proxy is connected.
#[derive(Debug, Clone)]
pub struct ConnectedProxy {
    /// The stream.
    pub id: ProxyId,
    /// The view it gets.
    pub view: Arc<str>,
    /// When it connected.
    pub since: SystemTime,
}

/// Who is at the other end of a stream.
#[derive(Debug)]
pub(crate) struct StreamPeer {
    pub(crate) node: core::Node,
    pub(crate) view: Arc<str>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) variant: XdsVariant,
    pub(crate) aggregated: bool,
}

/// A connected proxy, shared by its stream and the registry.
#[derive(Debug)]
pub(crate) struct RegisteredProxy {
    id: ProxyId,
    node_id: Box<str>,
    node_cluster: Box<str>,
    user_agent: Box<str>,
    view: Arc<str>,
    address: Option<SocketAddr>,
    variant: XdsVariant,
    aggregated: bool,
    since: SystemTime,
    connection: Mutex<Connection>,
}

impl ProxyRegistry {
    /// An empty registry; verdicts go to the sink, if there is one.
    pub fn new(sink: Option<DeliverySink>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            ..Self::default()
        })
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.proxies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.proxies.is_empty()
    }

    /// Every connected proxy, in the order in which they came.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        let mut proxies: Vec<_> = self
            .proxies
            .iter()
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        proxies.sort_by_key(|proxy| proxy.id);
        proxies.iter().map(|proxy| proxy.status()).collect()
    }

    /// Every stream, in no order.
    pub fn connected(&self) -> Vec<ConnectedProxy> {
        let proxies = self.proxies.iter();
        proxies
            .map(|proxy| ConnectedProxy {
                id: proxy.id,
                view: Arc::clone(&proxy.view),
                since: proxy.since,
            })
            .collect()
    }

    /// One connected proxy.
    pub fn proxy(&self, id: ProxyId) -> Option<ProxyStatus> {
        let proxy = Arc::clone(self.proxies.get(&id)?.value());
        Some(proxy.status())
    }

    /// What each proxy concerned has made of a resource, in the order in which they came. Concerned is whose view in
    /// the store has it and who asked for it, or who has not accepted everything that could make it ask.
    pub fn ack_statuses(&self, store: &Store, key: &ResourceKey) -> Vec<AckStatus> {
        let has_it = |view: &str| {
            let view = store.view(view);
            view.is_some_and(|view| view.find(key.kind, &key.name) == Some(key))
        };
        let proxies = self.proxies.iter();
        let mut ack_statuses: Vec<AckStatus> = proxies
            .filter(|entry| key.scope.as_ref().is_none_or(|scope| *scope == entry.view))
            .filter(|entry| has_it(&entry.view))
            .filter_map(|entry| entry.answer(key))
            .collect();
        ack_statuses.sort_by_key(|answer| answer.proxy);
        ack_statuses
    }

    pub(crate) fn enter(&self, peer: StreamPeer, connection: Connection) -> Arc<RegisteredProxy> {
        let StreamPeer {
            node,
            view,
            address,
            variant,
            aggregated,
        } = peer;
        let proxy = Arc::new(RegisteredProxy {
            id: ProxyId(self.last_id.fetch_add(1, Relaxed) + 1),
            node_id: node.id.into(),
            node_cluster: node.cluster.into(),
            user_agent: node.user_agent_name.into(),
            view,
            address,
            variant,
            aggregated,
            since: SystemTime::now(),
            connection: Mutex::new(connection),
        });
        self.proxies.insert(proxy.id, Arc::clone(&proxy));
        proxy
    }

    pub(crate) fn leave(&self, proxy: &RegisteredProxy) {
        self.proxies.remove(&proxy.id);
    }

    /// Lets a stream use its connection, and passes on what its client answered.
    pub(crate) fn with<R>(
        &self,
        proxy: &RegisteredProxy,
        run: impl FnOnce(&mut Connection) -> R,
    ) -> R {
        let mut connection = proxy.connection.lock();
        let result = run(&mut connection);
        let reports = connection.take_outcomes();
        drop(connection);
        if let Some(sink) = &self.sink {
            for (resource, outcome) in reports {
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

    fn answer(&self, key: &ResourceKey) -> Option<AckStatus> {
        let (acked, rejection) = self.connection.lock().answer_to(key, self.aggregated)?;
        Some(AckStatus {
            proxy: self.id,
            node_id: self.node_id.to_string(),
            acked,
            rejection,
            since: self.since,
        })
    }

    fn status(&self) -> ProxyStatus {
        ProxyStatus {
            id: self.id,
            node_id: self.node_id.to_string(),
            node_cluster: self.node_cluster.to_string(),
            user_agent: self.user_agent.to_string(),
            view: Arc::clone(&self.view),
            peer: self.address,
            variant: self.variant,
            aggregated: self.aggregated,
            since: self.since,
            resources: self.connection.lock().resources(),
        }
    }
}
