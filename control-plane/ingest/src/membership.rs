//! Who belongs to which mesh: one place for the selector rules.
//!
//! A namespace's labels and the meshes' selectors come in, a [`Membership`] goes out. An object whose
//! `meshRef` is set belongs to that mesh, whatever the selectors say.
//!
//! Must not look at what the members contain.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Problem, Reason, ResolvedMesh, problem::FieldPath};
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use crate::{admission, stage::Problems, values};

/// The label every namespace has, by the API server's hand or by ours.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether a label selector selects these labels. An empty selector selects everything; what an absent
/// selector means differs from field to field and is the caller's to say.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    requirements(selector).all(|requirement| requirement.holds(labels))
}

/// What of a label selector does not hold for these labels, in words such as ``the label `app` is `x`, not `y` ``;
/// empty if it selects them.
pub fn mismatches(selector: &LabelSelector, labels: &Labels) -> Vec<String> {
    requirements(selector)
        .filter(|requirement| !requirement.holds(labels))
        .map(|requirement| requirement.mismatch(labels))
        .collect()
}

/// One of the conditions of a label selector.
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

    /// Why it does not hold.
    fn mismatch(&self, labels: &Labels) -> String {
        let (key, wanted) = match self {
            Self::Label(key, value) => (*key, format!("be `{value}`")),
            Self::Expression(expression) => {
                let values: Vec<_> = expression.values.iter().flatten().collect();
                let key = expression.key.as_str();
                let wanted = match expression.operator.as_str() {
                    "In" => format!("be one of {}", list(&values)),
                    "NotIn" => format!("not be one of {}", list(&values)),
                    "Exists" => "be there".to_owned(),
                    "DoesNotExist" => "not be there".to_owned(),
                    other => return format!("`{other}` for the label `{key}` is no operator"),
                };
                (key, wanted)
            }
        };
        match labels.get(key) {
            Some(found) => format!("the label `{key}` is `{found}` and must {wanted}"),
            None => format!("the label `{key}` is missing and must {wanted}"),
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

/// The labels of a namespace. One without an object, as in a folder of files, has only its name as a label.
pub fn namespace_labels(name: &str, namespace: Option<&Namespace>) -> Labels {
    let mut labels = namespace
        .and_then(|namespace| namespace.metadata.labels.clone())
        .unwrap_or_default();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    labels
}

/// Which mesh an object belongs to, or why none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Membership {
    /// It is a member of this mesh.
    Member(Arc<ResolvedMesh>),
    /// `meshRef` names a mesh that is not there. These are.
    Unknown(Vec<Arc<str>>),
    /// No mesh selects the namespace. These are there.
    Unselected(Vec<Arc<str>>),
    /// All of these select the namespace.
    Ambiguous(Vec<Arc<str>>),
}

/// Every mesh that is served, as membership sees it.
#[derive(Debug, PartialEq)]
pub(crate) struct MeshLookup {
    /// Of an object whose `meshRef` has this name.
    by_reference: BTreeMap<Arc<str>, Arc<Membership>>,
    /// Of an object whose `meshRef` has any other name.
    unknown: Arc<Membership>,
    selectors: Vec<(Arc<str>, Arc<ResolvedMesh>, LabelSelector)>,
}

impl MeshLookup {
    /// Meshes by the name of their object, with their `namespaceSelector`.
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

    /// What a `meshRef` of this name means.
    pub(crate) fn of_reference(&self, name: &str) -> &Arc<Membership> {
        self.by_reference.get(name).unwrap_or(&self.unknown)
    }

    /// What a namespace with these labels belongs to.
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
    /// The mesh of an object and its name there. None, and the problems, if it has either not; none too if there are
    /// `refusals`: admission's words on it.
    pub(crate) fn mesh_and_name(
        &self,
        mesh_ref: Option<&v1beta2::MeshReference>,
        aws_name: Option<&str>,
        rejections: Vec<Problem>,
        problems: &mut Problems<'_>,
    ) -> Option<(Arc<ResolvedMesh>, Arc<str>)> {
        let is_refused = !rejections.is_empty();
        problems.extend(rejections);
        let mesh = self.mesh(mesh_ref.map(|mesh| mesh.name.as_str()), problems)?;
        let name = admission::aws_name(problems.object(), aws_name);
        let name = values::name(name, problems)?;
        (!is_refused).then_some((mesh, name))
    }

    /// The mesh, or nothing and a problem. `reference` is the object's `meshRef.name`.
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
                    "there is no usable Mesh `{}`; {}",
                    reference.unwrap_or_default(),
                    there_are(known, "create it, or name another one")
                ),
            ),
            Self::Unselected(known) => (
                Reason::MeshNotFound,
                format!(
                    "no mesh selects the namespace `{namespace}`; {}",
                    there_are(
                        known,
                        "label the namespace as its namespaceSelector wants, or set spec.meshRef"
                    )
                ),
            ),
            Self::Ambiguous(several) => (
                Reason::MeshAmbiguous,
                format!(
                    "the meshes {} all select the namespace `{namespace}`; narrow their namespaceSelectors to one, or set spec.meshRef",
                    list(several)
                ),
            ),
        };
        problems.add(FieldPath::spec().field("meshRef"), reason, message);
        None
    }
}

/// Which meshes there are, and what to do with them.
pub(crate) fn there_are(known: &[Arc<str>], advice: &str) -> String {
    if known.is_empty() {
        "there is no mesh at all: create one".to_owned()
    } else {
        format!("there is {}: {advice}", list(known))
    }
}

/// `a`, `b` and `c`, in backquotes.
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
    fn selects_as_kubernetes_does() {
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
        assert!(!selects(&both, &shop), "all of it must hold");
    }

    #[test]
    fn says_why_it_does_not_select() {
        let has = labels(&[("app", "web")]);
        let wants = LabelSelector {
            match_labels: Some(labels(&[("app", "api"), ("tier", "back")])),
            ..selector("stage", "NotIn", &["x"])
        };
        assert_eq!(
            mismatches(&wants, &has),
            [
                "the label `app` is `web` and must be `api`",
                "the label `tier` is missing and must be `back`",
            ]
        );
        for (operator, values, expected) in [
            (
                "In",
                &["a", "b"][..],
                "the label `app` is `web` and must be one of `a` and `b`",
            ),
            (
                "NotIn",
                &["web"],
                "the label `app` is `web` and must not be one of `web`",
            ),
            (
                "DoesNotExist",
                &[],
                "the label `app` is `web` and must not be there",
            ),
            ("Near", &[], "`Near` for the label `app` is no operator"),
        ] {
            assert_eq!(
                mismatches(&selector("app", operator, values), &has),
                [expected]
            );
        }
        let missing = mismatches(&selector("app", "Exists", &[]), &Labels::new());
        assert_eq!(missing, ["the label `app` is missing and must be there"]);
    }

    #[test]
    fn a_namespace_has_its_name_as_a_label() {
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
