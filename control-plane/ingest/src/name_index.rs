//! Indexes of objects by reference and by `awsName`, and the parser of references.
//!
//! Objects refer to each other by `…Ref` (Kubernetes name) or `…ARN` (mesh and `awsName`). An [`UnresolvedRef`] is such
//! a reference; [`NameIndex::look_up`] resolves it to an [`IndexEntry`].
//!
//! An [`IndexEntry`] contains everything that one object may know of another: its name, ports and virtual IPs. While the entry
//! stays equal, the objects that refer to it are not resolved again.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use evermesh_model::{
    FastEq as _, Kind, Memo, ObjectRef, Protocol, Reason, ResourceName, ServiceName, ServicePort,
    SharedMap, problem::FieldPath,
};

use crate::{
    seniority::{Contender, ObjectAge},
    stage::{CachedValue, Problems},
};

/// A mesh and a name in it, normalised for comparison.
type FoldedName = (Arc<str>, Arc<str>);

/// A name that is unique in a mesh.
pub(crate) trait Name: Ord + Clone + fmt::Debug {
    /// The reason of the problem if two objects have the same name.
    const DUPLICATE: Reason;

    fn mesh(&self) -> &Arc<str>;

    /// The part of the name after the mesh.
    fn text(&self) -> &Arc<str>;

    /// Normalises the part after the mesh for comparison.
    fn fold(text: &Arc<str>) -> Arc<str>;

    /// The complete name, normalised for comparison.
    fn folded(&self) -> FoldedName {
        (Arc::clone(self.mesh()), Self::fold(self.text()))
    }
}

impl Name for ResourceName {
    const DUPLICATE: Reason = Reason::DuplicateName;

    fn mesh(&self) -> &Arc<str> {
        &self.mesh
    }

    fn text(&self) -> &Arc<str> {
        &self.name
    }

    fn fold(text: &Arc<str>) -> Arc<str> {
        Arc::clone(text)
    }
}

impl Name for ServiceName {
    const DUPLICATE: Reason = Reason::DuplicateHostname;

    fn mesh(&self) -> &Arc<str> {
        &self.mesh
    }

    fn text(&self) -> &Arc<str> {
        &self.hostname
    }

    /// Host names are compared without case.
    fn fold(text: &Arc<str>) -> Arc<str> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            Arc::clone(text)
        }
    }
}

/// Everything that other objects may know of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry<N> {
    pub(crate) name: N,
    pub(crate) object: ObjectRef,
    pub(crate) ports: Vec<ServicePort>,
    /// Only services have virtual IPs; see [`ResolvedService::virtual_ips`].
    ///
    /// [`ResolvedService::virtual_ips`]: evermesh_model::ResolvedService::virtual_ips
    pub(crate) virtual_ips: Vec<IpAddr>,
    pub(crate) age: ObjectAge,
}

impl<N> Contender for IndexEntry<N> {
    fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

/// The valid objects of one kind, for resolving references.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NameIndex<N> {
    by_object: BTreeMap<ObjectRef, Arc<IndexEntry<N>>>,
    by_name: BTreeMap<FoldedName, Arc<IndexEntry<N>>>,
}

impl<N: Name> NameIndex<N> {
    fn new(entries: &SharedMap<N, IndexEntry<N>>) -> Self {
        Self {
            by_object: entries
                .values()
                .map(|entry| (entry.object.clone(), Arc::clone(entry)))
                .collect(),
            by_name: entries
                .values()
                .map(|entry| (entry.name.folded(), Arc::clone(entry)))
                .collect(),
        }
    }

    /// Resolves a reference of an object in `mesh`.
    pub(crate) fn look_up(&self, reference: &UnresolvedRef, mesh: &Arc<str>) -> Lookup<N> {
        let entry = match reference {
            UnresolvedRef::Object(object) => self.by_object.get(object),
            UnresolvedRef::Name { mesh: by_name, .. } if by_name != mesh => {
                return Err(LookupError::OtherMesh(Arc::clone(by_name)));
            }
            UnresolvedRef::Name { mesh, name } => {
                self.by_name.get(&(Arc::clone(mesh), N::fold(name)))
            }
        };
        match entry {
            Some(entry) if entry.name.mesh() == mesh => Ok(Arc::clone(entry)),
            Some(entry) => Err(LookupError::OtherMesh(Arc::clone(entry.name.mesh()))),
            None => Err(LookupError::NotFound),
        }
    }

