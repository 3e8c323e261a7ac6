//! A queue of objects to be processed, each at most once, without starvation.

use std::{collections::BTreeSet, ops::Bound};

use evermesh_model::ObjectRef;

/// A set of objects that is taken from in round-robin order: an object that is added again and again cannot keep the
/// others waiting.
#[derive(Default)]
pub(super) struct ObjectQueue {
    objects: BTreeSet<ObjectRef>,
    /// The object at which the next round begins: the first one after this.
    last_taken: Option<ObjectRef>,
}

impl ObjectQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(super) fn extend(&mut self, objects: impl IntoIterator<Item = ObjectRef>) {
        self.objects.extend(objects);
    }

    /// Moves all objects of another queue into this one.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.objects.append(&mut other.objects);
    }

    pub(super) fn take_one(&mut self) -> Option<ObjectRef> {
        self.take(1).pop()
    }

    /// Takes up to `count` objects, beginning with those after the last one taken.
    pub(super) fn take(&mut self, count: usize) -> Vec<ObjectRef> {
        let after = match &self.last_taken {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let rest = self.objects.range::<ObjectRef, _>(after);
        let taken: Vec<ObjectRef> = rest.chain(&self.objects).take(count).cloned().collect();
        // An object can be in `rest` and in the second round.
        let taken: Vec<ObjectRef> = taken
            .into_iter()
            .filter(|object| self.objects.remove(object))
            .collect();
        self.last_taken = taken.last().cloned();
        taken
    }
}

#[cfg(test)]
mod tests {
    use evermesh_model::Kind;

    use super::*;

    #[test]
    fn object_that_is_added_repeatedly_does_not_starve_others() {
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
