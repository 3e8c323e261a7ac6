//! Objects that wait to be looked at.
//!
//! Must not know why.

use std::{collections::BTreeSet, ops::Bound};

use evermesh_model::ObjectRef;

/// Objects, each once, that are taken in turns.
#[derive(Default)]
pub(super) struct ObjectQueue {
    objects: BTreeSet<ObjectRef>,
    /// The last one that was taken.
    last: Option<ObjectRef>,
}

impl ObjectQueue {
    pub(super) fn extend(&mut self, objects: impl IntoIterator<Item = ObjectRef>) {
        self.objects.extend(objects);
    }

    /// Takes over what is in another one.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.objects.append(&mut other.objects);
    }

    /// Takes some, those after the last one first.
    pub(super) fn take(&mut self, count: usize) -> Vec<ObjectRef> {
        let after = match &self.last {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let rest = self.objects.range::<ObjectRef, _>(after);
        let taken: Vec<ObjectRef> = rest.chain(&self.objects).take(count).cloned().collect();
        // The second round may begin before the first one is over.
        let taken: Vec<ObjectRef> = taken
            .into_iter()
            .filter(|object| self.objects.remove(object))
            .collect();
        self.last = taken.last().cloned();
        taken
    }
}

#[cfg(test)]
mod tests {
    use evermesh_model::Kind;

    use super::*;

    #[test]
    fn nothing_waits_behind_what_comes_again_and_again() {
        let object = |name: &str| ObjectRef::new(Kind::Route, "n", name);
        let names = |taken: Vec<ObjectRef>| -> Vec<String> {
            let names = taken.iter().map(|object| object.name.to_string());
            names.collect()
        };
        let mut queue = ObjectQueue::default();
        queue.extend(["a", "b", "c"].map(object));
        assert_eq!(names(queue.take(2)), ["a", "b"]);
        queue.extend(["a", "b"].map(object));
        assert_eq!(names(queue.take(2)), ["c", "a"]);
        queue.extend(["a"].map(object));
        assert_eq!(names(queue.take(9)), ["b", "a"]);
        assert!(queue.take(1).is_empty());
    }
}
