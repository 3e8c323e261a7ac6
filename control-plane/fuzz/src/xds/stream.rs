//! A stream of the server, and what holds for everything that it sends.

use std::{
    collections::BTreeMap,
    future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use evermesh_proto::{
    EncodedPart, core,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    pb::google::rpc,
    resource::{ProxyView, Resource, ResourceKey, ResourceType},
};
use evermesh_xds::{
    ProxyRegistry, Store, StoreCommit, XdsLimits, XdsServerOptions, routes, without_credentials,
};
use http_body_util::StreamBody;
use prost::Message;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Body as _, Service},
};

use super::steps::{FORBIDDEN, LAST_NONCE, NACK, NAMES, NODE, Step, TYPES, VERSIONS, WRONG_NONCE};

/// The view of the client, and its node ID.
const VIEW: &str = "node";
/// The node ID that the server refuses.
const REFUSED: &str = "forbidden";
/// A private key.
const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----";

/// Bytes of a status message; texts of the client in it are cut.
const STATUS_BYTES: usize = 2 << 10;

/// The codes with which the server may end a stream. Any other means that a client broke the server.
const CODES: [Code; 5] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::Unimplemented,
];

/// Limits that inputs reach.
fn limits() -> XdsLimits {
    XdsLimits {
        opening_bytes: 4 << 10,
        request_bytes: 64 << 10,
        large_request_bytes: 96 << 10,
        spare_names: 50,
        ..XdsLimits::default()
    }
}

pub(super) struct FuzzedStream {
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    requests: Option<Sender<Bytes>>,
    responses: Body,
    is_sotw: bool,
    single_type: Option<ResourceType>,
    /// The nonce of the last response of each type.
    nonces: BTreeMap<ResourceType, String>,
    request_bytes: usize,
    /// Reasons for which the server may respond.
    occasions: usize,
    responded: usize,
}

impl FuzzedStream {
    /// Opens a stream of the variant and service that `service` selects, with one resource of each type in the store.
    pub(super) async fn open(service: u8) -> Self {
        let store = Store::new();
        let registry = ProxyRegistry::new(None);
        let options = XdsServerOptions {
            limits: limits(),
            ..XdsServerOptions::new(without_credentials(|node| match node.id.as_str() {
                REFUSED => Err(Status::permission_denied("refused")).into(),
                id => Ok(id.into()).into(),
            }))
        };
        let (is_sotw, service) = (service % 2 == 1, service / 2 % (1 + TYPES));
        let single_type = service.checked_sub(1).and_then(served);
        let mut routes = routes(Arc::clone(&store), Arc::clone(&registry), options);
        // Each step sends one chunk at most, and the stream reads all of them before the next step.
        let (requests, chunks) = mpsc::channel(2);
        let frames =
            ReceiverStream::new(chunks).map(|it| Ok::<_, Status>(http_body::Frame::data(it)));
        let request = http::Request::post(path(is_sotw, single_type));
        let request = request.body(Body::new(StreamBody::new(frames)));
        let response = routes.call(request.expect("a valid path")).await;
        let mut stream = Self {
            store,
            registry,
            requests: Some(requests),
            responses: response.expect("a response").into_body(),
            is_sotw,
            single_type,
            nonces: BTreeMap::new(),
            request_bytes: 0,
            occasions: 0,
            responded: 0,
        };
        for kind in 0..TYPES {
            stream.put(kind, 0, 0, 0);
        }
        stream.put(4, 2, 0, 0);
        stream
    }

