//! The reflector of one watch: turns watch events into changes.
//!
//! The reflector remembers the names of the objects that it has seen. A new list, which follows a watch that broke,
//! thereby shows which objects were deleted meanwhile. Only a complete list removes objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_ingest::object::{ParsedDocument, parse};
use evermesh_model::{Kind, ObjectRef};
use kube::{
    api::DynamicObject,
    runtime::watcher::{self, Event},
};

use super::{ObservedObjects, WatchPosition, trim::trim};
use crate::source::SourceChange;

#[derive(Debug)]
pub(super) struct Reflector {
    kind: Kind,
    known: BTreeSet<ObjectRef>,
    /// Objects for which problems were sent.
    with_problems: BTreeSet<ObjectRef>,
    /// Objects of a list that is not complete yet.
    listed: Option<BTreeMap<ObjectRef, DynamicObject>>,
    /// Whether the first list was completed, or skipped because it is forbidden.
    complete: bool,
    position: WatchPosition,
    observed: Arc<ObservedObjects>,
}

impl Reflector {
    pub(super) fn new(kind: Kind, watch: usize, observed: Arc<ObservedObjects>) -> Self {
        Self {
            kind,
            known: BTreeSet::new(),
            with_problems: BTreeSet::new(),
            listed: None,
            complete: false,
            position: WatchPosition { watch, count: 0 },
            observed,
        }
    }

    pub(super) const fn position(&self) -> WatchPosition {
        self.position
    }

    /// Applies an event and appends its changes. Returns whether the event completed the first list.
    pub(super) fn handle(
        &mut self,
        event: Event<DynamicObject>,
        changes: &mut Vec<SourceChange>,
    ) -> bool {
        match event {
            Event::Init => self.restart_list(),
            Event::InitApply(object) => {
                let id = self.id(&object);
                self.listed.get_or_insert_default().insert(id, object);
            }
            Event::InitDone => return self.replace(changes),
            Event::Apply(object) => self.apply(self.id(&object), object, changes),
            Event::Delete(object) => self.delete(self.id(&object), changes),
        }
        false
    }

    /// Drops the objects of a list that broke off. The next list begins anew.
    pub(super) fn restart_list(&mut self) {
        self.listed = None;
    }

    /// Stops waiting for the first list of Secrets if the API server forbids it, so that a missing role affects nothing
    /// but Secrets. Returns whether this counts as the first list.
    pub(super) fn skip_forbidden_list(&mut self, error: &watcher::Error) -> bool {
        let is_forbidden = matches!(
            error,
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403
        );
        self.kind == Kind::Secret && is_forbidden && !std::mem::replace(&mut self.complete, true)
    }

    fn replace(&mut self, changes: &mut Vec<SourceChange>) -> bool {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<ObjectRef> = self
            .known
            .iter()
            .filter(|id| !listed.contains_key(*id))
            .cloned()
            .collect();
        for id in gone {
            self.delete(id, changes);
        }
        for (id, object) in listed {
            self.apply(id, object, changes);
        }
        !std::mem::replace(&mut self.complete, true)
    }

    fn apply(&mut self, id: ObjectRef, object: DynamicObject, changes: &mut Vec<SourceChange>) {
        self.known.insert(id.clone());
        self.position.count += 1;
        self.observed.put(&id, &object, self.position);
        let ParsedDocument {
            object, problems, ..
        } = parse(trim(self.kind, object));
        if !problems.is_empty() || self.with_problems.contains(&id) {
            if problems.is_empty() {
                self.with_problems.remove(&id);
            } else {
                self.with_problems.insert(id.clone());
            }
            changes.push(SourceChange::Problems {
                origin: origin(&id),
                problems,
            });
        }
        if let Some((_, object)) = object {
            changes.push(SourceChange::Object {
                object: id,
                origin: None,
                value: Some(object),
            });
        }
    }

    fn delete(&mut self, id: ObjectRef, changes: &mut Vec<SourceChange>) {
        self.known.remove(&id);
        self.observed.remove(&id);
        if self.with_problems.remove(&id) {
            changes.push(SourceChange::Problems {
                origin: origin(&id),
                problems: Vec::new(),
            });
        }
        changes.push(SourceChange::Object {
            object: id,
            origin: None,
            value: None,
        });
    }

    fn id(&self, object: &DynamicObject) -> ObjectRef {
        ObjectRef::new(
            self.kind,
            object.metadata.namespace.as_deref().unwrap_or_default(),
            object.metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

fn origin(id: &ObjectRef) -> Arc<str> {
    format!("kubernetes:{id}").into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mesh(name: &str, spec: &Value) -> DynamicObject {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn handle(reflector: &mut Reflector, events: Vec<Event<DynamicObject>>) -> (Vec<String>, bool) {
        let mut changes = Vec::new();
        let mut completed = false;
        for event in events {
            completed |= reflector.handle(event, &mut changes);
        }
        let texts = changes.into_iter().map(|change| match change {
            SourceChange::Object { object, value, .. } => match value {
                Some(_) => format!("+{object}"),
                None => format!("-{object}"),
            },
            SourceChange::Problems { origin, problems } => {
                format!("{} of {origin}", problems.len())
            }
            other => panic!("{other:?}"),
        });
        (texts.collect(), completed)
    }

    #[test]
    fn only_a_complete_list_removes_objects() {
        let mut reflector = Reflector::new(Kind::Mesh, 0, Arc::default());
        let list = vec![
            Event::Init,
            Event::InitApply(mesh("a", &json!({}))),
            Event::InitApply(mesh("b", &json!({}))),
        ];
        assert_eq!(handle(&mut reflector, list), (vec![], false));
        assert_eq!(
            handle(&mut reflector, vec![Event::InitDone]),
            (vec!["+Mesh/a".to_owned(), "+Mesh/b".to_owned()], true)
        );
        let broken_off = vec![Event::InitApply(mesh("a", &json!({})))];
        assert_eq!(handle(&mut reflector, broken_off), (vec![], false));
        reflector.restart_list();
        let again = vec![Event::InitApply(mesh("b", &json!({}))), Event::InitDone];
        assert_eq!(
            handle(&mut reflector, again),
            (vec!["-Mesh/a".to_owned(), "+Mesh/b".to_owned()], false)
        );
    }

    #[test]
    fn invalid_object_keeps_its_last_good_version_and_is_reported() {
        let mut reflector = Reflector::new(Kind::Mesh, 0, Arc::default());
        let broken = mesh("a", &json!({"egressFilter": {"type": "MAYBE"}}));
        let events = vec![
            Event::Apply(mesh("a", &json!({}))),
            Event::Apply(broken),
            Event::Apply(mesh("a", &json!({}))),
        ];
        let expected = [
            "+Mesh/a",
            "1 of kubernetes:Mesh/a",
            "0 of kubernetes:Mesh/a",
            "+Mesh/a",
        ];
        assert_eq!(handle(&mut reflector, events).0, expected);
    }
}
