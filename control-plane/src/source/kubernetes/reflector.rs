//! The reflector of one watch: turns watch events into changes.
//!
//! The reflector remembers the names of the objects that it has seen. A new list, which follows a watch that broke,
//! thereby shows which objects were deleted meanwhile. Only a complete list removes objects.
//!
//! An event that changes only a status, or anything else that [`trim`](super::trim) removes, makes no change: the
//! engine does not run for the statuses that Evermesh itself writes, nor for heartbeats.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_ingest::object::{ParsedDocument, parse};
use evermesh_model::{Kind, ObjectRef};
use evermesh_proto::ContentVersion;
use kube::{
    api::DynamicObject,
    runtime::watcher::{self, Event},
};
use serde_json::Value;

use super::{ObservedObject, ObservedObjects, WatchPosition, trim::trim};
use crate::source::SourceChange;

#[derive(Debug)]
pub(super) struct Reflector {
    kind: Kind,
    /// The objects that were sent, each with a hash of what the graph can depend on.
    known: BTreeMap<ObjectRef, ContentVersion>,
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
            known: BTreeMap::new(),
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
            .keys()
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
        let observed = ObservedObject::new(self.kind, &object, self.position);
        let document = trim(self.kind, object);
        let content = content_of(self.kind, &document);
        let is_sent = self.known.insert(id.clone(), content) == Some(content);
        if !is_sent {
            self.position.count += 1;
        }
        if let Some(mut observed) = observed {
            observed.position = self.position;
            self.observed.put(&id, observed);
        }
        if is_sent {
            return;
        }
        let ParsedDocument {
            object, problems, ..
        } = parse(document);
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

/// Hash of a trimmed object.
fn content_of(kind: Kind, document: &Value) -> ContentVersion {
    let text = document.to_string();
    match kind {
        Kind::Secret => ContentVersion::of_confidential(text.as_bytes()),
        _ => ContentVersion::of(text.as_bytes()),
    }
}

fn origin(id: &ObjectRef) -> Arc<str> {
    format!("kubernetes:{id}").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            (vec!["-Mesh/a".to_owned()], false)
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

    #[test]
    fn status_is_observed_without_a_change() {
        let observed = Arc::<ObservedObjects>::default();
        let mut reflector = Reflector::new(Kind::Mesh, 0, Arc::clone(&observed));
        let first = mesh("a", &json!({}));
        let id = reflector.id(&first);
        let mut written = first.clone();
        written.metadata.resource_version = Some("2".to_owned());
        written.metadata.managed_fields = Some(Vec::new());
        written.data["status"] = json!({"conditions": []});
        let mut labelled = written.clone();
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());

        let (changes, _) = handle(&mut reflector, vec![Event::Apply(first)]);
        assert_eq!(changes, ["+Mesh/a"]);
        let sent = reflector.position();
        let listed = vec![Event::InitApply(written.clone()), Event::InitDone];
        for events in [vec![Event::Apply(written)], listed] {
            assert_eq!(handle(&mut reflector, events).0, [""; 0]);
            let last = observed.get(&id).unwrap();
            assert_eq!(last.status, json!({"conditions": []}));
            assert_eq!(last.version, "2");
            assert_eq!(last.position, sent, "nothing waits for the engine");
            assert_eq!(reflector.position(), sent);
            assert_eq!(observed.take_changed(), [id.clone()].into());
        }
        let (changes, _) = handle(&mut reflector, vec![Event::Apply(labelled)]);
        assert_eq!(changes, ["+Mesh/a"]);
        assert_eq!(reflector.position().count, sent.count + 1);
    }
}
