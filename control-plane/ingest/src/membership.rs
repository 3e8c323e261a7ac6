//! Membership: the mesh to which an object belongs, and the evaluation of label selectors.
//!
//! An object with a `meshRef` belongs to that mesh. Any other object belongs to the mesh whose `namespaceSelector`
//! selects the labels of its namespace; if no mesh or several meshes do, the object has a problem.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{AllowedNamespaces, Problem, Reason, ResolvedMesh, problem::FieldPath};
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use crate::{admission, object::is_label, stage::Problems, values};

/// Label with the name of the namespace. The API server sets it; for objects from files, Evermesh adds it.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// `metadata.labels` of an object.
pub type Labels = BTreeMap<String, String>;

/// Returns whether a label selector selects these labels.
///
/// An empty selector selects everything. The meaning of an absent selector differs between fields; callers handle it.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    requirements(selector).all(|requirement| requirement.holds(labels))
}

/// Describes each requirement of a selector that the labels do not meet: ``label `app` is `web` but must be `api` ``.
/// Empty if the selector selects the labels.
pub fn mismatches(selector: &LabelSelector, labels: &Labels) -> Vec<String> {
    requirements(selector)
        .filter(|requirement| !requirement.holds(labels))
        .map(|requirement| requirement.mismatch(labels))
        .collect()
}

/// One requirement of a label selector.
enum Requirement<'a> {
    Label(&'a str, &'a str),
    Expression(&'a LabelSelectorRequirement),
}

fn requirements(selector: &LabelSelector) -> impl Iterator<Item = Requirement<'_>> {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    let labels = match_labels.iter().flatten();
    let expressions = match_expressions.iter().flatten();
    labels
        .map(|(key, value)| Requirement::Label(key, value))
        .chain(expressions.map(Requirement::Expression))
}

impl Requirement<'_> {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::Label(key, value) => labels.get(*key).is_some_and(|found| found == value),
            Self::Expression(expression) => requirement_holds(expression, labels),
        }
    }

    /// Describes why the labels do not meet the requirement.
    fn mismatch(&self, labels: &Labels) -> String {
        let (key, requirement) = match self {
            Self::Label(key, value) => (*key, format!("be `{value}`")),
            Self::Expression(expression) => {
                let values: Vec<_> = expression.values.iter().flatten().collect();
                let key = expression.key.as_str();
                let requirement = match expression.operator.as_str() {
                    "In" => format!("be one of {}", list(&values)),
                    "NotIn" => format!("not be one of {}", list(&values)),
                    "Exists" => "be present".to_owned(),
                    "DoesNotExist" => "be absent".to_owned(),
                    other => {
                        return format!(
                            "`{other}` is not a valid operator for label `{key}`; use In, NotIn, Exists or DoesNotExist"
                        );
                    }
                };
                (key, requirement)
            }
        };
        match labels.get(key) {
            Some(found) => format!("label `{key}` is `{found}` but must {requirement}"),
            None => format!("label `{key}` is missing but must {requirement}"),
        }
    }
}

fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let LabelSelectorRequirement {
        key,
        operator,
        values,
    } = requirement;
    let value = labels.get(key);
    let is_listed = value.is_some_and(|value| values.iter().flatten().any(|one| one == value));
    match operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// The labels of a namespace. A namespace without an object, as in a folder of files, has only the label with its name.
pub fn namespace_labels(name: &str, namespace: Option<&Namespace>) -> Labels {
    let mut labels = namespace
        .and_then(|namespace| namespace.metadata.labels.clone())
        .unwrap_or_default();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    labels
}

/// The mesh to which an object belongs, or the reason why it belongs to none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Membership {
    /// The object is a member of this mesh.
    Member(Arc<ResolvedMesh>),
    /// `meshRef` names an unknown mesh. Contains the names of the known meshes.
    Unknown(Vec<Arc<str>>),
    /// No mesh selects the namespace. Contains the names of the known meshes.
    Unselected(Vec<Arc<str>>),
    /// Several meshes, with these names, select the namespace.
    Ambiguous(Vec<Arc<str>>),
}

