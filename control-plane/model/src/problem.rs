//! A user's mistake as data: which object, which field, which reason, and what to do.
//!
//! A problem never stops the work: what can be made of the rest is made and served.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::ObjectRef;

/// What was found wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object, when it is known which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// Where the object was read: `shop/color.yaml`, document 2 is `shop/color.yaml#2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Arc<str>>,
    /// The field, from the object's root; empty when the object as a whole is meant.
    #[serde(skip_serializing_if = "FieldPath::is_root")]
    pub field: FieldPath,
    /// The cause, one word a program may compare.
    pub reason: Reason,
    /// What it means for what is served.
    pub severity: Severity,
    /// A sentence for a person: what is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem of an object, with the severity of its reason.
    pub fn new(
        object: &ObjectRef,
        field: FieldPath,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            object: Some(object.clone()),
            origin: None,
            field,
            reason,
            severity: reason.severity(),
            message: message.into(),
        }
    }

    /// A problem of a file or document in which no object could be recognised.
    pub fn of_origin(
        origin: impl Into<Arc<str>>,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            object: None,
            origin: Some(origin.into()),
            field: FieldPath::root(),
            reason,
            severity: reason.severity(),
            message: message.into(),
        }
    }

    /// Says where the object was read.
    #[must_use]
    pub fn with_origin(mut self, origin: impl Into<Arc<str>>) -> Self {
        self.origin = Some(origin.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_root() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({:?})", self.message, self.reason)
    }
}

/// What a problem means for what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A part of the object, or all of it, is not served as written.
    Error,
    /// It is served; the user would want to know.
    Warning,
}

/// The cause of a problem. The names are API: people's scripts and alerts compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Reason {
    /// A file or folder could not be read. What it last held stays in force.
    Unreadable,
    /// A document is not YAML, not UTF-8, or not a Kubernetes object. The last good one stays in force.
    InvalidYaml,
    /// A file, or a document once its aliases are expanded, is over the limit. The last good one stays in force.
    TooLarge,
    /// `apiVersion` and `kind` name nothing that a mesh needs. The document is left out.
    UnknownKind,
    /// Two documents hold the same object. The first, by file name and position, counts.
    DuplicateObject,
    /// A value breaks the schema of its kind: wrong type, missing, out of range. The last good object stays in force.
    InvalidValue,
    /// A field the schema does not know; an API server would prune it, and so do we.
    UnknownField,
    /// Exactly one of several fields must be set.
    InvalidUnion,
    /// No mesh selects the namespace, or `meshRef` names one that does not exist.
    MeshNotFound,
    /// Several meshes select the namespace.
    MeshAmbiguous,
    /// The mesh is being deleted and takes no new members.
    MeshTerminating,
    /// No virtual gateway selects the gateway route, or `virtualGatewayRef` names one that does not exist.
    GatewayNotFound,
    /// Several virtual gateways select the gateway route.
    GatewayAmbiguous,
    /// A reference or an ARN names an object that does not exist.
    ReferenceNotFound,
    /// A reference leads into another mesh.
    MeshMismatch,
    /// Two objects of one mesh have the same `awsName`. The older by namespace and name counts.
    DuplicateName,
    /// Two virtual services of one mesh have the same host name. The first by namespace and name counts.
    DuplicateHostname,
    /// Two routes of one router have the same name. An inline route wins over a Route object.
    DuplicateRoute,
    /// Two routes of one router take the same requests. The one with the smaller priority counts, then an inline one,
    /// then the older object.
    DuplicateMatch,
    /// Two listeners of one object have the same port. The first counts.
    DuplicateListener,
    /// A backend is listed twice.
    DuplicateBackend,
    /// Every weight of a route is zero: its requests are answered 503.
    AllWeightsZero,
    /// A port that no listener has.
    PortNotFound,
    /// Several listeners could be meant, or nothing is intercepted and no local port is given: a port must be given.
    PortRequired,
    /// Two backends need one port in ways that Envoy cannot tell apart (TCP with anything else), or a local port is
    /// somebody else's.
    PortConflict,
    /// A protocol, or a variant named after one, does not fit the listener's.
    ProtocolMismatch,
    /// The field cannot be changed once the object is there.
    Immutable,
    /// The field is filled in by the control plane and cannot be set by hand.
    ReadOnly,
    /// Listeners without `serviceDiscovery`: nobody can find the node.
    DiscoveryMissing,
    /// The field is part of the API and not served yet; traffic flows without it.
    UnsupportedField,
    /// The field protects traffic and is not served yet: what it protects is not served either.
    UnsupportedSecurity,
    /// The Cloud Map namespace or service does not exist.
    CloudMapNotFound,
    /// Cloud Map did not answer; the last known endpoints stay in force.
    CloudMapUnavailable,
}

impl Reason {
    /// What it means for what is served.
    pub const fn severity(self) -> Severity {
        match self {
            Self::UnknownField
            | Self::UnknownKind
            | Self::DuplicateBackend
            | Self::AllWeightsZero
            | Self::ProtocolMismatch
            | Self::DiscoveryMissing
            | Self::UnsupportedField
            | Self::CloudMapUnavailable => Severity::Warning,
            Self::Unreadable
            | Self::InvalidYaml
            | Self::TooLarge
            | Self::DuplicateObject
            | Self::InvalidValue
            | Self::InvalidUnion
            | Self::MeshNotFound
            | Self::MeshAmbiguous
            | Self::MeshTerminating
            | Self::GatewayNotFound
            | Self::GatewayAmbiguous
            | Self::ReferenceNotFound
            | Self::MeshMismatch
            | Self::DuplicateName
            | Self::DuplicateHostname
            | Self::DuplicateRoute
            | Self::DuplicateMatch
            | Self::DuplicateListener
            | Self::PortNotFound
            | Self::PortRequired
            | Self::PortConflict
            | Self::Immutable
            | Self::ReadOnly
            | Self::UnsupportedSecurity
            | Self::CloudMapNotFound => Severity::Error,
        }
    }
}

/// A path into an object, as Kubernetes writes it: `spec.routes[2].httpRoute.match.prefix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// The object itself.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// The top-level field `spec`.
    pub fn spec() -> Self {
        Self("spec".into())
    }

    /// Whether it is the object itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// A field below this one; a dotted name is several steps.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// The value of this key of a map, where the key is no name.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// An item of this list, from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn reads_as_a_sentence_with_a_place() {
        let object = ObjectRef::new(Kind::VirtualRouter, "shop", "color");
        let field = FieldPath::spec()
            .field("routes")
            .index(2)
            .field("httpRoute.action");
        let problem = Problem::new(
            &object,
            field,
            Reason::AllWeightsZero,
            "every weight is zero",
        )
        .with_origin("color.yaml#2");
        assert_eq!(
            problem.to_string(),
            "color.yaml#2: VirtualRouter/shop/color: spec.routes[2].httpRoute.action: every weight is zero (AllWeightsZero)"
        );
        assert_eq!(problem.severity, Severity::Warning);
    }
}
