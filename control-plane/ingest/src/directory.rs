//! What may be referred to, by object and by `awsName`, and how a reference is read.
//!
//! A [`Face`] is all that others may know of an object: its name and its ports. As long as it stays the
//! same, nothing that refers to the object has to be looked at again.
//!
//! Must not know any kind of object beyond its name.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{
    Kind, Memo, ObjectRef, Problem, Protocol, Reason, ResourceName, ServiceName, ServicePort,
    Shared, problem::FieldPath,
};

use crate::stage::{Once, Problems};

/// A mesh and a name in it, as they are compared.
type Folded = (Arc<str>, Arc<str>);

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
    fn folded(&self) -> Folded {
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
pub(crate) struct Face<N> {
    pub(crate) name: N,
    pub(crate) object: ObjectRef,
    pub(crate) ports: Vec<ServicePort>,
}

/// Everything of one kind that may be referred to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Directory<N> {
    by_object: BTreeMap<ObjectRef, Arc<Face<N>>>,
    by_name: BTreeMap<Folded, Arc<Face<N>>>,
}

impl<N: Name> Directory<N> {
    fn new(faces: &Shared<N, Face<N>>) -> Self {
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
    pub(crate) fn find(&self, reference: &Reference, mesh: &Arc<str>) -> Found<N> {
        let face = match reference {
            Reference::Object(object) => self.by_object.get(object),
            Reference::Name { mesh: named, .. } if named != mesh => {
                return Err(Miss::OtherMesh(Arc::clone(named)));
            }
            Reference::Name { mesh, name } => self.by_name.get(&(Arc::clone(mesh), N::fold(name))),
        };
        match face {
            Some(face) if face.name.mesh() == mesh => Ok(Arc::clone(face)),
            Some(face) => Err(Miss::OtherMesh(Arc::clone(face.name.mesh()))),
            None => Err(Miss::NotFound),
        }
    }
}

/// The directory of a kind, made again only when a face changes.
#[derive(Debug)]
pub(crate) struct DirectoryMemo<N, T> {
    values: Shared<N, T>,
    faces: Memo<N, Arc<T>, Face<N>>,
    directory: Once<Shared<N, Face<N>>, Directory<N>>,
}

impl<N, T> Default for DirectoryMemo<N, T> {
    fn default() -> Self {
        Self {
            values: Arc::default(),
            faces: Memo::default(),
            directory: Once::default(),
        }
    }
}

impl<N: Name, T> DirectoryMemo<N, T> {
    /// Of what is there now.
    pub(crate) fn turn(
        &mut self,
        values: &Shared<N, T>,
        face: impl Fn(&T) -> Face<N>,
    ) -> Arc<Directory<N>> {
        if !Arc::ptr_eq(&self.values, values) {
            self.values = Arc::clone(values);
            self.faces.turn(&**values, |_, value| face(value));
        }
        let faces = Arc::clone(self.faces.outputs());
        self.directory.turn(faces, Directory::new)
    }
}

/// What a reference leads to, or why it leads nowhere.
pub(crate) type Found<N> = Result<Arc<Face<N>>, Miss>;

/// Why a reference leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Miss {
    /// There is no such object, or it is not served.
    NotFound,
    /// The object belongs to another mesh.
    OtherMesh(Arc<str>),
}

impl Miss {
    /// Says so. `consequence` is what is not served because of it.
    pub(crate) fn report(
        &self,
        reference: &Reference,
        kind: Kind,
        field: FieldPath,
        consequence: &str,
        problems: &mut Problems<'_>,
    ) {
        let what = match reference {
            Reference::Object(object) => object.to_string(),
            Reference::Name { name, .. } => format!("the {kind} with the awsName `{name}`"),
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
pub(crate) enum Reference {
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
pub(crate) struct Written<'a> {
    pub(crate) kind: Kind,
    /// Name and namespace; the referrer's when absent.
    pub(crate) object: Option<(&'a str, Option<&'a str>)>,
    pub(crate) arn: Option<&'a str>,
}

impl Written<'_> {
    /// Reads it. `field` holds both fields.
    pub(crate) fn read(self, field: &FieldPath, problems: &mut Problems<'_>) -> Option<Reference> {
        let word = camel_case(self.kind);
        match (self.object, self.arn) {
            (Some((name, namespace)), None) => {
                let namespace = match namespace {
                    Some(namespace) => namespace.into(),
                    None => Arc::clone(&problems.object().namespace),
                };
                Some(Reference::Object(ObjectRef::new(
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
) -> Option<Reference> {
    let resource = arn
        .strip_prefix("arn:")
        .and_then(|rest| rest.splitn(5, ':').nth(4))
        .unwrap_or_default();
    let parts: Vec<&str> = resource.split('/').collect();
    let message = match parts[..] {
        ["mesh", mesh, kind, name] if kind == word => {
            let mesh = mesh.split_once('@').map_or(mesh, |(mesh, _owner)| mesh);
            return Some(Reference::Name {
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
pub(crate) struct ByName<N: Ord, T> {
    pub(crate) values: Shared<N, T>,
    pub(crate) problems: Arc<[Problem]>,
}

/// Drafts that know their name.
pub(crate) trait Draft {
    /// What kind of name.
    type Name: Name;
    /// Its name in the mesh.
    fn name(&self) -> &Self::Name;
}

impl<N: Name, T: Draft<Name = N>> ByName<N, T> {
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
