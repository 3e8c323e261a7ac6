//! What may be referred to, by object and by `awsName`, and how a reference is read.
//!
//! A [`IndexEntry`] is all that others may know of an object: its name and its ports. As long as it stays the
//! same, nothing that refers to the object has to be looked at again.
//!
//! Must not know any kind of object beyond its name.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{
    Kind, Memo, ObjectRef, Problem, Protocol, Reason, ResourceName, ServiceName, ServicePort,
    SharedMap, problem::FieldPath,
};

use crate::stage::{CachedValue, Problems};

/// A mesh and a name in it, as they are compared.
type FoldedName = (Arc<str>, Arc<str>);

/// A name that is unique in a mesh.
pub(crate) trait Name: Ord + Clone {
    /// The reason for the second of two objects with the same name.
    const DUPLICATE: Reason;

    /// Its mesh.
    fn mesh(&self) -> &Arc<str>;

    /// Its part after the mesh.
    fn text(&self) -> &Arc<str>;

    /// A part after the mesh as it is compared.
    fn fold(text: &Arc<str>) -> Arc<str>;

    /// The name as it is compared.
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

    /// Host names have no case.
    fn fold(text: &Arc<str>) -> Arc<str> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            Arc::clone(text)
        }
    }
}

/// What others may know of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry<N> {
    pub(crate) name: N,
    pub(crate) object: ObjectRef,
    pub(crate) ports: Vec<ServicePort>,
}

/// Everything of one kind that may be referred to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NameIndex<N> {
    by_object: BTreeMap<ObjectRef, Arc<IndexEntry<N>>>,
    by_name: BTreeMap<FoldedName, Arc<IndexEntry<N>>>,
}

impl<N: Name> NameIndex<N> {
    fn new(faces: &SharedMap<N, IndexEntry<N>>) -> Self {
        Self {
            by_object: faces
                .values()
                .map(|face| (face.object.clone(), Arc::clone(face)))
                .collect(),
            by_name: faces
                .values()
                .map(|face| (face.name.folded(), Arc::clone(face)))
                .collect(),
        }
    }

    /// What a reference from inside `mesh` leads to.
    pub(crate) fn look_up(&self, reference: &UnresolvedRef, mesh: &Arc<str>) -> Lookup<N> {
        let face = match reference {
            UnresolvedRef::Object(object) => self.by_object.get(object),
            UnresolvedRef::Name { mesh: named, .. } if named != mesh => {
                return Err(LookupError::OtherMesh(Arc::clone(named)));
            }
            UnresolvedRef::Name { mesh, name } => {
                self.by_name.get(&(Arc::clone(mesh), N::fold(name)))
            }
        };
        match face {
            Some(face) if face.name.mesh() == mesh => Ok(Arc::clone(face)),
            Some(face) => Err(LookupError::OtherMesh(Arc::clone(face.name.mesh()))),
            None => Err(LookupError::NotFound),
        }
    }
}

/// The directory of a kind, made again only when a face changes.
#[derive(Debug)]
pub(crate) struct NameIndexMemo<N, T> {
    values: SharedMap<N, T>,
    faces: Memo<N, Arc<T>, IndexEntry<N>>,
    directory: CachedValue<SharedMap<N, IndexEntry<N>>, NameIndex<N>>,
}

impl<N, T> Default for NameIndexMemo<N, T> {
    fn default() -> Self {
        Self {
            values: Arc::default(),
            faces: Memo::default(),
            directory: CachedValue::default(),
        }
    }
}

impl<N: Name, T> NameIndexMemo<N, T> {
    /// Of what is there now.
    pub(crate) fn update(
        &mut self,
        values: &SharedMap<N, T>,
        index_entry: impl Fn(&T) -> IndexEntry<N>,
    ) -> Arc<NameIndex<N>> {
        if !Arc::ptr_eq(&self.values, values) {
            self.values = Arc::clone(values);
            self.faces.update(&**values, |_, value| index_entry(value));
        }
        let faces = Arc::clone(self.faces.outputs());
        self.directory.update(faces, NameIndex::new)
    }
}

/// What a reference leads to, or why it leads nowhere.
pub(crate) type Lookup<N> = Result<Arc<IndexEntry<N>>, LookupError>;

