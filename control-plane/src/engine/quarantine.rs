//! Keeps changes that make a rebuild panic out of the inputs, so that they stop no other change.
//!
//! A panic is a bug of Evermesh that some object brings out. The engine catches it, goes back to the last good version
//! of each object of the step, applies the changes again in order, and leaves out those with which a rebuild still
//! panics. Finding one of `n` changes takes about `log2 n` rebuilds without memos.

use std::{
    any::Any,
    cell::Cell,
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
};

use evermesh_ingest::{BuildMemo, object::Object};
use evermesh_model::{ObjectRef, Problem, Reason, problem::FieldPath};
use evermesh_proto::ResourceKey;
use evermesh_translate::{DeriveMemo, ResourceChanges};
use tracing::error;

use super::{Engine, RebuildScope};

/// Longest text of a panic that a problem quotes, in characters.
const QUOTED: usize = 200;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Objects whose newest version is left out of the inputs, with the problem that says so.
pub(super) type Quarantine = BTreeMap<ObjectRef, Problem>;

/// The versions of the objects of a step before it. `None` stands for an object that did not exist.
pub(super) type Versions = BTreeMap<ObjectRef, Option<Object>>;

/// Ends the process at a panic, except where the engine catches it: a thread that is gone must not go unnoticed.
pub fn abort_on_other_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        if !IS_GUARDED.get() {
            std::process::abort();
        }
    }));
}

/// Runs `function`, and returns the text of its panic as an error.
pub(super) fn guard<T>(function: impl FnOnce() -> T) -> Result<T, String> {
    let was_guarded = IS_GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(function));
    IS_GUARDED.set(was_guarded);
    result.map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("unknown").chars().take(QUOTED).collect()
}

impl Engine {
    /// Goes on after a rebuild that panicked with `cause`. If no object of the step is the reason, the last resources
    /// stay in force until the next change.
    pub(super) fn recover(&mut self, scope: &RebuildScope, cause: &str) {
        self.outputs.metrics.count_rebuild_panic();
        let after = self.versions(scope.before.keys());
        self.set_versions(&scope.before);
        if let Err(cause) = self.try_build() {
            error!(%cause, "a rebuild panicked, and no object of this change is the reason; the last resources stay in force");
            self.set_versions(&after);
        } else {
            let mut rest: Vec<(ObjectRef, Option<Object>)> = after.into_iter().collect();
            while let Some(culprit) = self.first_culprit(&rest) {
                rest.drain(..culprit.index);
                let (object, _) = rest.remove(0);
                self.quarantine_object(object, &culprit.cause);
            }
            error!(%cause, quarantined = self.quarantine.len(), "recovered from a rebuild that panicked");
        }
        // The memos may be incomplete.
        (self.build, self.derive) = (BuildMemo::default(), DeriveMemo::default());
        self.has_fresh_memos = true;
        let all = RebuildScope {
            full: true,
            problems: true,
            origins: scope.origins.clone(),
            noticed: scope.noticed,
            ..RebuildScope::default()
        };
        self.outputs.work.begin();
        if let Err(cause) = guard(|| self.rebuild(&all)) {
            error!(%cause, "a rebuild panicked again; the last resources stay in force");
            (self.build, self.derive) = (BuildMemo::default(), DeriveMemo::default());
        }
    }

    /// Applies changes in order, up to and without the first with which a rebuild panics. `None` if none does.
    fn first_culprit(&mut self, changes: &[(ObjectRef, Option<Object>)]) -> Option<Culprit> {
        let before = self.versions(changes.iter().map(|(object, _)| object));
        let mut apply = |count: usize| {
            self.set_versions(&before);
            for (object, version) in &changes[..count] {
                self.inputs.apply(object.clone(), version.clone());
            }
            self.try_build().err()
        };
        let mut cause = apply(changes.len())?;
        // Panics with the first `fails` changes, and not with the first `works`.
        let (mut works, mut fails) = (0, changes.len());
        while fails - works > 1 {
            let middle = works + (fails - works) / 2;
            match apply(middle) {
                Some(text) => (fails, cause) = (middle, text),
                None => works = middle,
            }
        }
        apply(works);
        Some(Culprit {
            index: works,
            cause,
        })
    }

    fn quarantine_object(&mut self, object: ObjectRef, cause: &str) {
        let message = format!(
            "Evermesh cannot process this version (`{cause}`), which is a bug of Evermesh; the version before it stays in force; change the object, and report the bug with it"
        );
        error!(%object, "{message}");
        let problem = Problem::new(&object, FieldPath::root(), Reason::InternalError, message);
        self.quarantine.insert(object, problem);
    }

    fn versions<'a>(&self, objects: impl Iterator<Item = &'a ObjectRef>) -> Versions {
        objects
            .map(|object| (object.clone(), self.inputs.get(object)))
            .collect()
    }

    fn set_versions(&mut self, versions: &Versions) {
        for (object, version) in versions {
            self.inputs.apply(object.clone(), version.clone());
        }
    }

    /// Builds and derives everything without memos.
    fn try_build(&self) -> Result<(), String> {
        self.outputs.work.begin();
        guard(|| {
            let built = self.ingest(&mut BuildMemo::default());
            evermesh_translate::derive(&built.graph, &mut DeriveMemo::default());
        })
    }

    /// The difference between what the store has and what the memo has.
    pub(super) fn changes_of_store(&self) -> ResourceChanges {
        let derived = self.derive.derived();
        let (stored, views) = (self.outputs.store.resources(), self.outputs.store.views());
        let removed = stored.iter().map(|(key, _)| key);
        let removed = removed.filter(|key| !derived.resources.contains_key(key));
        let stored: BTreeMap<&ResourceKey, _> = stored.iter().map(|(key, it)| (key, it)).collect();
        let changed = derived.resources.iter();
        let changed = changed.filter(|(key, resource)| stored.get(key) != Some(resource));
        let stored_views: BTreeMap<_, _> = views.iter().map(|(name, view)| (name, view)).collect();
        let gone = views.iter().map(|(name, _)| name);
        let gone = gone.filter(|name| !derived.views.contains_key(*name));
        let new = derived.views.iter();
        let new = new.filter(|(name, view)| stored_views.get(name) != Some(view));
        ResourceChanges {
            resources: removed
                .map(|key| (key.clone(), None))
                .chain(changed.map(|(key, resource)| (key.clone(), Some(resource.clone()))))
                .collect(),
            views: gone
                .map(|name| (name.clone(), None))
                .chain(new.map(|(name, view)| (name.clone(), Some(view.clone()))))
                .collect(),
        }
    }
}

/// A change with which a rebuild panics.
struct Culprit {
    index: usize,
    /// The text of the panic.
    cause: String,
}

#[cfg(test)]
mod tests;
