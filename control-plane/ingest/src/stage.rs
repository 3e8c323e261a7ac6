//! How the stages of a turn run: memoised, with their problems beside their values.
//!
//! Inputs enter as `Arc`s in ascending order of their keys, values leave as `Arc`s that keep their pointer
//! while they stay equal, and problems leave through a [`Findings`].
//!
//! Must not know any kind of object.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{ObjectRef, Problem, Reason, Same, Severity, problem::FieldPath};

/// What one derivation made of its input, and what it found wrong on the way.
#[derive(Debug)]
pub(crate) struct Checked<T> {
    /// What could be made; nothing, if the input is no use at all.
    value: Option<Arc<T>>,
    problems: Arc<[Problem]>,
}

impl<T> Checked<T> {
    pub(crate) fn new(value: Option<T>, problems: Problems<'_>) -> Self {
        Self {
            value: value.map(Arc::new),
            problems: problems.list.into(),
        }
    }
}

impl<T: PartialEq> Checked<T> {
    /// Keeps the pointer of whichever part came out as it was before.
    fn keeping(mut self, last: Self) -> Self {
        if self.value == last.value {
            self.value = last.value;
        }
        if self.problems == last.problems {
            self.problems = last.problems;
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
pub(crate) struct Reported;

/// The problem lists of one turn that are not empty. Shared, not copied.
pub(crate) type Findings = Vec<Arc<[Problem]>>;

/// A memoised stage by key, as [`Memo`], of derivations that come with problems. A value that is itself the
/// same keeps its pointer when only its problems changed.
///
/// [`Memo`]: evermesh_model::Memo
#[derive(Debug)]
pub(crate) struct Stage<K, I, T> {
    entries: BTreeMap<K, (I, Checked<T>)>,
}

impl<K, I, T> Default for Stage<K, I, T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, I: Same, T: PartialEq> Stage<K, I, T> {
    /// One turn: the values there are, and the problems of all into `findings`. `inputs` must come in
    /// strictly ascending order of their keys.
    pub(crate) fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = (K, I)>,
        mut derive: impl FnMut(&K, &I) -> Checked<T>,
        findings: &mut Findings,
    ) -> BTreeMap<K, Arc<T>> {
        let mut previous = std::mem::take(&mut self.entries).into_iter().peekable();
        let mut values = Vec::new();
        self.entries = inputs
            .into_iter()
            .map(|(key, input)| {
                while previous.next_if(|(passed, _)| *passed < key).is_some() {}
                let checked = match previous.next_if(|(found, _)| *found == key) {
                    Some((_, (last, checked))) if last.same(&input) => checked,
                    Some((_, (_, checked))) => derive(&key, &input).keeping(checked),
                    None => derive(&key, &input),
                };
                if !checked.problems.is_empty() {
                    findings.push(Arc::clone(&checked.problems));
                }
                if let Some(value) = &checked.value {
                    values.push((key.clone(), Arc::clone(value)));
                }
                (key, (input, checked))
            })
            .collect();
        values.into_iter().collect()
    }
}

/// A memoised stage without keys.
#[derive(Debug)]
pub(crate) struct Once<I, T>(Option<(I, Arc<T>)>);

impl<I, T> Default for Once<I, T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<I: Same, T: PartialEq> Once<I, T> {
    /// The last output if the input is the same, or if what is derived from it is equal.
    pub(crate) fn turn(&mut self, input: I, derive: impl FnOnce(&I) -> T) -> Arc<T> {
        let output = match self.0.take() {
            Some((last, output)) if last.same(&input) => output,
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

/// Keeps the last value, and its pointer, while a fresh one is the same.
pub(crate) fn keep<T: Same>(last: &mut Arc<T>, fresh: T) -> Arc<T> {
    if !T::same(last, &fresh) {
        *last = Arc::new(fresh);
    }
    Arc::clone(last)
}

/// What a whole kind came to: its values by name, and the problems found on the way.
#[derive(Debug, PartialEq)]
pub(crate) struct Turned<K: Ord, T> {
    pub(crate) values: BTreeMap<K, Arc<T>>,
    pub(crate) findings: Findings,
}