/// The valid meshes, for looking up memberships.
#[derive(Debug, PartialEq)]
pub(crate) struct MeshLookup {
    /// Memberships of objects with a `meshRef`, by name.
    by_reference: BTreeMap<Arc<str>, Arc<Membership>>,
    /// Membership of objects whose `meshRef` names an unknown mesh.
    unknown: Arc<Membership>,
    selectors: Vec<(Arc<str>, Arc<ResolvedMesh>, LabelSelector)>,
}

impl MeshLookup {
    /// Indexes meshes, given by object name with their `namespaceSelector`.
    pub(crate) fn new(
        meshes: &BTreeMap<Arc<str>, (Arc<ResolvedMesh>, Option<LabelSelector>)>,
    ) -> Self {
        Self {
            by_reference: meshes
                .iter()
                .map(|(name, (mesh, _))| {
                    let membership = Membership::Member(Arc::clone(mesh));
                    (Arc::clone(name), Arc::new(membership))
                })
                .collect(),
            unknown: Arc::new(Membership::Unknown(meshes.keys().cloned().collect())),
            selectors: meshes
                .iter()
                .filter_map(|(name, (mesh, selector))| {
                    Some((Arc::clone(name), Arc::clone(mesh), selector.clone()?))
                })
                .collect(),
        }
    }

    /// The membership of objects whose `meshRef` has this name.
    pub(crate) fn of_reference(&self, name: &str) -> &Arc<Membership> {
        self.by_reference.get(name).unwrap_or(&self.unknown)
    }

    /// The membership of objects without a `meshRef` in a namespace with these labels.
    pub(crate) fn of_namespace(&self, labels: &Labels) -> Membership {
        let selecting: Vec<_> = self
            .selectors
            .iter()
            .filter(|(_, _, selector)| selects(selector, labels))
            .collect();
        match selecting.as_slice() {
            [] => Membership::Unselected(self.by_reference.keys().cloned().collect()),
            [(_, mesh, _)] => Membership::Member(Arc::clone(mesh)),
            several => Membership::Ambiguous(
                several
                    .iter()
                    .map(|(name, _, _)| Arc::clone(name))
                    .collect(),
            ),
        }
    }
}

impl Membership {
    /// Returns the mesh of an object and its `awsName`.
    ///
    /// Returns `None` if the object belongs to no mesh, if its name is invalid (both with a problem), or if admission
    /// rejected it (`rejections`, which are added to `problems`).
    pub(crate) fn mesh_and_name(
        &self,
        mesh_ref: Option<&v1beta2::MeshReference>,
        aws_name: Option<&str>,
        rejections: Vec<Problem>,
        problems: &mut Problems<'_>,
    ) -> Option<(Arc<ResolvedMesh>, Arc<str>)> {
        let is_rejected = !rejections.is_empty();
        problems.extend(rejections);
        let mesh = self.mesh(mesh_ref.map(|mesh| mesh.name.as_str()), problems)?;
        let name = admission::aws_name(problems.object(), aws_name);
        let name = values::name(name, problems)?;
        (!is_rejected).then_some((mesh, name))
    }

    /// Returns the mesh, or `None` with a problem. `reference` is the object's `meshRef.name`.
    pub(crate) fn mesh(
        &self,
        reference: Option<&str>,
        problems: &mut Problems<'_>,
    ) -> Option<Arc<ResolvedMesh>> {
        let namespace = &problems.object().namespace;
        let (reason, message) = match self {
            Self::Member(mesh) => return Some(Arc::clone(mesh)),
            Self::Unknown(known) => (
                Reason::MeshNotFound,
                format!(
                    "Mesh `{}` does not exist or is not valid; create or correct it ({})",
                    reference.unwrap_or_default(),
                    known_meshes(known)
                ),
            ),
            Self::Unselected(known) => (
                Reason::MeshNotFound,
                format!(
                    "no mesh selects namespace `{namespace}`; label the namespace to match a mesh's namespaceSelector, or set spec.meshRef ({})",
                    known_meshes(known)
                ),
            ),
            Self::Ambiguous(several) => (
                Reason::MeshAmbiguous,
                format!(
                    "several meshes select namespace `{namespace}`: {}; narrow their namespaceSelectors until only one matches, or set spec.meshRef",
                    list(several)
                ),
            ),
        };
        problems.add(FieldPath::spec().field("meshRef"), reason, message);
        None
    }
}

