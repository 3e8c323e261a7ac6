//! A JSON patch under construction: applies each operation to a copy of the document, so that later ones see its result.
//!
//! Works with any JSON document.

use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf,
};
use serde_json::{Value, json};

pub(super) struct PodPatchBuilder {
    pod: Value,
    operations: Vec<PatchOperation>,
}

impl PodPatchBuilder {
    pub(super) fn new(pod: &Value) -> Self {
        Self {
            pod: pod.clone(),
            operations: Vec::new(),
        }
    }

    /// The document after the operations so far.
    pub(super) fn pod(&self) -> &Value {
        &self.pod
    }

    pub(super) fn into_patch(self) -> Patch {
        Patch(self.operations)
    }

    /// Sets the value at a path and creates missing objects on the path. Lists on the path have to exist.
    pub(super) fn set(&mut self, path: &[&str], value: Value) {
        let found = self
            .pod
            .pointer(PointerBuf::from_tokens(path.iter().copied()).as_str());
        match found {
            Some(found) if *found == value => {}
            Some(_) => self.perform(PatchOperation::Replace(ReplaceOperation {
                path: PointerBuf::from_tokens(path.iter().copied()),
                value,
            })),
            None => {
                let missing = (1..path.len())
                    .find(|end| {
                        let parent = PointerBuf::from_tokens(path[..*end].iter().copied());
                        self.pod.pointer(parent.as_str()).is_none_or(Value::is_null)
                    })
                    .unwrap_or(path.len());
                let value = path[missing..]
                    .iter()
                    .rev()
                    .fold(value, |value, key| json!({ *key: value }));
                self.add(&path[..missing], value);
            }
        }
    }

    /// Adds an item to the end of a list, and creates the list if it is missing.
    pub(super) fn push(&mut self, list: &[&str], value: Value) {
        let length = self.list(list).map(Vec::len);
        match length {
            Some(_) => self.add(&[list, &["-"]].concat(), value),
            None => self.set(list, json!([value])),
        }
    }

    /// Adds an item to a list before the item with this index, or at the end.
    pub(super) fn insert(&mut self, list: &[&str], index: usize, value: Value) {
        match self.list(list).map(Vec::len) {
            Some(length) if index < length => {
                self.add(&[list, &[index.to_string().as_str()]].concat(), value);
            }
            _ => self.push(list, value),
        }
    }

    /// Removes the value at a path, if there is one.
    pub(super) fn remove(&mut self, path: &[&str]) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        if self.pod.pointer(path.as_str()).is_some() {
            self.perform(PatchOperation::Remove(RemoveOperation { path }));
        }
    }

    fn list(&self, path: &[&str]) -> Option<&Vec<Value>> {
        let found = self
            .pod
            .pointer(PointerBuf::from_tokens(path.iter().copied()).as_str())?;
        found.as_array()
    }

    fn add(&mut self, path: &[&str], value: Value) {
        self.perform(PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(path.iter().copied()),
            value,
        }));
    }

    fn perform(&mut self, operation: PatchOperation) {
        let operation = [operation];
        // The path may be impossible, such as a field of a text. The API server rejects such a pod anyway.
        if json_patch::patch(&mut self.pod, &operation).is_ok() {
            self.operations.extend(operation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_missing_parents_and_skips_equal_values() {
        let mut builder = PodPatchBuilder::new(&json!({ "a": { "list": [1] }, "null": null }));
        builder.set(&["a", "b", "c~/d"], json!(1));
        builder.set(&["a", "b", "c~/d"], json!(1));
        builder.set(&["a", "b", "c~/d"], json!(2));
        builder.set(&["null", "x"], json!(3));
        builder.push(&["a", "list"], json!(2));
        builder.insert(&["a", "list"], 0, json!(0));
        builder.push(&["a", "other"], json!(1));
        builder.remove(&["a", "none"]);
        let expected = json!({
            "a": { "list": [0, 1, 2], "b": { "c~/d": 2 }, "other": [1] },
            "null": { "x": 3 },
        });
        assert_eq!(*builder.pod(), expected);
        let mut again = json!({ "a": { "list": [1] }, "null": null });
        let patch = builder.into_patch();
        assert_eq!(patch.0.len(), 6);
        json_patch::patch(&mut again, &patch).unwrap();
        assert_eq!(again, expected);
    }
}
