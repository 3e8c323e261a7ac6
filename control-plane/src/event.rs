//! Builds Kubernetes events in the form that the `events.k8s.io/v1` API accepts, and publishes them.

use evermesh_xds::PeerText;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Longest note that the API accepts, in bytes.
const MAX_NOTE: usize = 1024;

/// Cause in the answer of an API server to a creation in a namespace that is being deleted
/// (`NamespaceTerminatingCause` of Kubernetes' API).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// The reporter of all events; `identity` is the replica.
pub(crate) fn reporter(identity: impl Into<String>) -> Reporter {
    Reporter {
        controller: "evermesh".to_owned(),
        instance: Some(identity.into()),
    }
}

/// An event. Cuts a note that is too long, and escapes control characters.
pub(crate) fn event(type_: EventType, reason: &str, note: &str, action: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(PeerText(note).within(MAX_NOTE)),
        action: action.to_owned(),
        secondary: None,
    }
}

/// Publishes an event. A namespace that is being deleted takes none, which is not an error.
pub(crate) async fn publish(
    recorder: &Recorder,
    event: &Event,
    about: &ObjectReference,
) -> kube::Result<()> {
    match recorder.publish(event, about).await {
        Err(error) if is_namespace_terminating(&error) => Ok(()),
        published => published,
    }
}

/// Whether the API server rejected a creation because the namespace is being deleted (403, and after its end 404).
fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(answer) = error else {
        return false;
    };
    let details = answer.details.as_ref();
    let mut causes = details.into_iter().flat_map(|details| &details.causes);
    let is_gone = || details.is_some_and(|details| details.kind == "namespaces");
    causes.any(|cause| cause.reason == NAMESPACE_TERMINATING) || answer.code == 404 && is_gone()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    #[test]
    fn end_of_a_namespace_differs_from_other_rejections() {
        let is_end = |answer| {
            let answer: Status = serde_json::from_value(answer).unwrap();
            is_namespace_terminating(&kube::Error::Api(answer.boxed()))
        };
        // Answers of kube-apiserver 1.36.
        let terminating = json!({
            "status": "Failure",
            "message": "events.events.k8s.io \"a\" is forbidden: unable to create new content in namespace shop because it is being terminated",
            "reason": "Forbidden",
            "details": {"name": "a", "group": "events.k8s.io", "kind": "events", "causes": [
                {"reason": "NamespaceTerminating", "message": "namespace shop is being terminated", "field": "metadata.namespace"},
            ]},
            "code": 403,
        });
        let gone = json!({
            "status": "Failure",
            "message": "namespaces \"shop\" not found",
            "reason": "NotFound",
            "details": {"name": "shop", "kind": "namespaces"},
            "code": 404,
        });
        let forbidden = json!({
            "status": "Failure",
            "message": "events.events.k8s.io is forbidden: User \"a\" cannot create resource",
            "reason": "Forbidden",
            "details": {"group": "events.k8s.io", "kind": "events"},
            "code": 403,
        });
        let unknown = json!({
            "status": "Failure",
            "message": "the server could not find the requested resource",
            "reason": "NotFound",
            "details": {"group": "events.k8s.io", "kind": "events"},
            "code": 404,
        });
        assert_eq!([terminating, gone].map(is_end), [true, true]);
        assert_eq!([forbidden, unknown].map(is_end), [false, false]);
    }
}