    /// The objects of a namespace that belong to `mesh`. `kind` is the kind of the index.
    pub(crate) fn in_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a Arc<str>,
        mesh: &'a Arc<str>,
    ) -> impl Iterator<Item = &'a Arc<IndexEntry<N>>> {
        let first = ObjectRef::new(kind, Arc::clone(namespace), "");
        self.by_object
            .range(first..)
            .take_while(move |(object, _)| object.namespace == *namespace)
            .map(|(_, entry)| entry)
            .filter(move |entry| entry.name.mesh() == mesh)
    }
}

/// The index of a kind, rebuilt only if an entry changes. `U` is the parsed and `T` the resolved form of an object.
#[derive(Debug)]
pub(crate) struct NameIndexMemo<N, U, T> {
    values: (SharedMap<N, U>, SharedMap<N, T>),
    entries: Memo<N, (Arc<U>, Arc<T>), IndexEntry<N>>,
    index: CachedValue<SharedMap<N, IndexEntry<N>>, NameIndex<N>>,
}

impl<N, U, T> Default for NameIndexMemo<N, U, T> {
    fn default() -> Self {
        Self {
            values: <(SharedMap<N, U>, SharedMap<N, T>)>::default(),
            entries: Memo::default(),
            index: CachedValue::default(),
        }
    }
}

impl<N: Name, U, T> NameIndexMemo<N, U, T> {
    /// Returns the index of `values`, whose keys are among those of `unresolved`.
    pub(crate) fn update(
        &mut self,
        unresolved: &SharedMap<N, U>,
        values: &SharedMap<N, T>,
        index_entry: impl Fn(&U, &T) -> IndexEntry<N>,
    ) -> Arc<NameIndex<N>> {
        let maps = (Arc::clone(unresolved), Arc::clone(values));
        if !self.values.fast_eq(&maps) {
            self.values = maps;
            // Both are in the order of names, so one walk finds all pairs.
            let mut unresolved = unresolved.iter();
            let inputs = values.iter().filter_map(|(name, value)| {
                let (_, unresolved) = unresolved.find(|(other, _)| *other == name)?;
                Some((name, (unresolved, value)))
            });
            self.entries.update(inputs, |_, (unresolved, value)| {
                index_entry(unresolved, value)
            });
        }
        let entries = Arc::clone(self.entries.outputs());
        self.index.update(entries, NameIndex::new)
    }
}

/// The entry to which a reference resolves, or the reason why it does not.
pub(crate) type Lookup<N> = Result<Arc<IndexEntry<N>>, LookupError>;

/// The reason why a reference does not resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// The object does not exist or is not valid.
    NotFound,
    /// The object belongs to another mesh.
    OtherMesh(Arc<str>),
}

impl LookupError {
    /// Adds a problem to the referring object. `consequence` says what is not served because of the error.
    pub(crate) fn report(
        &self,
        reference: &UnresolvedRef,
        kind: Kind,
        field: FieldPath,
        consequence: &str,
        problems: &mut Problems<'_>,
    ) {
        let what = match reference {
            UnresolvedRef::Object(object) => format!("`{object}`"),
            UnresolvedRef::Name { name, .. } => format!("the {kind} with awsName `{name}`"),
        };
        match self {
            Self::NotFound => problems.add(
                field,
                Reason::ReferenceNotFound,
                format!("{what} does not exist or is not valid, so {consequence}; create or correct it"),
            ),
            Self::OtherMesh(mesh) => problems.add(
                field,
                Reason::MeshMismatch,
                format!("{what} belongs to mesh `{mesh}`, so {consequence}; refer to a member of the same mesh"),
            ),
        }
    }
}

/// A reference that was parsed but not looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnresolvedRef {
    /// A `…Ref`.
    Object(ObjectRef),
    /// A `…ARN`.
    Name {
        /// The `awsName` of the mesh in the ARN.
        mesh: Arc<str>,
        /// The `awsName` of the object in the ARN.
        name: Arc<str>,
    },
}

/// The fields `…Ref` and `…ARN` of one kind, exactly one of which must be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefOrArn<'a> {
    pub(crate) kind: Kind,
    /// Name and namespace. Without a namespace, the reference is relative to the referring object.
    pub(crate) object: Option<(&'a str, Option<&'a str>)>,
    pub(crate) arn: Option<&'a str>,
}

