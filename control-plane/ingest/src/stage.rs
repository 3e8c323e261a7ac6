//! Memoised stages whose results carry problems.
//!
//! A stage gets its inputs as `Arc`s, in ascending order of their keys. It returns values as `Arc`s that keep their
//! pointer while they stay equal, and appends the problems to a [`ProblemLists`]. [`KeyedStage`] memoises each key,
//! [`CachedValue`] a single value. This module does not know any kind of object.

use std::sync::Arc;

use evermesh_model::{
    FastEq, MemoInput, ObjectRef, Problem, Reason, Severity, SharedMap,
    memo::{MemoEntries, apply_differences},
    problem::{FieldPath, limit_per_object},
};

/// The result of parsing or resolving one object: a value, problems or both.
#[derive(Debug)]
pub(crate) struct WithProblems<T> {
    /// Absent if the object cannot be used at all.
    value: Option<Arc<T>>,
    problems: Arc<[Problem]>,
}

impl<T> WithProblems<T> {
    pub(crate) fn new(value: Option<T>, problems: Problems<'_>) -> Self {
        Self {
            value: value.map(Arc::new),
            problems: limit_per_object(problems.list).into(),
        }
    }

    pub(crate) fn into_value(self) -> Option<Arc<T>> {
        self.value
    }
}

impl<T> WithProblems<Vec<Arc<T>>> {
    /// Merges several results into the list of their values and the list of their problems.
    pub(crate) fn all(results: impl IntoIterator<Item = WithProblems<T>>) -> Self {
        let (mut values, mut problems) = (Vec::new(), Vec::new());
        for result in results {
            values.extend(result.value);
            problems.extend(result.problems.iter().cloned());
        }
        Self {
            value: Some(Arc::new(values)),
            problems: limit_per_object(problems).into(),
        }
    }
}

/// Changed values by key; `None` stands for a removed value.
type Differences<K, T> = Vec<(K, Option<Arc<T>>)>;

impl<T: PartialEq> WithProblems<T> {
    /// Replaces value and problems by the previous ones where they are equal, so that pointers stay. Records a value
    /// that differs in `differences`.
    fn reuse_previous<K: Clone>(
        mut self,
        previous: Option<Self>,
        key: &K,
        differences: &mut Differences<K, T>,
    ) -> Self {
        let (value, problems) = previous
            .map(|previous| (previous.value, previous.problems))
            .unzip();
        let value = value.flatten();
        if self.value == value {
            self.value = value;
        } else {
            differences.push((key.clone(), self.value.clone()));
        }
        if let Some(problems) = problems
            && self.problems == problems
        {
            self.problems = problems;
        }
        self
    }
}

/// Collects the problems of one object while it is parsed or resolved.
#[derive(Debug)]
pub(crate) struct Problems<'a> {
    object: &'a ObjectRef,
    list: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(crate) const fn of(object: &'a ObjectRef) -> Self {
        Self {
            object,
            list: Vec::new(),
        }
    }

    pub(crate) const fn object(&self) -> &'a ObjectRef {
        self.object
    }

    pub(crate) fn add(&mut self, field: FieldPath, reason: Reason, message: impl Into<String>) {
        self.list
            .push(Problem::new(self.object, field, reason, message));
    }

    /// Adds a problem whose severity differs from the default of its reason.
    pub(crate) fn add_with_severity(
        &mut self,
        field: FieldPath,
        reason: Reason,
        severity: Severity,
        message: impl Into<String>,
    ) {
        let problem = Problem::new(self.object, field, reason, message);
        self.list.push(Problem {
            severity,
            ..problem
        });
    }

    /// Adds problems of this or another object.
    pub(crate) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.list.extend(problems);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.list
    }
}

/// The value is invalid, and the problem has been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProblemReported;

/// The non-empty lists of problems that the stages of one rebuild found. The lists are shared with the memos.
pub(crate) type ProblemLists = Vec<Arc<[Problem]>>;

/// A memoised stage with keys `K`, inputs `I` and values `T`: a [`Memo`] whose results carry problems.
///
/// A value keeps its pointer if only its problems changed. `L` is the result of the lookup in stages of two steps; see
/// [`update_with_lookup`](Self::update_with_lookup).
///
/// [`Memo`]: evermesh_model::Memo
#[derive(Debug)]
pub(crate) struct KeyedStage<K, I, T, L = ()> {
    entries: MemoEntries<K, I, (L, WithProblems<T>)>,
    values: SharedMap<K, T>,
}

impl<K, I, T, L> Default for KeyedStage<K, I, T, L> {
    fn default() -> Self {
        Self {
            entries: MemoEntries::default(),
            values: Arc::default(),
        }
    }
}