/// Why a reference leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// There is no such object, or it is not served.
    NotFound,
    /// The object belongs to another mesh.
    OtherMesh(Arc<str>),
}

impl LookupError {
    /// Says so. `consequence` is what is not served because of it.
    pub(crate) fn report(
        &self,
        reference: &UnresolvedRef,
        kind: Kind,
        field: FieldPath,
        consequence: &str,
        problems: &mut Problems<'_>,
    ) {
        let what = match reference {
            UnresolvedRef::Object(object) => object.to_string(),
            UnresolvedRef::Name { name, .. } => format!("the {kind} with the awsName `{name}`"),
        };
        match self {
            Self::NotFound => problems.add(
                field,
                Reason::ReferenceNotFound,
                format!("{what} does not exist or is not usable itself; {consequence} until it is"),
            ),
            Self::OtherMesh(mesh) => problems.add(
                field,
                Reason::MeshMismatch,
                format!("{what} belongs to the mesh `{mesh}`; {consequence}: refer to a member of the same mesh"),
            ),
        }
    }
}

/// A reference as written, not yet followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnresolvedRef {
    /// `…Ref`
    Object(ObjectRef),
    /// `…ARN`
    Name {
        /// The mesh it leads into.
        mesh: Arc<str>,
        /// An `awsName`
        name: Arc<str>,
    },
}

/// `…Ref` and `…ARN` of one kind, of which exactly one must be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefOrArn<'a> {
    pub(crate) kind: Kind,
    /// Name and namespace; the referrer's when absent.
    pub(crate) object: Option<(&'a str, Option<&'a str>)>,
    pub(crate) arn: Option<&'a str>,
}

impl RefOrArn<'_> {
    /// Reads it. `field` holds both fields.
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
                    format!("both {word}Ref and {word}ARN are set: keep one"),
                );
                None
            }
            (None, None) => {
                problems.add(
                    field.clone(),
                    Reason::InvalidUnion,
                    format!("neither {word}Ref nor {word}ARN is set: set one"),
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

/// The mesh and name in `arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/KIND/NAME`. Region and account do not
/// matter.
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
        ["mesh", _, kind, _] => format!("`{arn}` names a {kind}, not a {word}"),
        _ => format!(
            "`{arn}` is not of the form arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/{word}/NAME"
        ),
    };
    problems.add(field, Reason::InvalidValue, message);
    None
}

/// Objects by name; the second of two with one name is left out with a problem.
#[derive(Debug, PartialEq)]
pub(crate) struct UniqueByName<N: Ord, T> {
    pub(crate) values: SharedMap<N, T>,
    pub(crate) problems: Arc<[Problem]>,
}

/// Drafts that know their name.
pub(crate) trait Unresolved {
    /// What kind of name.
    type Name: Name;
    /// Its name in the mesh.
    fn name(&self) -> &Self::Name;
}

impl<N: Name, T: Unresolved<Name = N>> UniqueByName<N, T> {
    /// Of drafts by their object. The first of two with one name counts.
    pub(crate) fn new(drafts: &BTreeMap<ObjectRef, Arc<T>>) -> Self {
        let mut sorted: Vec<_> = drafts
            .iter()
            .map(|(object, draft)| (draft.name().folded(), object, draft))
            .collect();
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        let mut values: Vec<(N, Arc<T>)> = Vec::with_capacity(sorted.len());
        let mut problems = Vec::new();
        let mut last = None;
        for (folded, object, draft) in sorted {
            match &last {
                Some((taken, owner)) if *taken == folded => problems.push(Problem::new(
                    object,
                    FieldPath::spec().field("awsName"),
                    N::DUPLICATE,
                    format!(
                        "{owner} has the awsName `{}` in the mesh `{}` already and counts; choose another awsName",
                        draft.name().text(),
                        draft.name().mesh(),
                    ),
                )),
                _ => {
                    values.push((draft.name().clone(), Arc::clone(draft)));
                    last = Some((folded, object));
                }
            }
        }
        Self {
            values: Arc::new(values.into_iter().collect()),
            problems: problems.into(),
        }
    }
}

/// Ports of which each counts once, the first of two; the second is a problem at `field[i]`.
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
                        "port {port} is taken by listener {first} already; remove one of the two"
                    ),
                );
                return None;
            }
            seen.insert(port, index);
            Some(ServicePort { port, protocol })
        })
        .collect()
}