impl RefOrArn<'_> {
    /// Parses the reference. `field` is the parent of both fields.
    pub(crate) fn read(
        self,
        field: &FieldPath,
        problems: &mut Problems<'_>,
    ) -> Option<UnresolvedRef> {
        let word = camel_case(self.kind);
        match (self.object, self.arn) {
            (Some((name, namespace)), None) => {
                let namespace = match namespace {
                    Some(namespace) => namespace.into(),
                    None => Arc::clone(&problems.object().namespace),
                };
                Some(UnresolvedRef::Object(ObjectRef::new(
                    self.kind, namespace, name,
                )))
            }
            (None, Some(arn)) => read_arn(arn, &word, field.field(&format!("{word}ARN")), problems),
            (Some(_), Some(_)) => {
                problems.add(
                    field.clone(),
                    Reason::InvalidUnion,
                    format!("both {word}Ref and {word}ARN are set; keep one"),
                );
                None
            }
            (None, None) => {
                problems.add(
                    field.clone(),
                    Reason::InvalidUnion,
                    format!("neither {word}Ref nor {word}ARN is set; set one"),
                );
                None
            }
        }
    }
}

/// `virtualNode` for a `VirtualNode`.
fn camel_case(kind: Kind) -> String {
    let word = kind.as_str();
    let (first, rest) = word.split_at(1);
    format!("{}{rest}", first.to_ascii_lowercase())
}

/// Parses mesh and name in `arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/KIND/NAME`. Region and account are ignored.
fn read_arn(
    arn: &str,
    word: &str,
    field: FieldPath,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedRef> {
    let resource = arn
        .strip_prefix("arn:")
        .and_then(|rest| rest.splitn(5, ':').nth(4))
        .unwrap_or_default();
    let parts: Vec<&str> = resource.split('/').collect();
    let message = match parts[..] {
        ["mesh", mesh, kind, name] if kind == word => {
            let mesh = mesh.split_once('@').map_or(mesh, |(mesh, _owner)| mesh);
            return Some(UnresolvedRef::Name {
                mesh: mesh.into(),
                name: name.into(),
            });
        }
        ["mesh", _, kind, _] => format!("`{arn}` is the ARN of a {kind}; use the ARN of a {word}"),
        _ => format!(
            "`{arn}` is not a valid ARN; use the form arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/{word}/NAME"
        ),
    };
    problems.add(field, Reason::InvalidValue, message);
    None
}

/// Removes duplicate ports. Of two listeners with the same port, the first takes precedence; the second is `None` in the
/// result and a problem at `field[i]`.
pub(crate) fn unique_ports(
    ports: impl IntoIterator<Item = (u16, Protocol)>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Vec<Option<ServicePort>> {
    let mut seen = BTreeMap::new();
    ports
        .into_iter()
        .enumerate()
        .map(|(index, (port, protocol))| {
            if let Some(first) = seen.get(&port) {
                problems.add(
                    field.index(index).field("portMapping.port"),
                    Reason::DuplicateListener,
                    format!(
                        "port {port} is already used by {}; remove one of the two",
                        field.index(*first)
                    ),
                );
                return None;
            }
            seen.insert(port, index);
            Some(ServicePort { port, protocol })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use evermesh_model::ProxyKind;

    use super::*;

    #[test]
    fn entry_is_made_of_both_forms_of_one_object() {
        let name = |name: &str| ResourceName::new("m", ProxyKind::VirtualRouter, name);
        let both = |names: &[&str]| {
            let values = names.iter().map(|it| (name(it), Arc::new(name(it))));
            Arc::new(values.collect())
        };
        let parsed: SharedMap<_, ResourceName> = both(&["a", "b", "c", "d"]);
        let resolved: SharedMap<_, ResourceName> = both(&["b", "d"]);
        let entry = |parsed: &ResourceName, resolved: &ResourceName| {
            assert_eq!(parsed, resolved);
            IndexEntry {
                name: parsed.clone(),
                object: ObjectRef::new(Kind::VirtualRouter, "n", Arc::clone(&parsed.name)),
                ports: Vec::new(),
                virtual_ips: Vec::new(),
                age: ObjectAge::default(),
            }
        };
        let index = NameIndexMemo::default().update(&parsed, &resolved, entry);
        let names: Vec<_> = index.by_name.values().map(|it| it.name.clone()).collect();
        assert_eq!(names, [name("b"), name("d")]);
    }
}
