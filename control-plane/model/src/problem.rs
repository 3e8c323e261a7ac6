//! Problems: mistakes of users as data.
//!
//! A problem names the object, the field path, a [`Reason`] that programs compare, a [`Severity`] and a message for
//! people. A problem never stops a rebuild: the parts of an object that are valid are served.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::ObjectRef;

/// A mistake in a user's object, file or document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object; absent if a document could not be recognised as an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// The file and document from which the object was read: `shop/color.yaml`, or `shop/color.yaml#2` for the second
    /// document of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Arc<str>>,
    /// The field, from the object's root; the root if the problem concerns the whole object.
    #[serde(skip_serializing_if = "FieldPath::is_root")]
    pub field: FieldPath,
    /// The cause, for programs.
    pub reason: Reason,
    /// The effect on what is served.
    pub severity: Severity,
    /// A description of the mistake and of its remedy, for people.
    pub message: String,
}

impl Problem {
    /// A problem of an object, with the default severity of its reason.
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

    /// Sets the file and document from which the object was read.
    #[must_use]
    pub fn with_origin(mut self, origin: impl Into<Arc<str>>) -> Self {
        self.origin = Some(origin.into());
        self
    }
}

/// Problems of one object in a list; a node may have 100,000 wrong backends.
pub const PROBLEMS_PER_OBJECT: usize = 100;

/// Keeps the first [`PROBLEMS_PER_OBJECT`] problems of each object, errors before warnings, and adds the number of the
/// others as a problem.
pub fn limit_per_object(mut problems: Vec<Problem>) -> Vec<Problem> {
    if problems.len() <= PROBLEMS_PER_OBJECT {
        return problems;
    }
    problems
        .sort_by(|one, other| (&one.object, one.severity).cmp(&(&other.object, other.severity)));
    let of_one_object = |one: &Problem, other: &Problem| one.object == other.object;
    let limited = problems.chunk_by(of_one_object).flat_map(|all| {
        let shown = &all[..all.len().min(PROBLEMS_PER_OBJECT)];
        let others = all.len() - shown.len();
        let more = all.first().filter(|_| others > 0).map(|one| Problem {
            field: FieldPath::root(),
            reason: Reason::MoreProblems,
            severity: Reason::MoreProblems.severity(),
            message: format!(
                "there are {others} more problems, which are not listed; correct the listed ones first"
            ),
            ..one.clone()
        });
        shown.iter().cloned().chain(more)
    });
    limited.collect()
}

/// Formats as `ORIGIN: OBJECT: FIELD: MESSAGE (REASON)` without the parts that are absent.
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
        write!(f, "{} ({})", self.message, self.reason)
    }
}

/// The effect of a problem on what is served. The names are API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The object, or a part of it, is not served as written.
    Error,
    /// The object is served as written, or with a difference that does not affect traffic.
    Warning,
}

impl Severity {
    /// Every severity.
    pub const ALL: [Self; 2] = [Self::Error, Self::Warning];

    /// The name in outputs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Declares [`Reason`] with the default severity of each reason, so that no list of reasons can miss one.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident: $severity:ident,)+) => {
        /// The cause of a problem. The names are API: users' scripts and alerts compare them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// Every reason, in the order in which problems of one field are sorted.
            pub const ALL: [Self; [$(Self::$name),+].len()] = [$(Self::$name),+];

            /// The name in conditions, outputs and metric labels.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The severity of a problem with this reason, unless the problem overrides it.
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)+
                }
            }
        }
    };
}

