//! The consent of a router's owner to `Route` objects, which take requests of the router.
//!
//! A Route attaches to a router of its own namespace. The annotation `evermesh.dev/allowed-routes` of the router also
//! allows the namespaces whose labels it selects, if they belong to the mesh of the router:
//!
//! ```yaml
//! evermesh.dev/allowed-routes: team in (red, blue)
//! ```
//!
//! The annotation `evermesh.dev/delegated-routes` limits what a Route may match. A Route without a line is not served:
//!
//! ```yaml
//! evermesh.dev/delegated-routes: |
//!   cart: /cart
//!   red/search: /search priority 100
//!   blue/*: /blue
//! ```

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use evermesh_model::{ObjectRef, Problem, Reason, problem::FieldPath, route::PathMatch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};

use crate::{
    membership::{Labels, mismatches},
    object::{is_label, is_subdomain},
    route::UnresolvedRoute,
    schema::quote,
    stage::Problems,
};

const ALLOWED_ROUTES: &str = "evermesh.dev/allowed-routes";
const DELEGATED_ROUTES: &str = "evermesh.dev/delegated-routes";

/// The name that stands for every Route of a namespace.
const EVERY_ROUTE: &str = "*";

/// The annotations of a router by which its owner admits `Route` objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RouterConsent {
    /// The namespaces whose Routes are allowed besides those of the router's namespace.
    namespaces: Option<LabelSelector>,
    /// The limits of Routes, by namespace and name. Absent if Routes may match everything.
    grants: Option<Grants>,
}

/// Limits by namespace and name of a Route.
type Grants = BTreeMap<RouteName, RouteGrant>;

/// The namespace of a Route, and its name or [`EVERY_ROUTE`].
type RouteName = (Arc<str>, Arc<str>);

/// The limits of the match and the priority of a Route.
#[derive(Debug, Clone, PartialEq)]
struct RouteGrant {
    /// The beginning of each path.
    prefix: String,
    /// The smallest priority. Without it, the Route may not have a priority.
    priority: Option<u32>,
}

/// The namespace of a `Route`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteNamespace {
    pub(crate) labels: Arc<Labels>,
    /// The name of the mesh whose `namespaceSelector` selects the namespace.
    pub(crate) mesh: Option<Arc<str>>,
}

impl RouterConsent {
    /// Parses the annotations. An annotation that is not valid allows nothing.
    pub(crate) fn read(router: &ObjectMeta, problems: &mut Problems<'_>) -> Self {
        let own = Arc::clone(&problems.object().namespace);
        let annotation = |name| router.annotations.as_ref()?.get(name);
        let namespaces = annotation(ALLOWED_ROUTES).and_then(|text| {
            let selector = parse_selector(text);
            selector
                .map_err(|message| {
                    problems.add(
                        field(ALLOWED_ROUTES),
                        Reason::InvalidValue,
                        format!("{message}, so no route of another namespace is served; write a label selector as `kubectl get --selector` takes it, such as `kubernetes.io/metadata.name in (red, blue)`"),
                    );
                })
                .ok()
        });
        let grants = annotation(DELEGATED_ROUTES).map(|text| read_grants(text, &own, problems));
        Self { namespaces, grants }
    }

    /// Returns the problem of a Route that may not be attached to `router`, which belongs to `mesh`. `namespace` may be
    /// absent for a Route in the namespace of the router.
    pub(crate) fn refusal(
        &self,
        (router, mesh): (&ObjectRef, &str),
        route: &UnresolvedRoute,
        namespace: Option<&RouteNamespace>,
    ) -> Option<Problem> {
        self.attachment((router, mesh), &route.object, namespace)
            .or_else(|| self.excess(router, route))
    }

