//! Many proxies in this process: delta streams that subscribe as an Envoy does and ACK everything at once.
//!
//! Each proxy has a TCP connection. It asks for all clusters and listeners, and then by name for the endpoints of its
//! clusters and for its route configurations. After a reconnect it names the versions that it has.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use evermesh_proto::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    resource::ResourceType,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Endpoint};

use crate::bare::{EGRESS, INGRESS};

/// Number of concurrent connection attempts.
const AT_A_TIME: usize = 32;
const LIMIT: Duration = Duration::from_mins(1);
/// Requests of a proxy that may wait: a first one and an ACK of each type, and new names.
const QUEUED_REQUESTS: usize = 16;

/// The beginning of the names of clusters that lead to nodes.
const REMOTE_CLUSTER: &str = "cds_egress_bench_node-";

/// Versions of the resources that a proxy has, by type and name.
type HeldVersions = BTreeMap<ResourceType, BTreeMap<String, String>>;

/// A proxy that is not connected.
pub(crate) struct OfflineProxy {
    node: String,
    held: HeldVersions,
}

impl OfflineProxy {
    pub(crate) fn new(node: String) -> Self {
        Self {
            node,
            held: HeldVersions::new(),
        }
    }
}

/// Connected proxies.
pub(crate) struct ProxyFleet {
    proxies: JoinSet<Result<OfflineProxy>>,
    stop: CancellationToken,
    /// The time of each response with a route configuration.
    pub(crate) routes: mpsc::Receiver<Instant>,
}

impl ProxyFleet {
    /// Connects the proxies and waits until each has everything that it asked for. Proxies that had everything before
    /// only open their streams.
    pub(crate) async fn connect(address: &str, proxies: Vec<OfflineProxy>) -> Result<Self> {
        let (sender, routes) = mpsc::channel(1 << 12);
        let connected: Vec<OpenProxy> = stream::iter(proxies)
            .map(|proxy| timeout(LIMIT, OpenProxy::connect(address.to_owned(), proxy)))
            .buffer_unordered(AT_A_TIME)
            .map(|connected| connected?)
            .try_collect()
            .await?;
        let stop = CancellationToken::new();
        let mut proxies = JoinSet::new();
        for proxy in connected {
            proxies.spawn(proxy.follow(sender.clone(), stop.clone()));
        }
        Ok(Self {
            proxies,
            stop,
            routes,
        })
    }

    /// Closes all connections at once.
    pub(crate) async fn disconnect(self) -> Result<Vec<OfflineProxy>> {
        self.stop.cancel();
        self.proxies.join_all().await.into_iter().collect()
    }

    /// Waits for so many responses with a route configuration; returns the time of the last one.
    pub(crate) async fn next_routes(&mut self, count: usize) -> Result<Instant> {
        let mut last = None;
        for _ in 0..count {
            last = timeout(LIMIT, self.routes.recv())
                .await
                .context("a change did not reach every proxy that it concerns")?;
        }
        last.context("all proxies disconnected")
    }
}

struct OpenProxy {
    proxy: OfflineProxy,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl OpenProxy {
    async fn connect(address: String, proxy: OfflineProxy) -> Result<Self> {
        let channel = Endpoint::from_shared(address)?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let (requests, body) = mpsc::channel(QUEUED_REQUESTS);
        let had_everything = !proxy.held.is_empty();
        let mut first = vec![
            (ResourceType::Cluster, vec!["*".to_owned()]),
            (ResourceType::Listener, vec!["*".to_owned()]),
        ];
        if had_everything {
            let names = |kind| proxy.held.get(&kind).into_iter().flatten();
            let names = |kind| names(kind).map(|(name, _)| name.clone()).collect();
            first.push((ResourceType::Endpoint, names(ResourceType::Endpoint)));
            first.push((ResourceType::Route, names(ResourceType::Route)));
        }
        for (kind, names) in first {
            let held = proxy.held.get(&kind).cloned().unwrap_or_default();
            requests.try_send(DeltaDiscoveryRequest {
                node: Some(Node {
                    id: proxy.node.clone(),
                    ..Node::default()
                }),
                initial_resource_versions: held.into_iter().collect(),
                ..subscription(kind, names)
            })?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(ReceiverStream::new(body))
            .await?;
        let mut open = Self {
            proxy,
            requests,
            responses: responses.into_inner(),
        };
        while !had_everything && !open.has_everything() {
            let kind = open.take_next().await?;
            let names: Vec<String> = match kind {
                ResourceType::Cluster => open.remote_clusters().cloned().collect(),
                ResourceType::Listener => [INGRESS, EGRESS].map(str::to_owned).into(),
                _ => continue,
            };
            let next = match kind {
                ResourceType::Cluster => ResourceType::Endpoint,
                _ => ResourceType::Route,
            };
            open.requests.try_send(subscription(next, names))?;
        }
        Ok(open)
    }

    fn names(&self, kind: ResourceType) -> impl Iterator<Item = &String> {
        let held = self.proxy.held.get(&kind);
        held.into_iter().flat_map(BTreeMap::keys)
    }

    /// The clusters whose endpoints Evermesh serves.
    fn remote_clusters(&self) -> impl Iterator<Item = &String> {
        let clusters = self.names(ResourceType::Cluster);
        clusters.filter(|name| name.starts_with(REMOTE_CLUSTER))
    }

    fn has_everything(&self) -> bool {
        let count = |kind| self.names(kind).count();
        let clusters = self.remote_clusters().count();
        clusters > 0
            && count(ResourceType::Endpoint) == clusters
            && count(ResourceType::Listener) > 0
            && count(ResourceType::Route) == 2
    }

    /// Waits for a response and ACKs it. Returns its type.
    async fn take_next(&mut self) -> Result<ResourceType> {
        let response = self.responses.message().await?;
        let response = response.context("the stream ended")?;
        let kind = ResourceType::from_type_url(&response.type_url)
            .with_context(|| format!("a response has the type `{}`", response.type_url))?;
        let held = self.proxy.held.entry(kind).or_default();
        for name in &response.removed_resources {
            held.remove(name);
        }
        let resources = response.resources.into_iter();
        held.extend(resources.map(|resource| (resource.name, resource.version)));
        self.requests.try_send(DeltaDiscoveryRequest {
            response_nonce: response.nonce,
            ..subscription(kind, Vec::new())
        })?;
        Ok(kind)
    }

    /// ACKs everything until the end of the fleet.
    async fn follow(
        mut self,
        routes: mpsc::Sender<Instant>,
        stop: CancellationToken,
    ) -> Result<OfflineProxy> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(self.proxy),
                kind = self.take_next() => if kind? == ResourceType::Route {
                    routes.try_send(Instant::now())?;
                },
            }
        }
    }
}

fn subscription(kind: ResourceType, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}
