//! The requests that a match accepts, as sets: which set contains another one, and which one is more specific.
//!
//! A match is a product: it limits the path, and for each header and query parameter that it names the values. So one
//! match accepts every request of another one if that holds for the path and for each name.
//!
//! ```text
//! prefix /a, x-team: present     contains    prefix /a/b, x-team: exact red, method GET
//! ```
//!
//! [`RequestSet::contains`] is true only if every request of the other match fits, as long as each header occurs once. (Of
//! a header that occurs several times, Envoy 1.36 compares the joined values, and Envoy 1.40 each of them.) Without regular expressions it is also
//! complete, with two exceptions: conditions on `:path` and `:authority` are compared among themselves, and not with the
//! path or the host name; and a range beside a prefix or suffix of the same header is not narrowed by it. Of an
//! expression it knows the text, the literals at its beginning and end, and often whether one text fits.
//!
//! [`RequestSet::specificity`] orders sets so that a set always precedes those that contain it. The order of two routes
//! depends on no third one, so a new route never exchanges two others.

mod claims;
mod expression;
mod value;

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use evermesh_model::route::{
    HttpMatch, Method, PathMatch, QueryMatch, RequestHeaderMatch, ValueMatch,
};

pub(crate) use self::claims::{Claim, limiting_port, takers};
use self::{
    expression::{ExpressionShape, ParsedExpression},
    value::{ValueSet, ValueSpecificity},
};

/// Whether every request that `narrow` accepts is accepted by `wide` too.
#[cfg(test)]
pub(crate) fn subsumes(wide: &HttpMatch, narrow: &HttpMatch) -> bool {
    RequestSet::of(wide).contains(&RequestSet::of(narrow))
}

/// The requests that a match accepts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RequestSet {
    path: PathSet,
    /// The limited headers, with pseudo-headers, and query parameters.
    values: BTreeMap<ValueName, ValueSet>,
    /// Whether two conditions contradict each other, or one contradicts all requests.
    pub(crate) is_contradictory: bool,
}

/// The paths that a match accepts. Every path begins with `/`.
#[derive(Debug, Clone, PartialEq)]
enum PathSet {
    /// The complete path
    Exact(Arc<str>),
    /// The beginning of the path
    Prefix {
        prefix: Arc<str>,
        /// Whether the path must be longer than the prefix.
        is_longer: bool,
    },
    /// A regular expression other than a literal with or without `.*` or `.+` at its end
    Regex(Arc<ParsedExpression>),
}

/// The subject of a condition on a value: a header in lower case or a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ValueName {
    Header(Arc<str>),
    Query(Arc<str>),
}

/// The pseudo-headers of which every request has a value.
const ALWAYS_PRESENT: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

impl RequestSet {
    pub(crate) fn of(matches: &HttpMatch) -> Self {
        let HttpMatch {
            path,
            method,
            scheme,
            headers,
            query,
        } = matches;
        let mut conditions: BTreeMap<ValueName, Vec<(ValueMatch, bool)>> = BTreeMap::new();
        let mut add = |name, value, invert| {
            conditions.entry(name).or_default().push((value, invert));
        };
        let pseudo = [
            (":method", method.map(Method::as_str)),
            (":scheme", scheme.map(evermesh_model::route::Scheme::as_str)),
        ];
        for (name, value) in pseudo {
            if let Some(value) = value {
                let name = ValueName::Header(name.into());
                add(name, ValueMatch::Exact(value.into()), false);
            }
        }
        for RequestHeaderMatch {
            name,
            value,
            invert,
        } in headers
        {
            let name = ValueName::Header(name.to_ascii_lowercase().into());
            add(name, value.clone(), *invert);
        }
        for QueryMatch { name, exact } in query {
            let value = exact.clone().map_or(ValueMatch::Present, ValueMatch::Exact);
            add(ValueName::Query(Arc::clone(name)), value, false);
        }
        let mut is_contradictory = false;
        let values = conditions
            .into_iter()
            .map(|(name, conditions)| {
                let mut values = ValueSet::of(&conditions);
                let is_possible = |it: &(ValueMatch, bool)| {
                    ValueSet::of(std::slice::from_ref(it)) != ValueSet::Nothing
                };
                is_contradictory |=
                    values == ValueSet::Nothing && conditions.iter().all(is_possible);
                if let ValueName::Header(name) = &name
                    && ALWAYS_PRESENT.contains(&&**name)
                    && values == ValueSet::Absent
                {
                    values = ValueSet::Nothing;
                    is_contradictory = true;
                }
                (name, values)
            })
            .filter(|(name, values)| !is_always_present(name) || !values.is_presence())
            .collect();
        Self {
            path: PathSet::of(path),
            values,
            is_contradictory,
        }
    }