    fn attachment(
        &self,
        (router, mesh): (&ObjectRef, &str),
        route: &ObjectRef,
        namespace: Option<&RouteNamespace>,
    ) -> Option<Problem> {
        if route.namespace == router.namespace {
            return None;
        }
        let own = &route.namespace;
        let problem = |reason, message| {
            let field = FieldPath::spec().field("virtualRouterRef");
            Some(Problem::new(route, field, reason, message))
        };
        let namespace = namespace.filter(|namespace| namespace.mesh.as_deref() == Some(mesh));
        let Some(namespace) = namespace else {
            let message = format!(
                "namespace `{own}` does not belong to mesh `{mesh}` of `{router}`, so the route is not served; label the namespace to match the namespaceSelector of the mesh"
            );
            return problem(Reason::MeshMismatch, message);
        };
        let remedy = format!(
            "so the route is not served; move the route to namespace `{}`, or let the owner of the router select the namespace with the annotation {ALLOWED_ROUTES}",
            router.namespace
        );
        let Some(selector) = &self.namespaces else {
            let message = format!("`{router}` accepts no route of namespace `{own}`, {remedy}");
            return problem(Reason::NotAllowed, message);
        };
        let mismatches = mismatches(selector, &namespace.labels);
        if mismatches.is_empty() {
            return None;
        }
        let message = format!(
            "`{router}` accepts no route of namespace `{own}` ({}), {remedy}",
            mismatches.join("; ")
        );
        problem(Reason::NotAllowed, message)
    }

    /// The problem of a Route that exceeds its grant.
    fn excess(&self, router: &ObjectRef, route: &UnresolvedRoute) -> Option<Problem> {
        let grants = self.grants.as_ref()?;
        let of = |name: &str| grants.get(&(Arc::clone(&route.object.namespace), name.into()));
        let not_allowed = |field, message: String| {
            let message = format!(
                "{message}, so the route is not served; the owner of the router can change this with the annotation {DELEGATED_ROUTES}"
            );
            Some(Problem::new(
                &route.object,
                field,
                Reason::NotAllowed,
                message,
            ))
        };
        let Some(grant) = of(&route.name).or_else(|| of(EVERY_ROUTE)) else {
            let message = format!("`{router}` delegates nothing to this route");
            return not_allowed(FieldPath::root().field("metadata.name"), message);
        };
        let RouteGrant { prefix, priority } = grant;
        let is_inside = match route.path() {
            Some(PathMatch::Prefix(path) | PathMatch::Exact(path)) => path.starts_with(prefix),
            // Every path begins with a slash.
            Some(PathMatch::Regex(_)) | None => prefix == "/",
        };
        if !is_inside {
            let message = format!(
                "`{router}` delegates only paths that begin with `{prefix}` to this route, which a prefix or an exact path of its match must do"
            );
            return not_allowed(route.field().field("match"), message);
        }
        let message = match (route.priority, priority) {
            (Some(own), Some(smallest)) if own < *smallest => {
                format!(
                    "`{router}` delegates no priority below {smallest} to this route, which has {own}"
                )
            }
            (Some(own), None) => {
                format!("`{router}` delegates no priority to this route, which has {own}")
            }
            _ => return None,
        };
        not_allowed(FieldPath::spec().field("priority"), message)
    }
}

/// Parses the lines of the annotation. A line that is not valid grants nothing.
fn read_grants(text: &str, own: &Arc<str>, problems: &mut Problems<'_>) -> Grants {
    let mut grants = Grants::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let message = match read_grant(line, own) {
            Ok((route, grant)) => match grants.entry(route) {
                Entry::Vacant(entry) => {
                    entry.insert(grant);
                    continue;
                }
                Entry::Occupied(_) => {
                    "an earlier line is for the same route; remove one of the two".to_owned()
                }
            },
            Err(message) => message,
        };
        let message = format!("line {number} is ignored: {message}");
        problems.add(field(DELEGATED_ROUTES), Reason::InvalidValue, message);
    }
    grants
}

