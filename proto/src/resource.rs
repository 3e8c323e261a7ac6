//! Encoded xDS resources, the keys that identify them, and the views that say which proxy gets which.
//!
//! `evermesh-translate` derives [`Resource`]s and [`ProxyView`]s; `evermesh-xds` sends them without decoding them. The
//! crate documentation has an example.

use std::{fmt, sync::Arc};

use prost::{Name, bytes::Bytes};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

use crate::{
    part::ResourcePart,
    pb::envoy::{config, extensions::transport_sockets::tls},
};

/// The types of resources that Evermesh serves, **declared in the order in which they are sent**: a resource is sent
/// after the resources that it refers to, and removed before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster` (CDS)
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS)
    Endpoint,
    /// `envoy.config.listener.v3.Listener` (LDS)
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS)
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret` (SDS)
    Secret,
}

impl ResourceType {
    /// All types, in sending order.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
        Self::Secret,
    ];

    /// The full name of the protobuf message, such as `envoy.config.cluster.v3.Cluster`.
    pub const fn message_name(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type URL in discovery requests and responses.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type with this type URL, or `None` if Evermesh does not serve it.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether a client may subscribe to all resources of the type, with `*` or with a first request without names
    /// (xDS protocol, "How the client specifies what resources to return").
    pub const fn supports_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The type as a word for metrics, logs and debug pages: `cluster`, `endpoint`, `listener`, `route`, `secret`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Secret => "secret",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A protobuf message that is a resource.
pub trait ServedMessage: Name {
    /// The resource type of the message.
    const TYPE: ResourceType;
}

impl ServedMessage for config::cluster::v3::Cluster {
    const TYPE: ResourceType = ResourceType::Cluster;
}
impl ServedMessage for config::endpoint::v3::ClusterLoadAssignment {
    const TYPE: ResourceType = ResourceType::Endpoint;
}
impl ServedMessage for config::listener::v3::Listener {
    const TYPE: ResourceType = ResourceType::Listener;
}
impl ServedMessage for config::route::v3::RouteConfiguration {
    const TYPE: ResourceType = ResourceType::Route;
}
impl ServedMessage for tls::v3::Secret {
    const TYPE: ResourceType = ResourceType::Secret;
}

/// The version of a resource: the XXH3-128 hash of its encoded message, or a part of its SHA-256 if it is confidential.
///
/// Equal bytes have equal versions, on every replica and after a restart. The text form, which is sent to clients, is
/// 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentVersion(u128);

impl ContentVersion {
    /// Hashes an encoded message.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes))
    }

    /// Hashes an encoded message that contains a private key, by the first 128 bits of SHA-256.
    pub fn of_confidential(bytes: &[u8]) -> Self {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let first = hash.first_chunk().copied().unwrap_or_default();
        Self(u128::from_be_bytes(first))
    }

    /// The hash as a number.
    pub fn to_bits(self) -> u128 {
        self.0
    }

    /// Parses a version that a client sent; `None` if it does not have the text form of a version.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Display for ContentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ContentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An encoded resource. Immutable: a change of the contents makes a new `Resource`.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// The type of the message in `body`.
    pub kind: ResourceType,
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// The hash of `body`.
    pub version: ContentVersion,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
    /// Names of the clusters that the message refers to, ascending. On load assignments and secrets: names of the
    /// clusters that cannot serve without it, in addition to the cluster of the same name.
    ///
    /// The server does not send a listener or route to a proxy before the proxy has answered the clusters that it needs
    /// and lacks. If the proxy rejected one of them, it keeps what it has of every [part](Self::parts) that needs it. It
    /// also keeps the clusters that its own copy needs until it has a copy that does not need them. The rules are in
    /// `xds/src/barrier.rs`.
    pub needs: Arc<[Arc<str>]>,
    /// The user's objects from which the resource was derived (`VirtualRouter/shop/color`). An ACK or NACK of the
    /// resource counts for each of them.
    pub origins: Arc<[Arc<str>]>,
    /// The base of `body` and then its parts, in the order of their ranges; empty if the resource is sent only as a
    /// whole.
    pub parts: Arc<[ResourcePart]>,
    /// Whether `body` contains a private key. Such a resource is sent only to a client that has proven its identity, and
    /// only over a connection that the client alone can read.
    pub confidential: bool,
}

impl Resource {
    /// Encodes a message. `name` is the name that the message carries.
    pub fn encode<M: ServedMessage>(name: Arc<str>, message: &M) -> Self {
        Self::from_encoded(M::TYPE, name, message.encode_to_vec().into())
    }

    /// A resource from an encoded message. The caller guarantees that `body` is a message of type `kind` that carries
    /// `name`; this is not checked.
    pub fn from_encoded(kind: ResourceType, name: Arc<str>, body: Bytes) -> Self {
        Self {
            kind,
            name,
            version: ContentVersion::of(&body),
            body,
            needs: Arc::default(),
            origins: Arc::default(),
            parts: Arc::default(),
            confidential: false,
        }
    }

    /// Marks a resource that contains a private key. Its version becomes a cryptographic hash, from which nothing of the
    /// key can be computed.
    #[must_use]
    pub fn into_confidential(mut self) -> Self {
        self.confidential = true;
        self.version = ContentVersion::of_confidential(&self.body);
        self
    }

    /// Sets [`needs`](Self::needs).
    #[must_use]
    pub fn with_needs(mut self, needs: impl Into<Arc<[Arc<str>]>>) -> Self {
        self.needs = needs.into();
        self
    }

    /// Sets [`origins`](Self::origins).
    #[must_use]
    pub fn with_origins(mut self, origins: impl Into<Arc<[Arc<str>]>>) -> Self {
        self.origins = origins.into();
        self
    }
}

/// Shows everything except the body of a confidential resource.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            name,
            version,
            body,
            needs,
            origins,
            parts,
            confidential,
        } = self;
        let body: &dyn fmt::Debug = if *confidential { &"<redacted>" } else { body };
        f.debug_struct("Resource")
            .field("kind", kind)
            .field("name", name)
            .field("version", version)
            .field("body", body)
            .field("needs", needs)
            .field("origins", origins)
            .field("parts", parts)
            .finish()
    }
}

/// The identity of a resource among all resources that are served.
///
/// Different proxies may have different resources of one name, and the scope tells them apart. It is the name of the only
/// view that may list the resource, or the beginning of the views' names up to a slash:
///
/// | resource | scope |
/// |---|---|
/// | `rds_egress_http_8080`, which contains the backends of its proxy | `mesh/shop/virtualNode/color_ns` |
/// | `cds_egress_shop_color_ns_http_8080`, which all callers share | `mesh/shop` |
/// | `secret/ns/color-tls`, a Kubernetes Secret | none |
///
/// Names of Envoy join a mesh and a node by `_`, which both may contain. So the cluster of the node `b_c` in the mesh `a`
/// has the same name as that of the node `c` in the mesh `a_b`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The resource type.
    pub kind: ResourceType,
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// The views that may list the resource; all if absent.
    pub scope: Option<Arc<str>>,
}

impl ResourceKey {
    /// Whether a view of this name may list the resource.
    pub fn is_for(&self, view: &str) -> bool {
        self.scope.as_deref().is_none_or(|scope| {
            let rest = view.strip_prefix(scope);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The keys that a resource of this type and name may have in a view: without a scope, with each beginning of the
    /// view's name up to a slash, and with the whole name.
    pub fn in_view(
        kind: ResourceType,
        name: &Arc<str>,
        view: &Arc<str>,
    ) -> impl Iterator<Item = Self> {
        let beginnings = view.match_indices('/').map(|(end, _)| view[..end].into());
        let scopes = beginnings.chain([Arc::clone(view)]).map(Some);
        std::iter::once(None).chain(scopes).map(move |scope| Self {
            kind,
            name: Arc::clone(name),
            scope,
        })
    }
}

/// The resources that one proxy may have: keys in ascending order, at most one for each type and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyView(Arc<[ResourceKey]>);

impl ProxyView {
    /// Sorts the keys. Of several keys with one type and name, the first in that order stays: the one with the
    /// shortest scope.
    pub fn new(mut keys: Vec<ResourceKey>) -> Self {
        keys.sort();
        keys.dedup_by(|later, earlier| later.kind == earlier.kind && later.name == earlier.name);
        Self(keys.into())
    }

    /// All keys, ascending: by type in sending order, then by name.
    pub fn keys(&self) -> &[ResourceKey] {
        &self.0
    }

    /// The keys of one type, ascending by name.
    pub fn of_type(&self, kind: ResourceType) -> &[ResourceKey] {
        let start = self.0.partition_point(|key| key.kind < kind);
        let end = self.0.partition_point(|key| key.kind <= kind);
        &self.0[start..end]
    }

    /// The key of the resource that has this type and name for the proxy.
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<&ResourceKey> {
        let keys = self.of_type(kind);
        keys.binary_search_by(|key| key.name.as_ref().cmp(name))
            .ok()
            .map(|index| &keys[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_a_view_or_the_beginning_of_its_name_up_to_a_slash() {
        let name = Arc::from("c");
        let view = Arc::from("mesh/a_b/virtualNode/front");
        let keys: Vec<_> = ResourceKey::in_view(ResourceType::Cluster, &name, &view).collect();
        let scopes: Vec<_> = keys.iter().map(|key| key.scope.as_deref()).collect();
        assert_eq!(
            scopes,
            [
                None,
                Some("mesh"),
                Some("mesh/a_b"),
                Some("mesh/a_b/virtualNode"),
                Some("mesh/a_b/virtualNode/front"),
            ]
        );
        assert!(keys.iter().all(|key| key.is_for(&view)));
        for other in ["mesh/a", "mesh/a_b/virtualNode/fro", "esh/a_b", "front"] {
            let key = ResourceKey {
                scope: Some(other.into()),
                ..keys[0].clone()
            };
            assert!(!key.is_for(&view), "{other}");
        }
    }
}