    /// Whether the conditions contradict each other, so that no request fits.
    pub(crate) fn is_empty(&self) -> bool {
        self.values
            .values()
            .any(|values| *values == ValueSet::Nothing)
    }

    /// Whether every request of `other` is in this set.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.is_empty()
            || (self.path.contains(&other.path)
                && self.values.iter().all(|(name, values)| {
                    let others = other.values.get(name);
                    others.is_some_and(|others| values.contains(others))
                }))
    }

    /// Sort key; that of a set is smaller than that of every set that contains it.
    ///
    /// The order is: exact paths, then regular expressions, then prefixes; longer expressions and prefixes before shorter
    /// ones; more headers, query parameters, methods and schemes before fewer; then the narrower values.
    pub(crate) fn specificity(&self) -> impl Ord + use<> {
        let path = match &self.path {
            PathSet::Exact(_) => (0, Reverse(0), true),
            PathSet::Regex(expression) => (1, Reverse(expression.text.len()), true),
            PathSet::Prefix { prefix, is_longer } => (2, Reverse(prefix.len()), !is_longer),
        };
        let mut values: Vec<ValueSpecificity> =
            self.values.values().map(ValueSet::specificity).collect();
        values.sort_by(|one, other| other.cmp(one));
        (path, Reverse((values.len(), values)))
    }

    /// A value that a request of this set must have, by which sets that contain it can be found: the first name with
    /// only one value, or else the first name.
    fn landmark(&self) -> Option<(&ValueName, Option<&str>)> {
        let mut values = self.values.iter();
        let single = self
            .values
            .iter()
            .find_map(|(name, values)| Some((name, Some(values.single()?))));
        single.or_else(|| values.next().map(|(name, _)| (name, None)))
    }

    /// The landmarks that a set which contains this one can have.
    fn landmarks_of_containing(&self) -> impl Iterator<Item = Option<(&ValueName, Option<&str>)>> {
        let named = self.values.iter().flat_map(|(name, values)| {
            let single = values.single().map(|value| (name, Some(value)));
            [Some((name, None)), single].into_iter().flatten()
        });
        named.map(Some).chain([None])
    }
}

impl PathSet {
    /// An expression for the beginning of a path is a prefix, because Envoy escapes what `.` does not match: line breaks
    /// and bytes that are not UTF-8.
    fn of(path: &PathMatch) -> Self {
        let text = match path {
            PathMatch::Exact(path) => return Self::Exact(Arc::clone(path)),
            PathMatch::Prefix(prefix) => return Self::prefix(prefix, false),
            PathMatch::Regex(text) => text,
        };
        let expression = ParsedExpression::of(text);
        match expression.shape {
            ExpressionShape::Literal => Self::Exact(expression.prefix.into()),
            ExpressionShape::Prefix if expression.prefix.is_empty() => Self::prefix("/", false),
            ExpressionShape::Prefix => Self::prefix(&expression.prefix, false),
            ExpressionShape::LongerPrefix if expression.prefix.is_empty() => {
                Self::prefix("/", false)
            }
            ExpressionShape::LongerPrefix => Self::prefix(&expression.prefix, true),
            ExpressionShape::Other => Self::Regex(expression.into()),
        }
    }

    fn prefix(prefix: &str, is_longer: bool) -> Self {
        let prefix = prefix.into();
        Self::Prefix { prefix, is_longer }
    }

    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Exact(_), _) | (Self::Regex(_), Self::Prefix { .. }) => false,
            (Self::Prefix { prefix, is_longer }, _) => {
                if &**prefix == "/" && !is_longer {
                    return true;
                }
                let (begins, is_other_longer) = match other {
                    Self::Exact(path) => (&**path, false),
                    Self::Prefix { prefix, is_longer } => (&**prefix, *is_longer),
                    Self::Regex(expression) => (&*expression.prefix, false),
                };
                begins.starts_with(&**prefix)
                    && (!is_longer || is_other_longer || begins.len() > prefix.len())
            }
            (Self::Regex(own), Self::Regex(other)) => own.text == other.text,
            (Self::Regex(own), Self::Exact(other)) => own.accepts(other) == Some(true),
        }
    }
}

fn is_always_present(name: &ValueName) -> bool {
    match name {
        ValueName::Header(name) => ALWAYS_PRESENT.contains(&&**name),
        ValueName::Query(_) => false,
    }
}
