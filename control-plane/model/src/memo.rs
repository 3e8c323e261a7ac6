//! Rebuild everything, recompute nothing.
//!
//! A stage of the pipeline walks all its keys at every turn. For each key a [`Memo`] compares the inputs
//! with those of the last turn *by pointer*, and where they are the same it hands out the last output.
//! There are no dirty flags and no invalidation rules: the result cannot depend on the order of events.

use std::{collections::BTreeMap, iter::Peekable, sync::Arc};

/// Whether two inputs are the same without looking inside: pointers for what is shared, values for what is small.
/// `false` is always a correct answer, only a slower one.
pub trait Same {
    /// Whether `self` and `other` are known to be the same.
    fn same(&self, other: &Self) -> bool;
}

impl<T: ?Sized> Same for Arc<T> {
    fn same(&self, other: &Self) -> bool {
        Self::ptr_eq(self, other)
    }
}

impl<T: Same> Same for Option<T> {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => one.same(other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl<T: Same> Same for Vec<T> {
    fn same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| one.same(other))
    }
}

impl<K: Eq, V: Same> Same for BTreeMap<K, V> {
    fn same(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .zip(other)
                .all(|((key, one), (other_key, other))| key == other_key && one.same(other))
    }
}

impl Same for bool {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

impl Same for () {
    fn same(&self, (): &Self) -> bool {
        true
    }
}

macro_rules! same_for_tuples {
    ($(($($name:ident $index:tt),+))+) => {$(
        impl<$($name: Same),+> Same for ($($name,)+) {
            fn same(&self, other: &Self) -> bool {
                $(self.$index.same(&other.$index))&&+
            }
        }
    )+};
}
same_for_tuples! {
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

/// The last inputs and output of one stage, by key.
///
/// Holding the inputs keeps them alive, so a pointer can never be reused for something else.
#[derive(Debug)]
pub struct Memo<K, I, O> {
    entries: BTreeMap<K, (I, O)>,
}

impl<K, I, O> Default for Memo<K, I, O> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, I: Same, T: PartialEq> Memo<K, I, Arc<T>> {
    /// One turn: the output of every key, computed by `derive` only where the inputs are not the same as
    /// in the last turn. An output that comes out equal to the last one keeps its pointer, so later
    /// stages see no change. Keys that are not in `inputs` are forgotten.
    ///
    /// `inputs` must come in strictly ascending order of their keys: old and new are merged in one walk.
    pub fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = (K, I)>,
        mut derive: impl FnMut(&K, &I) -> T,
    ) -> BTreeMap<K, Arc<T>> {
        let mut previous = std::mem::take(&mut self.entries).into_iter().peekable();
        self.entries = inputs
            .into_iter()
            .map(|(key, input)| {
                let output = match take(&mut previous, &key) {
                    Some((last, output)) if last.same(&input) => output,
                    Some((_, output)) => {
                        let fresh = derive(&key, &input);
                        if *output == fresh {
                            output
                        } else {
                            Arc::new(fresh)
                        }
                    }
                    None => Arc::new(derive(&key, &input)),
                };
                (key, (input, output))
            })
            .collect();
        self.entries
            .iter()
            .map(|(key, (_, output))| (key.clone(), Arc::clone(output)))
            .collect()
    }
}

/// Advances an ordered walk to `key` and takes its value.
fn take<K: Ord, V>(walk: &mut Peekable<impl Iterator<Item = (K, V)>>, key: &K) -> Option<V> {
    while walk.next_if(|(passed, _)| passed < key).is_some() {}
    walk.next_if(|(found, _)| found == key)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(pairs: &[(u8, &Arc<str>)]) -> Vec<(u8, Arc<str>)> {
        pairs
            .iter()
            .map(|(key, input)| (*key, Arc::clone(input)))
            .collect()
    }

    #[test]
    fn derives_only_what_has_another_input() {
        let (a, b, b_again): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "bb".into());
        let mut memo = Memo::default();
        let mut derived = Vec::new();
        let mut turn = |inputs| {
            let output = memo.turn(inputs, |key, input: &Arc<str>| {
                derived.push(*key);
                input.to_uppercase()
            });
            (output, std::mem::take(&mut derived))
        };

        let (first, ran) = turn(inputs(&[(1, &a), (2, &b)]));
        assert_eq!(ran, [1, 2]);
        let (second, ran) = turn(inputs(&[(1, &a), (2, &b_again), (3, &a)]));
        assert_eq!(ran, [2, 3]);
        assert!(Arc::ptr_eq(&first[&1], &second[&1]));
        assert_eq!(*second[&2], "BB");
        let (third, ran) = turn(inputs(&[(2, &b_again)]));
        assert!(ran.is_empty());
        assert_eq!(third.len(), 1);
        let (_, ran) = turn(inputs(&[(1, &a)]));
        assert_eq!(ran, [1], "a key that was away is forgotten");
    }

    #[test]
    fn an_equal_output_keeps_its_pointer() {
        let (lower, upper): (Arc<str>, Arc<str>) = ("a".into(), "A".into());
        let mut memo = Memo::default();
        let first = memo.turn(inputs(&[(1, &lower)]), |_, input| input.to_uppercase());
        let second = memo.turn(inputs(&[(1, &upper)]), |_, input| input.to_uppercase());
        assert!(Arc::ptr_eq(&first[&1], &second[&1]));
    }

    #[test]
    fn sameness_is_by_pointer_and_shape() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "a".into());
        assert!(vec![a.clone()].same(&vec![a.clone()]));
        assert!(!vec![a.clone()].same(&vec![b.clone()]));
        assert!(!vec![a.clone()].same(&vec![]));
        assert!((a.clone(), Some(b.clone())).same(&(a.clone(), Some(b.clone()))));
        assert!(!(a.clone(), None).same(&(a.clone(), Some(b.clone()))));
        let (one, other) = (BTreeMap::from([(1, a.clone())]), BTreeMap::from([(2, a)]));
        assert!(!one.same(&other));
    }
}