/// Parses `ROUTE: PREFIX` or `ROUTE: PREFIX priority NUMBER`.
fn read_grant(line: &str, own: &Arc<str>) -> Result<(RouteName, RouteGrant), String> {
    let invalid = || {
        format!(
            "{} is not of the form ROUTE: PREFIX or ROUTE: PREFIX priority NUMBER; write for example `red/search: /search priority 100`",
            quote(line.trim())
        )
    };
    let (route, grant) = line.split_once(':').ok_or_else(invalid)?;
    let (namespace, name) = match route.trim().split_once('/') {
        Some((namespace, name)) => (namespace.into(), name),
        None => (Arc::clone(own), route.trim()),
    };
    if !is_label(&namespace) || !(name == EVERY_ROUTE || is_subdomain(name)) {
        return Err(format!(
            "{} does not name a Route; use NAME, NAMESPACE/NAME or NAMESPACE/*",
            quote(route.trim())
        ));
    }
    let mut words = grant.split_whitespace();
    let prefix = words.next().filter(|prefix| prefix.starts_with('/'));
    let prefix = prefix.ok_or_else(invalid)?.to_owned();
    let priority = match (words.next(), words.next(), words.next()) {
        (None, ..) => None,
        (Some("priority"), Some(number), None) => Some(number.parse().ok().ok_or_else(invalid)?),
        _ => return Err(invalid()),
    };
    Ok(((namespace, name.into()), RouteGrant { prefix, priority }))
}

fn field(annotation: &str) -> FieldPath {
    FieldPath::root()
        .field("metadata.annotations")
        .key(annotation)
}

/// Parses a label selector in the form of `kubectl get --selector`: `a=b`, `a!=b`, `a in (b, c)`, `a notin (b, c)`, `a`
/// and `!a`, separated by commas.
fn parse_selector(text: &str) -> Result<LabelSelector, String> {
    let mut rest = text;
    let mut requirements = Vec::new();
    loop {
        // A comma in parentheses separates values.
        let end = match (rest.find(','), rest.find('(')) {
            (Some(comma), Some(open)) if open < comma => {
                let close = rest.find(')').unwrap_or(rest.len());
                rest[close..].find(',').map(|comma| close + comma)
            }
            (comma, _) => comma,
        };
        let (first, after) = match end {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        requirements.push(parse_requirement(first.trim())?);
        match after {
            Some(after) => rest = after,
            None => break,
        }
    }
    Ok(LabelSelector {
        match_labels: None,
        match_expressions: Some(requirements),
    })
}

fn parse_requirement(text: &str) -> Result<LabelSelectorRequirement, String> {
    let invalid = || format!("{} is not a requirement of a label selector", quote(text));
    let (key, operator, values) = if let Some((key, value)) = text.split_once("!=") {
        (key, "NotIn", Some(vec![value]))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, "In", Some(vec![value]))
    } else if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(invalid)?;
        let (key, operator) = head
            .trim()
            .split_once(char::is_whitespace)
            .ok_or_else(invalid)?;
        let operator = match operator.trim() {
            "in" => "In",
            "notin" => "NotIn",
            _ => return Err(invalid()),
        };
        (key, operator, Some(values.split(',').collect()))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, "DoesNotExist", None)
    } else {
        (text, "Exists", None)
    };
    let key = key.trim();
    let values: Option<Vec<&str>> =
        values.map(|values: Vec<&str>| values.into_iter().map(str::trim).collect());
    let is_valid = is_label_key(key)
        && values
            .iter()
            .flatten()
            .all(|value| value.is_empty() || is_label_text(value));
    if !is_valid {
        return Err(invalid());
    }
    Ok(LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: values.map(|values| values.into_iter().map(str::to_owned).collect()),
    })
}

/// Returns whether the text is a key of a label: `NAME` or `DNS.SUBDOMAIN/NAME`.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_text(name),
        None => is_label_text(key),
    }
}

/// Returns whether the text is a name or a value of a label.
fn is_label_text(text: &str) -> bool {
    let is_end = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric());
    text.len() <= 63
        && is_end(text.chars().next())
        && is_end(text.chars().last())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || "._-".contains(one))
}

#[cfg(test)]
mod tests;