impl<K: Ord + Clone, I, T: PartialEq> KeyedStage<K, I, T> {
    /// Runs `derive` for the inputs that changed. Returns all values and appends the problems of all keys to `problems`.
    ///
    /// `inputs` must be in strictly ascending order of the keys.
    pub(crate) fn update<'a, B: MemoInput<Stored = I>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        mut derive: impl FnMut(&K, &I) -> WithProblems<T>,
        problems: &mut ProblemLists,
    ) -> SharedMap<K, T>
    where
        K: 'a,
    {
        let mut differences = Differences::new();
        let removed = self.entries.update(inputs, |key, input, previous| {
            let previous = previous.map(|(_, ((), result))| result);
            let result = derive(key, input).reuse_previous(previous, key, &mut differences);
            ((), result)
        });
        self.finish(differences, removed, problems)
    }
}

impl<K: Ord + Clone, I: FastEq, S, T: PartialEq, L: PartialEq> KeyedStage<K, (I, S), T, L> {
    /// Like [`update`](Self::update), in two steps: `look_up` finds the objects to which an input refers in the context
    /// `S`, and `resolve` combines both.
    ///
    /// `look_up` runs if the input or the context changed. `resolve`, which is more expensive, runs only if the input
    /// or the result of the lookup changed.
    pub(crate) fn update_with_lookup<'a, B: MemoInput<Stored = (I, S)>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        look_up: impl Fn(&I, &S) -> L,
        resolve: impl Fn(&I, &L) -> WithProblems<T>,
        problems: &mut ProblemLists,
    ) -> SharedMap<K, T>
    where
        K: 'a,
    {
        let mut differences = Differences::new();
        let removed = self
            .entries
            .update(inputs, |key, (input, context), previous| {
                let found = look_up(input, context);
                let previous = match previous {
                    Some(((previous_input, _), (previous_found, result)))
                        if previous_input.fast_eq(input) && previous_found == found =>
                    {
                        return (previous_found, result);
                    }
                    Some((_, (_, result))) => Some(result),
                    None => None,
                };
                let result = resolve(input, &found).reuse_previous(previous, key, &mut differences);
                (found, result)
            });
        self.finish(differences, removed, problems)
    }
}

impl<K: Ord + Clone, I, T, L> KeyedStage<K, I, T, L> {
    fn finish(
        &mut self,
        mut differences: Differences<K, T>,
        removed: Vec<K>,
        problems: &mut ProblemLists,
    ) -> SharedMap<K, T> {
        let lists = self.entries.outputs().map(|(_, result)| &result.problems);
        problems.extend(lists.filter(|list| !list.is_empty()).cloned());
        differences.extend(removed.into_iter().map(|key| (key, None)));
        apply_differences(&mut self.values, differences);
        Arc::clone(&self.values)
    }
}

/// A memoised stage without keys: one input, one output.
#[derive(Debug)]
pub(crate) struct CachedValue<I, T> {
    last: Option<(I, Arc<T>)>,
    /// The number of times that the function of the stage ran.
    #[cfg(test)]
    pub(crate) runs: usize,
}

impl<I, T> Default for CachedValue<I, T> {
    fn default() -> Self {
        Self {
            last: None,
            #[cfg(test)]
            runs: 0,
        }
    }
}

impl<I: FastEq, T: PartialEq> CachedValue<I, T> {
    /// Returns the output for `input`. The output keeps its pointer if the input did not change or if `derive` returns an
    /// equal output.
    pub(crate) fn update(&mut self, input: I, derive: impl FnOnce(&I) -> T) -> Arc<T> {
        let last = match self.last.take() {
            Some((previous, output)) if previous.fast_eq(&input) => {
                self.last = Some((input, Arc::clone(&output)));
                return output;
            }
            last => last.map(|(_, output)| output),
        };
        #[cfg(test)]
        {
            self.runs += 1;
        }
        let fresh = derive(&input);
        let output = last
            .filter(|output| **output == fresh)
            .unwrap_or_else(|| Arc::new(fresh));
        self.last = Some((input, Arc::clone(&output)));
        output
    }
}

/// The values and problems of all objects of one kind.
#[derive(Debug)]
pub(crate) struct StageOutput<K: Ord, T> {
    pub(crate) values: SharedMap<K, T>,
    pub(crate) problems: ProblemLists,
}

/// Compares pointers, because stages keep the pointers of unchanged values.
impl<K: Ord, T> PartialEq for StageOutput<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.values.fast_eq(&other.values) && self.problems.fast_eq(&other.problems)
    }
}

#[cfg(test)]
mod tests;
