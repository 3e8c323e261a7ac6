//! One served resource: encoded once, named, and versioned by its content.
//!
//! The translation makes [`Resource`]s under [`ResourceKey`]s and lists what each proxy sees in a [`ProxyView`];
//! the xDS server serves them without looking inside.

use std::{fmt, sync::Arc};

use prost::{Name, bytes::Bytes};
use twox_hash::XxHash3_128;

use crate::pb::envoy::{config, extensions::transport_sockets::tls};

/// The resource types served, **declared in the order in which they are sent**: what is referred to
/// goes before what refers to it; removals go in reverse.
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
    /// Every type, in the order in which they are sent.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
        Self::Secret,
    ];

    /// The full name of the message, such as `envoy.config.cluster.v3.Cluster`.
    pub const fn message_name(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type URL of requests, responses and `Any`s.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type with this type URL, if it is served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether a client may ask for all resources of the type at once (`*`, or no name at all).
    pub const fn supports_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The word in metrics, logs and debug pages: `cluster`, `endpoint`, `listener`, `route`, `secret`.
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

/// A message that is served as a resource of its own.
pub trait ServedMessage: Name {
    /// Its type.
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

/// A content version: the XXH3-128 of the encoded message. Equal bytes have equal versions on every
/// replica and after a restart. On the wire it is 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentVersion(u128);

impl ContentVersion {
    /// The version of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes))
    }

    /// The version a client names; `None` if it is not one of ours.
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

/// One resource as it is served. Never changed: a new content is a new `Resource`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The type of the message in `body`.
    pub kind: ResourceType,
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// The hash of `body`.
    pub version: ContentVersion,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
    /// Names of the clusters a client must have before it gets this resource (make before break).
    pub needs: Arc<[Arc<str>]>,
    /// The user's objects it was made from (`VirtualRouter/shop/color`), for verdicts on them.
    pub origins: Arc<[Arc<str>]>,
}

impl Resource {
    /// Encodes a message under the name clients subscribe to.
    pub fn encode<M: ServedMessage>(name: Arc<str>, message: &M) -> Self {
        Self::from_encoded(M::TYPE, name, message.encode_to_vec().into())
    }

    /// A resource whose message is already encoded: the caller vouches that `body` is a message of type
    /// `kind` that carries `name`.
    pub fn from_encoded(kind: ResourceType, name: Arc<str>, body: Bytes) -> Self {
        Self {
            kind,
            name,
            version: ContentVersion::of(&body),
            body,
            needs: Arc::default(),
            origins: Arc::default(),
        }
    }

    /// Names the clusters it refers to.
    #[must_use]
    pub fn with_needs(mut self, needs: impl Into<Arc<[Arc<str>]>>) -> Self {
        self.needs = needs.into();
        self
    }

    /// Names the user's objects it was made from.
    #[must_use]
    pub fn with_origins(mut self, origins: impl Into<Arc<[Arc<str>]>>) -> Self {
        self.origins = origins.into();
        self
    }
}

/// The identity of a resource among all that are served.
///
/// Two proxies may see different resources under one name (`rds_egress_http_8080` lists each proxy's
/// own backends): such a resource has the view's name as `scope`. A resource without a scope is shared
/// by every view that lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The type.
    pub kind: ResourceType,
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// The one view it is for, or none if it is shared.
    pub scope: Option<Arc<str>>,
}

/// What one proxy may see: keys in ascending order, at most one for each type and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyView(Arc<[ResourceKey]>);

impl ProxyView {
    /// A view of these keys; sorts them, and of several with one type and name keeps the first.
    pub fn new(mut keys: Vec<ResourceKey>) -> Self {
        keys.sort();
        keys.dedup_by(|later, earlier| later.kind == earlier.kind && later.name == earlier.name);
        Self(keys.into())
    }

    /// Every key, ascending: by type in sending order, then by name.
    pub fn keys(&self) -> &[ResourceKey] {
        &self.0
    }

    /// The keys of one type, ascending by name.
    pub fn of_type(&self, kind: ResourceType) -> &[ResourceKey] {
        let start = self.0.partition_point(|key| key.kind < kind);
        let end = self.0.partition_point(|key| key.kind <= kind);
        &self.0[start..end]
    }

    /// The key under which a client of this view finds a name.
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
    use crate::pb::envoy::config::cluster::v3::Cluster;

    fn key(kind: ResourceType, name: &str, scope: Option<&str>) -> ResourceKey {
        ResourceKey {
            kind,
            name: name.into(),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn type_urls_are_those_of_the_messages() {
        for kind in ResourceType::ALL {
            assert_eq!(
                kind.type_url(),
                format!("type.googleapis.com/{}", kind.message_name())
            );
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Cluster::type_url(), Cluster::TYPE.type_url());
        assert!(ResourceType::ALL.is_sorted());
    }

    #[test]
    fn a_version_names_the_bytes() {
        let version = ContentVersion::of(b"abc");
        assert_eq!(version, ContentVersion::of(b"abc"));
        assert_ne!(version, ContentVersion::of(b"abd"));
        assert_eq!(ContentVersion::parse(&version.to_string()), Some(version));
        for other in [
            "",
            "1",
            "0123456789ABCDEF0123456789ABCDEF",
            "+123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(ContentVersion::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_view_is_sorted_and_finds_by_type_and_name() {
        let view = ProxyView::new(vec![
            key(ResourceType::Route, "r", Some("v")),
            key(ResourceType::Cluster, "b", None),
            key(ResourceType::Cluster, "a", None),
            key(ResourceType::Cluster, "a", Some("v")),
        ]);
        assert_eq!(view.keys().len(), 3);
        assert_eq!(view.of_type(ResourceType::Cluster).len(), 2);
        assert!(view.of_type(ResourceType::Listener).is_empty());
        assert_eq!(
            view.find(ResourceType::Route, "r")
                .unwrap()
                .scope
                .as_deref(),
            Some("v")
        );
        assert!(view.find(ResourceType::Route, "a").is_none());
    }
}
