//! The objects of the fake API server and the history of their changes.

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::{Value, json};

/// The collection that a path names, or the object if it has a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApiPath {
    /// `/api/v1` or `/apis/GROUP/VERSION`
    group_version: String,
    /// `None` in the path of a cluster-scoped object, and of a collection in all namespaces.
    namespace: Option<String>,
    plural: String,
    pub(super) name: Option<String>,
}

impl ApiPath {
    /// Parses a path. A subresource names the same object.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut words = path.strip_prefix('/')?.split('/').map(str::to_owned);
        let root = words.next()?;
        let group = if root == "apis" {
            format!("/{}", words.next()?)
        } else {
            String::new()
        };
        let group_version = format!("/{root}{group}/{}", words.next()?);
        let words: Vec<String> = words.collect();
        let (namespace, rest) = match &*words {
            [first, namespace, rest @ ..] if first == "namespaces" && !rest.is_empty() => {
                (Some(namespace.clone()), rest)
            }
            rest => (None, rest),
        };
        Some(Self {
            group_version,
            namespace,
            plural: rest.first()?.clone(),
            name: rest.get(1).cloned(),
        })
    }

    pub(super) fn is_token_review(&self) -> bool {
        self.plural == "tokenreviews"
    }

    /// Whether this collection contains the object.
    fn contains(&self, object: &Self) -> bool {
        let is_in_namespace = self.namespace.is_none() || self.namespace == object.namespace;
        is_in_namespace
            && self.group_version == object.group_version
            && self.plural == object.plural
    }
}

/// Every state of every object, in the order of writing. The revision of a state is its index plus one.
#[derive(Debug, Default)]
pub(super) struct ObjectHistory {
    history: Vec<(ApiPath, Value)>,
}

impl ObjectHistory {
    pub(super) fn revision(&self) -> u64 {
        u64::try_from(self.history.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn get(&self, path: &ApiPath) -> Option<Value> {
        let mut newest_first = self.history.iter().rev();
        newest_first
            .find(|(it, _)| it == path)
            .map(|(_, object)| object.clone())
    }

    pub(super) fn list(&self, collection: &ApiPath) -> Value {
        let history = self.history.iter().enumerate();
        let newest = history.filter(|(index, (path, _))| {
            let is_replaced = self.history[index + 1..].iter().any(|(it, _)| it == path);
            collection.contains(path) && !is_replaced
        });
        let items: Vec<&Value> = newest.map(|(_, (_, object))| object).collect();
        json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": self.revision().to_string()},
            "items": items,
        })
    }

    /// The events of a watch of this collection after a revision, as lines.
    pub(super) fn events(&self, collection: &ApiPath, since: u64) -> String {
        let since = usize::try_from(since).unwrap_or(usize::MAX);
        let mut lines = String::new();
        for (path, object) in self.history.iter().skip(since) {
            if collection.contains(path) {
                let event = json!({"type": "MODIFIED", "object": object});
                let _ = writeln!(lines, "{event}");
            }
        }
        lines
    }

    /// Creates or replaces an object; the path is that of the object or of its collection. Fails if the object has a
    /// `resourceVersion` that is not the newest one.
    pub(super) fn put(&mut self, path: &ApiPath, mut object: Value) -> Result<Value, StatusCode> {
        let mut path = path.clone();
        let revision = self.revision() + 1;
        if path.name.is_none() {
            let name = object["metadata"]["name"].as_str();
            let name = name.map_or_else(|| format!("generated-{revision}"), str::to_owned);
            path.name = Some(name);
        }
        let last = self.get(&path).unwrap_or_default();
        let version = &object["metadata"]["resourceVersion"];
        if !version.is_null() && *version != last["metadata"]["resourceVersion"] {
            return Err(StatusCode::CONFLICT);
        }
        let generation = last["metadata"]["generation"].as_i64().unwrap_or_default();
        let is_new = last["spec"] != object["spec"] || generation == 0;
        let metadata = json!({
            "name": path.name,
            "namespace": path.namespace,
            "uid": format!("{}-{}", path.plural, path.name.as_deref().unwrap_or_default()),
            "resourceVersion": revision.to_string(),
            "generation": generation + i64::from(is_new),
        });
        json_patch::merge(&mut object["metadata"], &metadata);
        self.history.push((path, object.clone()));
        Ok(object)
    }

    /// Applies a JSON merge patch.
    pub(super) fn patch(&mut self, path: &ApiPath, change: &Value) -> Result<Value, StatusCode> {
        let mut object = self.get(path).ok_or(StatusCode::NOT_FOUND)?;
        json_patch::merge(&mut object, change);
        self.put(path, object)
    }
}