/// Lists the known meshes for a message.
pub(crate) fn known_meshes(known: &[Arc<str>]) -> String {
    if known.is_empty() {
        "no mesh is known".to_owned()
    } else {
        format!("known meshes: {}", list(known))
    }
}

/// Parses namespaces that are separated by commas, or `*` for all. `Err` contains a part that is neither.
pub(crate) fn read_namespaces(list: &str) -> Result<AllowedNamespaces, &str> {
    let mut namespaces = BTreeSet::new();
    for namespace in list.split(',') {
        match namespace.trim() {
            "*" => return Ok(AllowedNamespaces::All),
            name if is_label(name) => namespaces.insert(name.into()),
            other => return Err(other),
        };
    }
    Ok(AllowedNamespaces::Only(namespaces))
}

/// Formats names for a message: `` `a`, `b` and `c` ``; `none` for an empty list.
pub fn list<T: std::fmt::Display>(names: &[T]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn selector(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
            }]),
        }
    }

    #[test]
    fn selectors_select_like_kubernetes() {
        let shop = labels(&[("mesh", "shop")]);
        assert!(selects(&LabelSelector::default(), &shop));
        assert!(selects(&LabelSelector::default(), &Labels::new()));
        for (operator, values, expected, expected_without) in [
            ("In", &["shop", "x"][..], true, false),
            ("In", &["x"], false, false),
            ("NotIn", &["x"], true, true),
            ("NotIn", &["shop"], false, true),
            ("Exists", &[], true, false),
            ("DoesNotExist", &[], false, true),
            ("Near", &["shop"], false, false),
        ] {
            let selector = selector("mesh", operator, values);
            assert_eq!(selects(&selector, &shop), expected, "{operator} {values:?}");
            assert_eq!(mismatches(&selector, &shop).is_empty(), expected);
            assert_eq!(
                selects(&selector, &Labels::new()),
                expected_without,
                "{operator} {values:?} without the label"
            );
        }
        let both = LabelSelector {
            match_labels: Some(labels(&[("mesh", "shop")])),
            ..selector("stage", "Exists", &[])
        };
        assert!(!selects(&both, &shop), "all requirements must be met");
    }

    #[test]
    fn mismatches_name_the_label_and_the_requirement() {
        let has = labels(&[("app", "web")]);
        let wants = LabelSelector {
            match_labels: Some(labels(&[("app", "api"), ("tier", "back")])),
            ..selector("stage", "NotIn", &["x"])
        };
        assert_eq!(
            mismatches(&wants, &has),
            [
                "label `app` is `web` but must be `api`",
                "label `tier` is missing but must be `back`",
            ]
        );
        for (operator, values, expected) in [
            (
                "In",
                &["a", "b"][..],
                "label `app` is `web` but must be one of `a` and `b`",
            ),
            (
                "NotIn",
                &["web"],
                "label `app` is `web` but must not be one of `web`",
            ),
            (
                "DoesNotExist",
                &[],
                "label `app` is `web` but must be absent",
            ),
            (
                "Near",
                &[],
                "`Near` is not a valid operator for label `app`; use In, NotIn, Exists or DoesNotExist",
            ),
        ] {
            assert_eq!(
                mismatches(&selector("app", operator, values), &has),
                [expected]
            );
        }
        let missing = mismatches(&selector("app", "Exists", &[]), &Labels::new());
        assert_eq!(missing, ["label `app` is missing but must be present"]);
    }

    #[test]
    fn lists_are_phrases() {
        assert_eq!(list::<&str>(&[]), "none");
        assert_eq!(list(&["a"]), "`a`");
        assert_eq!(list(&["a", "b"]), "`a` and `b`");
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
    }

    #[test]
    fn namespace_has_its_name_as_a_label() {
        assert_eq!(
            namespace_labels("shop", None),
            labels(&[(NAMESPACE_NAME_LABEL, "shop")])
        );
        let mut namespace = Namespace::default();
        namespace.metadata.labels = Some(labels(&[("mesh", "m")]));
        assert_eq!(
            namespace_labels("shop", Some(&namespace)),
            labels(&[(NAMESPACE_NAME_LABEL, "shop"), ("mesh", "m")])
        );
    }
}
