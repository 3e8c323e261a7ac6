//! Kinds and names of the Kubernetes objects that Evermesh reads.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

/// A kind of object that a source may deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `appmesh.k8s.aws/v1beta2`, cluster-scoped
    Mesh,
    /// `appmesh.k8s.aws/v1beta2`
    VirtualNode,
    /// `appmesh.k8s.aws/v1beta2`
    VirtualService,
    /// `appmesh.k8s.aws/v1beta2`
    VirtualRouter,
    /// `appmesh.k8s.aws/v1beta2`
    VirtualGateway,
    /// `appmesh.k8s.aws/v1beta2`
    GatewayRoute,
    /// `appmesh.k8s.aws/v1beta2`
    BackendGroup,
    /// `evermesh.dev/v1alpha1`: one route of a virtual router in an object of its own
    Route,
    /// `v1`, cluster-scoped
    Namespace,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `v1`
    Pod,
    /// `v1`, cluster-scoped
    Node,
    /// `v1`
    Secret,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Mesh,
        Self::VirtualNode,
        Self::VirtualService,
        Self::VirtualRouter,
        Self::VirtualGateway,
        Self::GatewayRoute,
        Self::BackendGroup,
        Self::Route,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
        Self::Secret,
    ];

    /// The `kind` field of manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::VirtualNode => "VirtualNode",
            Self::VirtualService => "VirtualService",
            Self::VirtualRouter => "VirtualRouter",
            Self::VirtualGateway => "VirtualGateway",
            Self::GatewayRoute => "GatewayRoute",
            Self::BackendGroup => "BackendGroup",
            Self::Route => "Route",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Secret => "Secret",
        }
    }

    /// The `apiVersion` field of manifests.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Mesh
            | Self::VirtualNode
            | Self::VirtualService
            | Self::VirtualRouter
            | Self::VirtualGateway
            | Self::GatewayRoute
            | Self::BackendGroup => "appmesh.k8s.aws/v1beta2",
            Self::Route => "evermesh.dev/v1alpha1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Namespace | Self::Service | Self::Pod | Self::Node | Self::Secret => "v1",
        }
    }

    /// The plural in the paths of the Kubernetes API.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Mesh => "meshes",
            Self::VirtualNode => "virtualnodes",
            Self::VirtualService => "virtualservices",
            Self::VirtualRouter => "virtualrouters",
            Self::VirtualGateway => "virtualgateways",
            Self::GatewayRoute => "gatewayroutes",
            Self::BackendGroup => "backendgroups",
            Self::Route => "routes",
            Self::Namespace => "namespaces",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Pod => "pods",
            Self::Node => "nodes",
            Self::Secret => "secrets",
        }
    }

    /// The kind with this `apiVersion` and `kind`.
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str() == kind && known.api_version() == api_version)
    }

    /// Returns whether objects of the kind belong to a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Mesh | Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of an object. Displays as `VirtualNode/shop/color`, or `Mesh/global` for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The kind, which implies the API group and version.
    pub kind: Kind,
    /// `metadata.namespace`; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Creates a reference. `namespace` is empty for cluster-scoped kinds.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// The text is not of the form `KIND/NAMESPACE/NAME` or `KIND/NAME` with a known kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidObjectRef;

/// Parses the form that [`ObjectRef`] displays.
impl FromStr for ObjectRef {
    type Err = InvalidObjectRef;

    fn from_str(text: &str) -> Result<Self, InvalidObjectRef> {
        let mut parts = text.split('/');
        let kind = parts.next().ok_or(InvalidObjectRef)?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
        let kind = kind.ok_or(InvalidObjectRef)?;
        let (namespace, name) = match (parts.next().ok_or(InvalidObjectRef)?, parts.next()) {
            (namespace, Some(name)) => (namespace, name),
            (name, None) => ("", name),
        };
        Ok(Self::new(kind, namespace, name))
    }
}

impl Serialize for ObjectRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_found_by_api_version_and_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::find(kind.api_version(), kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::find("apps/v1", "Route"), None);
    }

    #[test]
    fn object_displays_with_and_without_namespace() {
        assert_eq!(ObjectRef::new(Kind::Mesh, "", "m").to_string(), "Mesh/m");
        assert_eq!(ObjectRef::new(Kind::Pod, "n", "p").to_string(), "Pod/n/p");
    }

    #[test]
    fn object_is_parsed_from_its_display_form() {
        for object in [
            ObjectRef::new(Kind::Mesh, "", "m"),
            ObjectRef::new(Kind::Pod, "n", "p"),
        ] {
            assert_eq!(object.to_string().parse(), Ok(object));
        }
        for text in ["", "Mesh", "Nothing/x"] {
            assert_eq!(text.parse::<ObjectRef>(), Err(InvalidObjectRef), "{text}");
        }
    }
}
