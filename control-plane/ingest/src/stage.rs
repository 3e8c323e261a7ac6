//! How the stages of a turn run: memoised, with their problems beside their values.
//!
//! Inputs enter as `Arc`s in ascending order of their keys, values leave as `Arc`s that keep their pointer
//! while they stay equal, and problems leave through a [`ProblemLists`].
//!
//! Must not know any kind of object.

use std::sync::Arc;

use evermesh_model::{
    FastEq, MemoInput, ObjectRef, Problem, Reason, Severity, SharedMap,
    memo::{MemoEntries, patch},
    problem::FieldPath,
};

/// What one derivation made of its input, and what it found wrong on the way.
#[derive(Debug)]
pub(crate) struct WithProblems<T> {
    /// What could be made; nothing, if the input is no use at all.
    value: Option<Arc<T>>,
    problems: Arc<[Problem]>,
}

impl<T> WithProblems<T> {
    pub(crate) fn new(value: Option<T>, problems: Problems<'_>) -> Self {
        Self {
            value: value.map(Arc::new),
            problems: problems.list.into(),
        }
    }
}

impl<T> WithProblems<Vec<Arc<T>>> {
    /// Those of several that are of use, and the problems of all.
    pub(crate) fn all(several: impl IntoIterator<Item = WithProblems<T>>) -> Self {
        let (mut values, mut problems) = (Vec::new(), Vec::new());
        for checked in several {
            values.extend(checked.value);
            problems.extend(checked.problems.iter().cloned());
        }
        Self {
            value: Some(Arc::new(values)),
            problems: problems.into(),
        }
    }
}

/// Values by key that are not as they were.
type Differences<K, T> = Vec<(K, Option<Arc<T>>)>;

impl<T: PartialEq> WithProblems<T> {
    /// Keeps the pointer of whichever part came out as it was before, and notes a value that did not.
    fn keeping<K: Clone>(
        mut self,
        last: Option<Self>,
        key: &K,
        differences: &mut Differences<K, T>,
    ) -> Self {
        let (value, problems) = last.map(|last| (last.value, last.problems)).unzip();
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

/// Collects the problems of one object while it is converted.
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

    /// A problem that is more or less serious here than its reason is elsewhere.
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

    /// Problems of this or another object that are already made.
    pub(crate) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.list.extend(problems);
    }

    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.list
    }
}

/// Something cannot be used, and a problem says so already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProblemReported;

/// The problem lists of one turn that are not empty. Shared, not copied.
pub(crate) type ProblemLists = Vec<Arc<[Problem]>>;

/// A memoised stage by key, as [`Memo`], of derivations that come with problems. A value that is itself the
/// same keeps its pointer when only its problems changed. `F` is what a stage of two steps finds in the first.
///
/// [`Memo`]: evermesh_model::Memo
#[derive(Debug)]
pub(crate) struct KeyedStage<K, I, T, F = ()> {
    entries: MemoEntries<K, I, (F, WithProblems<T>)>,
    values: SharedMap<K, T>,
}

impl<K, I, T, F> Default for KeyedStage<K, I, T, F> {
    fn default() -> Self {
        Self {
            entries: MemoEntries::default(),
            values: Arc::default(),
        }
    }
}

impl<K: Ord + Clone, I, T: PartialEq> KeyedStage<K, I, T> {
    /// One turn: the values there are, and the problems of all into `findings`. `inputs` must come in
    /// strictly ascending order of their keys.
    pub(crate) fn update<'a, B: MemoInput<Stored = I>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        mut derive: impl FnMut(&K, &I) -> WithProblems<T>,
        findings: &mut ProblemLists,
    ) -> SharedMap<K, T>
    where
        K: 'a,
    {
        let mut differences = Differences::new();
        let gone = self.entries.update(inputs, |key, input, last| {
            let last = last.map(|(_, ((), checked))| checked);
            let checked = derive(key, input).keeping(last, key, &mut differences);
            ((), checked)
        });
        self.finish(differences, gone, findings)
    }
}

impl<K: Ord + Clone, I: FastEq, S, T: PartialEq, F: PartialEq> KeyedStage<K, (I, S), T, F> {
    /// One turn in two steps: what an input leads to in its surroundings, and what comes of the two. The second is
    /// taken only where the input changed or now leads elsewhere.
    pub(crate) fn update_with_lookup<'a, B: MemoInput<Stored = (I, S)>>(
        &mut self,
        inputs: impl IntoIterator<Item = (&'a K, B)>,
        find: impl Fn(&I, &S) -> F,
        resolve: impl Fn(&I, &F) -> WithProblems<T>,
        findings: &mut ProblemLists,
    ) -> SharedMap<K, T>
    where
        K: 'a,
    {
        let mut differences = Differences::new();
        let gone = self
            .entries
            .update(inputs, |key, (input, surroundings), last| {
                let finds = find(input, surroundings);
                let last = match last {
                    Some(((last, _), (found, checked)))
                        if last.fast_eq(input) && found == finds =>
                    {
                        return (found, checked);
                    }
                    Some((_, (_, checked))) => Some(checked),
                    None => None,
                };
                let checked = resolve(input, &finds).keeping(last, key, &mut differences);
                (finds, checked)
            });
        self.finish(differences, gone, findings)
    }
}

impl<K: Ord + Clone, I, T, F> KeyedStage<K, I, T, F> {
    fn finish(
        &mut self,
        mut differences: Differences<K, T>,
        gone: Vec<K>,
        findings: &mut ProblemLists,
    ) -> SharedMap<K, T> {
        let problems = self.entries.outputs().map(|(_, checked)| &checked.problems);
        findings.extend(problems.filter(|list| !list.is_empty()).cloned());
        differences.extend(gone.into_iter().map(|key| (key, None)));
        patch(&mut self.values, differences);
        Arc::clone(&self.values)
    }
}

/// A memoised stage without keys.
#[derive(Debug)]
pub(crate) struct CachedValue<I, T>(Option<(I, Arc<T>)>);

impl<I, T> Default for CachedValue<I, T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<I: FastEq, T: PartialEq> CachedValue<I, T> {
    /// The last output if the input is the same, or if what is derived from it is equal.
    pub(crate) fn update(&mut self, input: I, derive: impl FnOnce(&I) -> T) -> Arc<T> {
        let output = match self.0.take() {
            Some((last, output)) if last.fast_eq(&input) => output,
            Some((_, output)) => {
                let fresh = derive(&input);
                if *output == fresh {
                    output
                } else {
                    Arc::new(fresh)
                }
            }
            None => Arc::new(derive(&input)),
        };
        self.0 = Some((input, Arc::clone(&output)));
        output
    }
}

/// What a whole kind came to: its values by name, and the problems found on the way.
#[derive(Debug)]
pub(crate) struct StageOutput<K: Ord, T> {
    pub(crate) values: SharedMap<K, T>,
    pub(crate) findings: ProblemLists,
}

/// By pointer: the stages keep them while nothing changes.
impl<K: Ord, T> PartialEq for StageOutput<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.values.fast_eq(&other.values) && self.findings.fast_eq(&other.findings)
    }
}