    /// Takes a step. The caller then waits for [`Self::answer`].
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Request {
                kind,
                subscribe,
                unsubscribe,
                flags,
            } => {
                let subscribe = names(subscribe);
                self.request(kind, subscribe, names(unsubscribe), flags);
            }
            Step::Names {
                kind,
                count,
                length,
            } => {
                let name = "n".repeat(16 * usize::from(length));
                let all = (0..count).map(|number| format!("{number}{name}"));
                self.request(kind, all.collect(), Vec::new(), NODE);
            }
            Step::Message(message) => self.message(&message),
            Step::Chunk(chunk) => {
                self.occasions += 1 + chunk.len() / 5;
                self.send(chunk.into());
            }
            Step::Put {
                kind,
                name,
                content,
                needs,
            } => self.put(kind % TYPES, usize::from(name % 2), content, needs),
            Step::Remove { kind, name } => {
                let key = served(kind % TYPES).map(|kind| key(kind, NAMES[usize::from(name % 2)]));
                self.commit(StoreCommit {
                    removals: key.into_iter().collect(),
                    ..StoreCommit::default()
                });
            }
            Step::View { is_present } => {
                let keys = self.store.resources().into_iter().map(|(key, _)| key);
                let view = is_present.then(|| ProxyView::new(keys.collect()).into());
                self.commit(StoreCommit {
                    views: vec![(VIEW.into(), view)],
                    ..StoreCommit::default()
                });
            }
            Step::End => self.requests = None,
        }
    }

    fn request(&mut self, kind: u8, subscribe: Vec<String>, unsubscribe: Vec<String>, flags: u8) {
        let has = |flag| flags & flag != 0;
        let type_url = match served(kind) {
            Some(kind) => kind.type_url(),
            None if kind == TYPES => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            None => "",
        };
        let nonce = served(kind).and_then(|kind| self.nonces.get(&kind));
        let nonce = match nonce {
            _ if has(WRONG_NONCE) => "18446744073709551616",
            Some(nonce) if has(LAST_NONCE) => nonce,
            _ => "",
        };
        let id = if has(FORBIDDEN) { REFUSED } else { VIEW };
        let node = has(NODE).then(|| core::Node {
            id: id.to_owned(),
            ..core::Node::default()
        });
        let error = has(NACK).then(|| rpc::Status {
            message: "no such filter\n".repeat(200),
            ..rpc::Status::default()
        });
        let message = if self.is_sotw {
            DiscoveryRequest {
                node,
                type_url: type_url.to_owned(),
                resource_names: subscribe,
                response_nonce: nonce.to_owned(),
                error_detail: error,
                ..DiscoveryRequest::default()
            }
            .encode_to_vec()
        } else {
            let resources = self.store.resources().into_iter();
            let versions =
                resources.map(|(key, it)| (key.name.to_string(), it.version.to_string()));
            let wrong = [("absent", "0".repeat(32)), ("", "none".to_owned())];
            let wrong = wrong.map(|(name, version)| (name.to_owned(), version));
            DeltaDiscoveryRequest {
                node,
                type_url: type_url.to_owned(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                initial_resource_versions: if has(VERSIONS) {
                    versions.chain(wrong).collect()
                } else {
                    BTreeMap::new()
                },
                response_nonce: nonce.to_owned(),
                error_detail: error,
                ..DeltaDiscoveryRequest::default()
            }
            .encode_to_vec()
        };
        self.message(&message);
    }

    fn message(&mut self, message: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(message);
        self.occasions += 1;
        self.send(frame.freeze());
    }

    fn send(&mut self, chunk: Bytes) {
        self.request_bytes += chunk.len();
        if let Some(requests) = &self.requests {
            // An error means that the server has ended the stream.
            let _ = requests.try_send(chunk);
        }
    }

    /// Puts a resource of two parts into the store, of which the second needs the clusters, and into the view.
    fn put(&mut self, kind: u8, name: usize, content: u8, needs: u8) {
        let Some(kind) = served(kind) else {
            return;
        };
        let name = NAMES[name];
        let needs = if matches!(kind, ResourceType::Listener | ResourceType::Route) {
            names(needs & 0b11)
        } else {
            Vec::new()
        };
        let part = |part: &str, body: Vec<u8>, needs: &[String]| EncodedPart {
            body: body.into(),
            name: part.into(),
            needs: needs.iter().map(|it| Arc::from(it.as_str())).collect(),
            origins: [part.into()].into(),
        };
        let is_key = name == "key";
        let message = ResourceType::message_name(kind).as_bytes();
        let base = part(
            "base",
            if is_key {
                KEY.to_vec()
            } else {
                message.to_vec()
            },
            &[],
        );
        let parts = [part("part", vec![content; usize::from(content)], &needs)];
        let resource = Resource::from_parts(kind, name.into(), base, parts);
        let resource = if is_key {
            resource.into_confidential()
        } else {
            resource
        };
        let known = self.store.view(VIEW);
        let known = known.iter().flat_map(|view| view.keys().iter().cloned());
        let view = ProxyView::new(known.chain([key(kind, name)]).collect());
        self.commit(StoreCommit {
            upserts: vec![(key(kind, name), resource.into())],
            views: vec![(VIEW.into(), Some(view.into()))],
            ..StoreCommit::default()
        });
    }

    fn commit(&mut self, commit: StoreCommit) {
        self.occasions += 1;
        self.store.commit(commit);
        self.store.flush();
    }

    /// Takes what the server sends until it waits. `false` if it has ended the stream.
    pub(super) async fn answer(&mut self) -> bool {
        future::poll_fn(|context| Poll::Ready(self.poll_answer(context))).await
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            match Pin::new(&mut self.responses).poll_frame(context) {
                Poll::Pending => return true,
                Poll::Ready(None) => return false,
                Poll::Ready(Some(frame)) => match frame.expect("a frame").into_data() {
                    Ok(data) => self.on_response(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let status = Status::from_header_map(&trailers).expect("a status");
                        assert!(CODES.contains(&status.code()), "{status:?}");
                        assert!(status.message().len() <= STATUS_BYTES, "{status:?}");
                        return false;
                    }
                },
            }
        }
    }

    fn on_response(&mut self, frame: &Bytes) {
        self.responded += 1;
        let limit = usize::from(TYPES) * (1 + self.occasions);
        assert!(self.responded <= limit, "{} responses", self.responded);
        let resources = self.store.resources();
        let stored: usize = resources.iter().map(|(_, it)| 512 + it.body.len()).sum();
        let limit = 1024 + 2 * stored + 2 * self.request_bytes;
        assert!(frame.len() <= limit, "{} of {limit} bytes", frame.len());
        let message = frame.slice(5..);
        let (type_url, nonce, bodies) = if self.is_sotw {
            let response = DiscoveryResponse::decode(message).expect("a response");
            let bodies = response.resources.into_iter().map(|it| it.value);
            (response.type_url, response.nonce, bodies.collect())
        } else {
            let response = DeltaDiscoveryResponse::decode(message).expect("a response");
            for resource in &response.resources {
                assert!(NAMES.contains(&resource.name.as_str()), "{}", resource.name);
            }
            let resources = response.resources.into_iter();
            let bodies: Vec<_> = resources
                .filter_map(|it| Some(it.resource?.value))
                .collect();
            (response.type_url, response.nonce, bodies)
        };
        let kind = ResourceType::from_type_url(&type_url).expect("a type that is served");
        assert!(
            self.single_type.is_none_or(|single| single == kind),
            "{kind}"
        );
        for body in bodies {
            let has_key = body.windows(KEY.len()).any(|it| it == KEY);
            assert!(!has_key, "a key for a client that has proven nothing");
        }
        let last = self.nonces.insert(kind, nonce.clone());
        assert_ne!(last, Some(nonce), "a nonce twice");
    }

    /// Checks that nothing is left of a client that is gone.
    pub(super) async fn close(mut self) {
        self.requests = None;
        self.answer().await;
        drop(self.responses);
        assert!(self.registry.is_empty());
        let resources = self.store.resources();
        let watchers = self.store.watchers(resources.iter().map(|(key, _)| key));
        assert!(watchers.iter().all(|it| *it == 0), "{watchers:?}");
    }
}

