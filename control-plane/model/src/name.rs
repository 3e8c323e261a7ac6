//! Names of nodes, gateways and routers, and the parser of node IDs.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

/// The kind in a [`ResourceName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// A virtual node, whose proxies are sidecars.
    VirtualNode,
    /// A virtual gateway, whose proxies accept traffic from outside the mesh.
    VirtualGateway,
    /// A virtual router. Routers do not have proxies of their own.
    VirtualRouter,
}

impl ProxyKind {
    /// The kind in names and ARNs: `virtualNode`, `virtualGateway`, `virtualRouter`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualNode => "virtualNode",
            Self::VirtualGateway => "virtualGateway",
            Self::VirtualRouter => "virtualRouter",
        }
    }
}

/// The identity of a node, gateway or router: `mesh/M/virtualNode/N`, where `M` and `N` are `awsName`s.
///
/// Proxies send this name as their node ID, and it decides which resources they receive. Parsing accepts every form
/// that proxies of App Mesh send: the resource part of an ARN, with or without the account of the mesh owner
/// (`mesh/M@111122223333/…`), and the complete ARN
/// (`arn:aws:appmesh:eu-west-1:111122223333:mesh/M/virtualNode/N`). Account and region are ignored.
///
/// ```
/// use evermesh_model::{ProxyKind, ResourceName};
///
/// let arn = "arn:aws:appmesh:eu-west-1:111122223333:mesh/shop/virtualNode/color_ns";
/// assert_eq!(arn.parse(), Ok(ResourceName::new("shop", ProxyKind::VirtualNode, "color_ns")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// The `awsName` of the node, gateway or router. First, because names of one mesh are compared most.
    pub name: Arc<str>,
    /// Node, gateway or router.
    pub kind: ProxyKind,
    /// The `awsName` of the mesh.
    pub mesh: Arc<str>,
}

impl ResourceName {
    /// Creates a name from `awsName`s, which are not checked.
    pub fn new(mesh: impl Into<Arc<str>>, kind: ProxyKind, name: impl Into<Arc<str>>) -> Self {
        Self {
            mesh: mesh.into(),
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mesh/{}/{}/{}", self.mesh, self.kind.as_str(), self.name)
    }
}

impl Serialize for ResourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not the name of a virtual node, gateway or router.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form mesh/MESH/virtualNode/NAME or mesh/MESH/virtualGateway/NAME")]
pub struct InvalidResourceName(pub String);

impl FromStr for ResourceName {
    type Err = InvalidResourceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let resource = match text.strip_prefix("arn:") {
                Some(arn) => arn.splitn(5, ':').nth(4)?,
                None => text,
            };
            let mut parts = resource.split('/');
            let (Some("mesh"), Some(mesh), Some(kind), Some(name), None) = (
                parts.next(),
                parts.next(),
                parts.next(),
                parts.next(),
                parts.next(),
            ) else {
                return None;
            };
            let mesh = mesh.split_once('@').map_or(mesh, |(mesh, _owner)| mesh);
            let kind = [
                ProxyKind::VirtualNode,
                ProxyKind::VirtualGateway,
                ProxyKind::VirtualRouter,
            ]
            .into_iter()
            .find(|known| known.as_str() == kind)?;
            (!mesh.is_empty() && !name.is_empty()).then(|| Self::new(mesh, kind, name))
        };
        parse().ok_or_else(|| InvalidResourceName(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_node_id_is_parsed() {
        let expected = ResourceName::new("shop", ProxyKind::VirtualNode, "color_ns");
        for text in [
            "mesh/shop/virtualNode/color_ns",
            "mesh/shop@111122223333/virtualNode/color_ns",
            "arn:aws:appmesh:eu-west-1:111122223333:mesh/shop/virtualNode/color_ns",
            "arn:aws-cn:appmesh:cn-north-1:111122223333:mesh/shop@444455556666/virtualNode/color_ns",
        ] {
            assert_eq!(
                text.parse::<ResourceName>().as_ref(),
                Ok(&expected),
                "{text}"
            );
        }
        assert_eq!(expected.to_string(), "mesh/shop/virtualNode/color_ns");
    }

    #[test]
    fn other_texts_are_rejected() {
        for text in [
            "",
            "mesh",
            "mesh//virtualNode/n",
            "mesh/m/virtualNode/",
            "mesh/m/virtualService/s",
            "mesh/m/virtualNode/n/x",
            "arn:aws:appmesh:r:a",
            "arn:",
        ] {
            assert!(text.parse::<ResourceName>().is_err(), "{text}");
        }
    }
}
