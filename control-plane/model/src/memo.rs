//! Rebuild everything, recompute nothing.
//!
//! A stage of the pipeline walks all its keys at every turn. For each key a [`Memo`] compares the inputs
//! with those of the last turn *by pointer*, and where they are the same it hands out the last output.
//! There are no dirty flags and no invalidation rules: the result cannot depend on the order of events.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// Values by key. The pointer stays while none of them changes, so whoever walked the map last time need not look
/// inside to know.
pub type SharedMap<K, T> = Arc<BTreeMap<K, Arc<T>>>;

/// Whether two inputs are the same without looking inside: pointers for what is shared, values for what is small.
/// `false` is always a correct answer, only a slower one.
pub trait FastEq {
    /// Whether `self` and `other` are known to be the same.
    fn fast_eq(&self, other: &Self) -> bool;
}

impl<T: ?Sized> FastEq for Arc<T> {
    fn fast_eq(&self, other: &Self) -> bool {
        Self::ptr_eq(self, other)
    }
}

/// Enough to know a pointer again, and whoever owns the value may still change it in place: [`Arc::make_mut`] moves it
/// to another pointer instead of copying it.
impl<T> FastEq for Weak<T> {
    fn fast_eq(&self, other: &Self) -> bool {
        self.ptr_eq(other)
    }
}

impl<T: FastEq> FastEq for Option<T> {
    fn fast_eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => one.fast_eq(other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl<T: FastEq> FastEq for Vec<T> {
    fn fast_eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .zip(other)
                .all(|(one, other)| one.fast_eq(other))
    }
}

impl<K: Eq, V: FastEq> FastEq for BTreeMap<K, V> {
    fn fast_eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .zip(other)
                .all(|((key, one), (other_key, other))| key == other_key && one.fast_eq(other))
    }
}

impl FastEq for bool {
    fn fast_eq(&self, other: &Self) -> bool {
        self == other
    }
}

impl FastEq for () {
    fn fast_eq(&self, (): &Self) -> bool {
        true
    }
}

/// An input that is borrowed where it can be, and owned only if it is not the last one: to count thousands of
/// pointers up and down takes longer than to compare them.
pub trait MemoInput {
    /// What a memo keeps of it.
    type Stored;

    /// Whether it is known to be the last one, as in [`FastEq`].
    fn is_unchanged(&self, last: &Self::Stored) -> bool;

    /// To keep.
    fn into_stored(self) -> Self::Stored;
}

impl<T: FastEq + Clone> MemoInput for &T {
    type Stored = T;

    fn is_unchanged(&self, last: &T) -> bool {
        self.fast_eq(last)
    }

    fn into_stored(self) -> T {
        self.clone()
    }
}

impl<T: MemoInput> MemoInput for Option<T> {
    type Stored = Option<T::Stored>;

    fn is_unchanged(&self, last: &Self::Stored) -> bool {
        match (self, last) {
            (Some(one), Some(last)) => one.is_unchanged(last),
            (None, None) => true,
            _ => false,
        }
    }

    fn into_stored(self) -> Self::Stored {
        self.map(MemoInput::into_stored)
    }
}

macro_rules! for_tuples {
    ($(($($name:ident $index:tt),+))+) => {$(
        impl<$($name: FastEq),+> FastEq for ($($name,)+) {
            fn fast_eq(&self, other: &Self) -> bool {
                $(self.$index.fast_eq(&other.$index))&&+
            }
        }

        impl<$($name: MemoInput),+> MemoInput for ($($name,)+) {
            type Stored = ($($name::Stored,)+);

            fn is_unchanged(&self, last: &Self::Stored) -> bool {
                $(self.$index.is_unchanged(&last.$index))&&+
            }

            fn into_stored(self) -> Self::Stored {
                ($(self.$index.into_stored(),)+)
            }
        }
    )+};
}
for_tuples! {
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

/// The last input and output of every key, ascending.
///
/// Holding the inputs keeps them alive, so a pointer can never be reused for something else.
#[derive(Debug)]
pub struct MemoEntries<K, I, O>(Vec<(K, I, O)>);

impl<K, I, O> Default for MemoEntries<K, I, O> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone, I, O> MemoEntries<K, I, O> {
    /// Runs `derive` for every key whose input is not the same as in the last turn; it gets the last input and
    /// output, if there are any. Keys that are not in `inputs` are forgotten; these are returned.
    ///
    /// `inputs` must come in strictly ascending order of their keys: old and new are merged in one walk.
    pub fn update<'a, B: MemoInput<Stored = I>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        mut derive: impl FnMut(&K, &I, Option<(I, O)>) -> O,
    ) -> Vec<K>
    where
        K: 'a,
    {
        let inputs = inputs.into_iter();
        let mut last = std::mem::take(&mut self.0).into_iter().peekable();
        self.0.reserve(last.len().max(inputs.size_hint().0));
        let mut gone = Vec::new();
        for (key, input) in inputs {
            // Most keys are the very same strings, which is quicker to see than which of two comes first.
            while let Some((passed, ..)) = last.next_if(|(it, ..)| it != key && it < key) {
                gone.push(passed);
            }
            let entry = match last.next_if(|(it, ..)| it == key) {
                Some((key, last, output)) if input.is_unchanged(&last) => (key, last, output),
                Some((key, last, output)) => {
                    let input = input.into_stored();
                    let output = derive(&key, &input, Some((last, output)));
                    (key, input, output)
                }
                None => {
                    let input = input.into_stored();
                    let output = derive(key, &input, None);
                    (key.clone(), input, output)
                }
            };
            self.0.push(entry);
        }
        gone.extend(last.map(|(key, ..)| key));
        gone
    }

    /// What was made of every key, ascending.
    pub fn outputs(&self) -> impl Iterator<Item = &O> {
        self.0.iter().map(|(.., output)| output)
    }
}