fn served(kind: u8) -> Option<ResourceType> {
    ResourceType::ALL.get(usize::from(kind)).copied()
}

fn key(kind: ResourceType, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        name: name.into(),
        scope: None,
    }
}

/// The names that a mask selects.
fn names(mask: u8) -> Vec<String> {
    let all = NAMES.iter().enumerate();
    let selected = all.filter(|(bit, _)| mask & (1 << bit) != 0);
    selected.map(|(_, name)| (*name).to_owned()).collect()
}

fn path(is_sotw: bool, single_type: Option<ResourceType>) -> String {
    let variant = if is_sotw { "Stream" } else { "Delta" };
    let (service, method) = match single_type {
        None => ("discovery.v3.AggregatedDiscovery", "AggregatedResources"),
        Some(ResourceType::Cluster) => ("cluster.v3.ClusterDiscovery", "Clusters"),
        Some(ResourceType::Endpoint) => ("endpoint.v3.EndpointDiscovery", "Endpoints"),
        Some(ResourceType::Listener) => ("listener.v3.ListenerDiscovery", "Listeners"),
        Some(ResourceType::Route) => ("route.v3.RouteDiscovery", "Routes"),
        Some(ResourceType::Secret) => ("secret.v3.SecretDiscovery", "Secrets"),
    };
    format!("/envoy.service.{service}Service/{variant}{method}")
}