reasons! {
    /// A file or folder could not be read. Its last good content stays in force.
    Unreadable: Error,
    /// A document is not YAML, not UTF-8 or not a Kubernetes object. Its last good version stays in force.
    InvalidYaml: Error,
    /// A mapping of a manifest has a key twice. `kubectl` would use the last value. The last good version of the object
    /// stays in force.
    DuplicateKey: Error,
    /// Readers of YAML read different values from the text. The value that `kubectl` reads is used.
    AmbiguousText: Warning,
    /// A file, or a document after the expansion of its aliases, exceeds the size limit. Its last good version stays in
    /// force.
    TooLarge: Error,
    /// No kind of a mesh has this `apiVersion` and `kind`. The document is ignored.
    UnknownKind: Warning,
    /// Two documents contain the same object. The first by file name and position is used.
    DuplicateObject: Error,
    /// A value violates the schema of its kind: wrong type, missing or out of range. The last good version of the
    /// object stays in force.
    InvalidValue: Error,
    /// The schema does not contain the field. The field is pruned, as an API server does.
    UnknownField: Warning,
    /// Not exactly one of several alternative fields is set.
    InvalidUnion: Error,
    /// No mesh selects the namespace, or `meshRef` names a mesh that does not exist.
    MeshNotFound: Error,
    /// Several meshes select the namespace.
    MeshAmbiguous: Error,
    /// The mesh is being deleted and accepts no new members.
    MeshTerminating: Error,
    /// No virtual gateway selects the gateway route, or `virtualGatewayRef` names one that does not exist.
    GatewayNotFound: Error,
    /// Several virtual gateways select the gateway route.
    GatewayAmbiguous: Error,
    /// A reference or an ARN names an object that does not exist or is not valid.
    ReferenceNotFound: Error,
    /// A reference names an object of another mesh.
    MeshMismatch: Error,
    /// Two objects of one mesh have the same `awsName`. The older one takes precedence.
    DuplicateName: Error,
    /// Two virtual services of one mesh have the same host name. The older one takes precedence.
    DuplicateHostname: Error,
    /// Two routes of one router have the same name. An inline route takes precedence over a `Route` object.
    DuplicateRoute: Error,
    /// Two routes of one router match the same requests. The route with the smaller priority takes precedence, then an
    /// inline route, then the older object.
    DuplicateMatch: Error,
    /// A route with a smaller priority matches every request of the route, and others.
    UnreachableRoute: Warning,
    /// Two listeners of one object have the same port. The first takes precedence.
    DuplicateListener: Error,
    /// A backend is listed twice.
    DuplicateBackend: Warning,
    /// Every weight of a route is 0. Envoy answers its requests with 503.
    AllWeightsZero: Warning,
    /// No listener has the port.
    PortNotFound: Error,
    /// The Kubernetes Service of a node does not lead to a port of a listener, so that the listener has no endpoints.
    ServicePortNotFound: Warning,
    /// The port cannot be inferred: the target has several listeners, or traffic is not intercepted and no local port
    /// is given.
    PortRequired: Error,
    /// Two backends use one port in ways that Envoy cannot distinguish (TCP together with another backend, without
    /// virtual IPs that differ), or a local port is already in use.
    PortConflict: Error,
    /// A protocol, or a field that is named after one, differs from the protocol of the listener.
    ProtocolMismatch: Warning,
    /// The mesh, or the owner of what the field names, does not allow the object's namespace to use it.
    NotAllowed: Error,
    /// The field cannot be changed after the object was created.
    Immutable: Error,
    /// The control plane sets the field; users cannot.
    ReadOnly: Error,
    /// A node has listeners but no `serviceDiscovery`, so callers cannot find its endpoints.
    DiscoveryMissing: Warning,
    /// The ARN of a certificate or authority that no Secret replaces. The traffic that it protects is not served. The
    /// only reason for a field that App Mesh took and that is not served: each field has an effect (`docs/fields.md`).
    UnsupportedSecurity: Error,
    /// The Cloud Map namespace or service does not exist.
    CloudMapNotFound: Error,
    /// Cloud Map did not answer. The last known endpoints stay in force.
    CloudMapUnavailable: Warning,
    /// Cloud Map returned as many instances as one answer holds. It has no way to ask for more.
    CloudMapLimit: Warning,
    /// A workload's namespace or annotation asks for sidecars, but no node or gateway selects its pods. Only
    /// `evermesh lint` reports this.
    PodNotSelected: Warning,
    /// A node selects the pods of no workload in the folder. Only `evermesh lint` reports this.
    NoPodSelected: Warning,
    /// No listener of the node that selects a pod has a port of the pod's containers. Only `evermesh lint` reports this.
    ContainerPortUnlisted: Warning,
    /// A bug of Evermesh makes it unable to process this version of the object. The version before it stays in force.
    InternalError: Error,
    /// The object has more problems than are listed.
    MoreProblems: Warning,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A path into an object, as Kubernetes writes it: `spec.routes[2].httpRoute.match.prefix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// The empty path, which stands for the object as a whole.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// The top-level field `spec`.
    pub fn spec() -> Self {
        Self("spec".into())
    }

    /// Returns whether the path is empty and stands for the object as a whole.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of a field below this one. A dotted name adds several steps.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// The path of a map entry whose key is not an identifier: `metadata.annotations[evermesh.dev/x]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path of a list item, counted from 0.
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
    fn problem_displays_origin_object_field_message_and_reason() {
        let object = ObjectRef::new(Kind::VirtualRouter, "shop", "color");
        let field = FieldPath::spec()
            .field("routes")
            .index(2)
            .field("httpRoute.action");
        let problem = Problem::new(&object, field, Reason::AllWeightsZero, "every weight is 0")
            .with_origin("color.yaml#2");
        assert_eq!(
            problem.to_string(),
            "color.yaml#2: VirtualRouter/shop/color: spec.routes[2].httpRoute.action: every weight is 0 (AllWeightsZero)"
        );
        assert_eq!(problem.severity, Severity::Warning);
    }

    #[test]
    fn problems_of_an_object_are_limited_and_errors_come_first() {
        let problem = |name: &str, index: usize, reason| {
            let object = ObjectRef::new(Kind::VirtualNode, "shop", name);
            let field = FieldPath::spec().field("backends").index(index);
            Problem::new(&object, field, reason, "wrong")
        };
        let few: Vec<Problem> = (0..PROBLEMS_PER_OBJECT)
            .map(|index| problem("a", index, Reason::UnknownField))
            .collect();
        assert_eq!(limit_per_object(few.clone()), few);

        let error = problem("b", 7, Reason::ReferenceNotFound);
        let many = (0..1_000).map(|index| problem("b", index, Reason::UnknownField));
        let all = many.chain(few.clone()).chain([error.clone()]).collect();
        let limited = limit_per_object(all);
        assert_eq!(limited[..few.len()], few);
        let rest = &limited[few.len()..];
        assert_eq!(rest.len(), PROBLEMS_PER_OBJECT + 1);
        assert_eq!(rest[0], error);
        assert_eq!(rest[1], problem("b", 0, Reason::UnknownField));
        assert_eq!(
            rest[PROBLEMS_PER_OBJECT].to_string(),
            "VirtualNode/shop/b: there are 901 more problems, which are not listed; correct the listed ones first (MoreProblems)"
        );
    }

    /// The names are API: a change here breaks users' scripts and alerts.
    #[test]
    fn names_of_reasons_are_stable() {
        assert_eq!(
            Reason::ALL.map(Reason::as_str),
            [
                "Unreadable",
                "InvalidYaml",
                "DuplicateKey",
                "AmbiguousText",
                "TooLarge",
                "UnknownKind",
                "DuplicateObject",
                "InvalidValue",
                "UnknownField",
                "InvalidUnion",
                "MeshNotFound",
                "MeshAmbiguous",
                "MeshTerminating",
                "GatewayNotFound",
                "GatewayAmbiguous",
                "ReferenceNotFound",
                "MeshMismatch",
                "DuplicateName",
                "DuplicateHostname",
                "DuplicateRoute",
                "DuplicateMatch",
                "UnreachableRoute",
                "DuplicateListener",
                "DuplicateBackend",
                "AllWeightsZero",
                "PortNotFound",
                "ServicePortNotFound",
                "PortRequired",
                "PortConflict",
                "ProtocolMismatch",
                "NotAllowed",
                "Immutable",
                "ReadOnly",
                "DiscoveryMissing",
                "UnsupportedSecurity",
                "CloudMapNotFound",
                "CloudMapUnavailable",
                "CloudMapLimit",
                "PodNotSelected",
                "NoPodSelected",
                "ContainerPortUnlisted",
                "InternalError",
                "MoreProblems",
            ]
        );
        assert_eq!(Severity::ALL.map(Severity::as_str), ["error", "warning"]);
    }
}
