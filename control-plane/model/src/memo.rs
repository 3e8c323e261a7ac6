//! Memoisation of the pipeline's stages.
//!
//! A stage walks all its keys in every rebuild. For each key a [`Memo`] compares the inputs *by pointer* with those of
//! the previous rebuild. If they are the same, it returns the previous output; otherwise it runs the stage's function:
//!
//! ```
//! use std::sync::Arc;
//! use evermesh_model::Memo;
//!
//! let input = Arc::new(21);
//! let mut memo = Memo::default();
//! let first = memo.update([(&"key", &input)], |_, input: &Arc<u32>| **input * 2);
//! let again = memo.update([(&"key", &input)], |_, _| unreachable!("the input has the same pointer"));
//! assert_eq!(*again["key"], 42);
//! assert!(Arc::ptr_eq(&first, &again));
//! ```
//!
//! Dirty flags and invalidation rules do not exist, so the result cannot depend on the order of events.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// Immutable map from keys to shared values. The pointer of the map stays while no value changes, so a reader can skip
/// the whole map after one comparison.
pub type SharedMap<K, T> = Arc<BTreeMap<K, Arc<T>>>;

/// Equality that costs O(1) per shared value: pointers are compared instead of contents, small values are compared
/// directly.
///
/// `true` guarantees equality. `false` may be wrong and then costs an unnecessary computation.
pub trait FastEq {
    /// Returns whether `self` and `other` are known to be equal.
    fn fast_eq(&self, other: &Self) -> bool;
}

impl<T: ?Sized> FastEq for Arc<T> {
    fn fast_eq(&self, other: &Self) -> bool {
        Self::ptr_eq(self, other)
    }
}

/// A weak pointer identifies a value without keeping the owner from changing it in place: [`Arc::make_mut`] moves the
/// value to another allocation instead of copying it, and the weak pointer no longer compares equal.
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

/// An input that is borrowed for the comparison and cloned only if it changed.
///
/// Incrementing and decrementing thousands of reference counts takes longer than comparing the pointers.
pub trait MemoInput {
    /// The owned form, which the memo keeps until the next rebuild.
    type Stored;

    /// Returns whether the input is known to equal the previous one; see [`FastEq`].
    fn is_unchanged(&self, last: &Self::Stored) -> bool;

    /// Converts the input into the form that the memo keeps.
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
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
}

/// The previous input and output of every key, in ascending order of the keys.
///
/// The entries keep their inputs alive, so an address cannot be reused for another value.
#[derive(Debug)]
pub struct MemoEntries<K, I, O>(Vec<(K, I, O)>);

impl<K, I, O> Default for MemoEntries<K, I, O> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Clone, I, O> MemoEntries<K, I, O> {
    /// Runs `derive` for every key whose input changed, with the previous input and output if the key is not new.
    /// Removes the keys that are not in `inputs` and returns them.
    ///
    /// `inputs` must be in strictly ascending order of the keys, because old and new entries are merged in one walk.
    pub fn update<'a, B: MemoInput<Stored = I>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        mut derive: impl FnMut(&K, &I, Option<(I, O)>) -> O,
    ) -> Vec<K>
    where
        K: 'a,
    {
        let inputs = inputs.into_iter();
        let mut previous = std::mem::take(&mut self.0).into_iter().peekable();
        self.0.reserve(previous.len().max(inputs.size_hint().0));
        let mut removed = Vec::new();
        for (key, input) in inputs {
            // Most keys are equal and share their strings, so `==` is faster than `<`.
            while let Some((key, ..)) = previous.next_if(|(other, ..)| other != key && other < key)
            {
                removed.push(key);
            }
            let entry = match previous.next_if(|(other, ..)| other == key) {
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
        removed.extend(previous.map(|(key, ..)| key));
        removed
    }

    /// The outputs in ascending order of the keys.
    pub fn outputs(&self) -> impl Iterator<Item = &O> {
        self.0.iter().map(|(.., output)| output)
    }
}

/// The previous inputs and outputs of one stage.
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
    /// Returns the output of every key in `inputs`. Runs `derive` only for inputs that changed since the previous call.
    ///
    /// An output that equals the previous one keeps its pointer, and so does the map if no output changed: later
    /// stages see no change. Keys that are not in `inputs` are removed.
    ///
    /// `inputs` must be in strictly ascending order of the keys.
    pub fn update<'a, B: MemoInput<Stored = I>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        mut derive: impl FnMut(&K, &I) -> T,
    ) -> SharedMap<K, T>
    where
        K: 'a,
    {
        let mut differences = Vec::new();
        let removed = self.entries.update(inputs, |key, input, last| {
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
        differences.extend(removed.into_iter().map(|key| (key, None)));
        apply_differences(&mut self.outputs, differences);
        Arc::clone(&self.outputs)
    }

    /// The outputs of the previous [`update`](Self::update).
    pub const fn outputs(&self) -> &SharedMap<K, T> {
        &self.outputs
    }
}

/// Inserts every key with a value and removes every key without one. Without differences the map keeps its pointer.
pub fn apply_differences<K: Ord + Clone, T>(
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
    fn only_changed_inputs_are_derived_again() {
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
        assert_eq!(ran, [1], "a removed key is derived again");
    }

    #[test]
    fn equal_output_keeps_its_pointer() {
        let (lower, upper): (Arc<str>, Arc<str>) = ("a".into(), "A".into());
        let mut memo = Memo::default();
        let upper_case = |_: &u8, input: &Arc<str>| input.to_uppercase();
        let first = memo.update(inputs(&[(1, &lower)]), upper_case);
        let second = memo.update(inputs(&[(1, &upper)]), upper_case);
        assert!(Arc::ptr_eq(&first[&1], &second[&1]));
        assert!(
            Arc::ptr_eq(&first, &second),
            "the map keeps its pointer too"
        );
        let third = memo.update(inputs(&[(1, &upper), (2, &lower)]), upper_case);
        assert_eq!(first.len(), 1, "a returned map does not change");
        let fourth = memo.update(inputs(&[(2, &lower)]), upper_case);
        assert_eq!((third.len(), fourth.len()), (2, 1));
        assert!(Arc::ptr_eq(&third[&2], &fourth[&2]));
    }

    #[test]
    fn fast_equality_compares_pointers_and_lengths() {
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
    fn value_with_weak_pointer_is_changed_in_place_and_compares_unequal() {
        let mut value = Arc::new(vec![1]);
        let (seen, content) = (Arc::downgrade(&value), value.as_ptr());
        assert!(seen.fast_eq(&Arc::downgrade(&value)));
        Arc::make_mut(&mut value)[0] = 2;
        assert_eq!(value.as_ptr(), content);
        assert!(!seen.fast_eq(&Arc::downgrade(&value)));
    }
}