/// The last inputs and outputs of one stage, by key.
#[derive(Debug)]
pub struct Memo<K, I, T> {
    entries: MemoEntries<K, I, Arc<T>>,
    outputs: SharedMap<K, T>,
}

impl<K, I, T> Default for Memo<K, I, T> {
    fn default() -> Self {
        Self {
            entries: MemoEntries::default(),
            outputs: Arc::default(),
        }
    }
}

impl<K: Ord + Clone, I, T: PartialEq> Memo<K, I, T> {
    /// One turn: the output of every key, computed by `derive` only where the inputs are not the same as
    /// in the last turn. An output that comes out equal to the last one keeps its pointer, so later
    /// stages see no change; and so does the map of them all. Keys that are not in `inputs` are forgotten.
    ///
    /// `inputs` must come in strictly ascending order of their keys.
    pub fn update<'a, B: MemoInput<Stored = I>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        mut derive: impl FnMut(&K, &I) -> T,
    ) -> SharedMap<K, T>
    where
        K: 'a,
    {
        let mut differences = Vec::new();
        let gone = self.entries.update(inputs, |key, input, last| {
            let fresh = derive(key, input);
            match last {
                Some((_, output)) if *output == fresh => output,
                _ => {
                    let output = Arc::new(fresh);
                    differences.push((key.clone(), Some(Arc::clone(&output))));
                    output
                }
            }
        });
        differences.extend(gone.into_iter().map(|key| (key, None)));
        patch(&mut self.outputs, differences);
        Arc::clone(&self.outputs)
    }

    /// What the last turn made.
    pub const fn outputs(&self) -> &SharedMap<K, T> {
        &self.outputs
    }
}

/// Brings a map up to date, with these values and without the keys that have none. If nothing differs it keeps its
/// pointer.
pub fn patch<K: Ord + Clone, T>(
    map: &mut SharedMap<K, T>,
    differences: impl IntoIterator<Item = (K, Option<Arc<T>>)>,
) {
    let mut differences = differences.into_iter().peekable();
    if differences.peek().is_none() {
        return;
    }
    let map = Arc::make_mut(map);
    for (key, value) in differences {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs<'a>(pairs: &'a [(u8, &'a Arc<str>)]) -> impl Iterator<Item = (&'a u8, &'a Arc<str>)> {
        pairs.iter().map(|(key, input)| (key, *input))
    }

    #[test]
    fn derives_only_what_has_another_input() {
        let (a, b, b_again): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "bb".into());
        let mut memo = Memo::default();
        let mut derived = Vec::new();
        let mut update = |pairs: &[(u8, &Arc<str>)]| {
            let output = memo.update(inputs(pairs), |key, input: &Arc<str>| {
                derived.push(*key);
                input.to_uppercase()
            });
            (output, std::mem::take(&mut derived))
        };

        let (first, ran) = update(&[(1, &a), (2, &b)]);
        assert_eq!(ran, [1, 2]);
        let (second, ran) = update(&[(1, &a), (2, &b_again), (3, &a)]);
        assert_eq!(ran, [2, 3]);
        assert!(Arc::ptr_eq(&first[&1], &second[&1]));
        assert_eq!(*second[&2], "BB");
        let (third, ran) = update(&[(2, &b_again)]);
        assert!(ran.is_empty());
        assert_eq!(third.len(), 1);
        let (_, ran) = update(&[(1, &a)]);
        assert_eq!(ran, [1], "a key that was away is forgotten");
    }

    #[test]
    fn an_equal_output_keeps_its_pointer() {
        let (lower, upper): (Arc<str>, Arc<str>) = ("a".into(), "A".into());
        let mut memo = Memo::default();
        let upper_case = |_: &u8, input: &Arc<str>| input.to_uppercase();
        let first = memo.update(inputs(&[(1, &lower)]), upper_case);
        let second = memo.update(inputs(&[(1, &upper)]), upper_case);
        assert!(Arc::ptr_eq(&first[&1], &second[&1]));
        assert!(Arc::ptr_eq(&first, &second), "and so does the map");
        let third = memo.update(inputs(&[(1, &upper), (2, &lower)]), upper_case);
        assert_eq!(first.len(), 1, "what was handed out stays as it is");
        let fourth = memo.update(inputs(&[(2, &lower)]), upper_case);
        assert_eq!((third.len(), fourth.len()), (2, 1));
        assert!(Arc::ptr_eq(&third[&2], &fourth[&2]));
    }

    #[test]
    fn sameness_is_by_pointer_and_shape() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "a".into());
        assert!(vec![a.clone()].fast_eq(&vec![a.clone()]));
        assert!(!vec![a.clone()].fast_eq(&vec![b.clone()]));
        assert!(!vec![a.clone()].fast_eq(&vec![]));
        assert!((a.clone(), Some(b.clone())).fast_eq(&(a.clone(), Some(b.clone()))));
        assert!(!(a.clone(), None).fast_eq(&(a.clone(), Some(b.clone()))));
        let (one, other) = (BTreeMap::from([(1, a.clone())]), BTreeMap::from([(2, a)]));
        assert!(!one.fast_eq(&other));
    }

    #[test]
    fn what_is_known_weakly_is_changed_in_place_and_not_the_same() {
        let mut value = Arc::new(vec![1]);
        let (known, content) = (Arc::downgrade(&value), value.as_ptr());
        assert!(known.fast_eq(&Arc::downgrade(&value)));
        Arc::make_mut(&mut value)[0] = 2;
        assert_eq!(value.as_ptr(), content);
        assert!(!known.fast_eq(&Arc::downgrade(&value)));
    }
}
