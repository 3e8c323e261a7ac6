//! Who belongs to which mesh: one place for the selector rules.
//!
//! A namespace's labels and the meshes' selectors come in, a [`Membership`] goes out. An object whose
//! `meshRef` is set belongs to that mesh, whatever the selectors say.
//!
//! Must not look at what the members contain.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{Mesh, Reason, problem::FieldPath};
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use crate::stage::Problems;

/// The label every namespace has, by the API server's hand or by ours.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether a label selector selects these labels. An empty selector selects everything; what an absent
/// selector means differs from field to field and is the caller's to say.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value))
        && match_expressions
            .iter()
            .flatten()
            .all(|requirement| requirement_holds(requirement, labels))
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
    Member(Arc<Mesh>),
    /// `meshRef` names a mesh that is not there. These are.
    Unknown(Vec<Arc<str>>),
    /// No mesh selects the namespace. These are there.
    Unselected(Vec<Arc<str>>),
    /// All of these select the namespace.
    Ambiguous(Vec<Arc<str>>),
}

/// Every mesh that is served, as membership sees it.
#[derive(Debug, PartialEq)]
pub(crate) struct Meshes {
    /// Of an object whose `meshRef` has this name.
    by_reference: BTreeMap<Arc<str>, Arc<Membership>>,
    /// Of an object whose `meshRef` has any other name.
    unknown: Arc<Membership>,
    selectors: Vec<(Arc<str>, Arc<Mesh>, LabelSelector)>,
}

impl Meshes {
    /// Meshes by the name of their object, with their `namespaceSelector`.
    pub(crate) fn new(meshes: &BTreeMap<Arc<str>, (Arc<Mesh>, Option<LabelSelector>)>) -> Self {
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
    /// The mesh, or nothing and a problem. `reference` is the object's `meshRef.name`.
    pub(crate) fn mesh(
        &self,
        reference: Option<&str>,
        problems: &mut Problems<'_>,
    ) -> Option<Arc<Mesh>> {
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
pub(crate) fn list<T: std::fmt::Display>(names: &[T]) -> String {
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
