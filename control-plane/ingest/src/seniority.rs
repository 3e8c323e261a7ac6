//! The rule for every contest: of two objects that claim one name, match or port, the older one holds it.
//!
//! Where the API has an explicit priority, it decides first, then the specificity of the match. What they leave equal is
//! decided by [`Contender::seniority`] and never by a name, so that a new object cannot take over what an existing one
//! holds, whatever it is called. The loser has a problem that names the winner.
//!
//! ```text
//! Route a/new  (2026)  ─┐ same match,
//! Route z/old  (2020)  ─┴ same priority ──► z/old is served; a/new has the problem DuplicateMatch
//! ```
//!
//! Objects from files usually have no creation time. They count as the oldest, and precede each other by namespace and
//! name, so that the result does not depend on the order of files.

use std::sync::Arc;

use evermesh_model::ObjectRef;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

/// The age of an object. A smaller age is that of an older object.
///
/// Two objects that were created in the same second, which is the resolution of `creationTimestamp`, are compared by UID.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectAge {
    /// `metadata.creationTimestamp`; absent for most objects from files.
    created: Option<Timestamp>,
    /// `metadata.uid`; absent without a creation time.
    uid: Option<Arc<str>>,
}

impl ObjectAge {
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let uid = metadata.uid.as_deref().filter(|_| created.is_some());
        Self {
            created,
            uid: uid.map(Into::into),
        }
    }
}

/// An object that may claim the same as another one.
pub(crate) trait Contender {
    fn object(&self) -> &ObjectRef;

    fn age(&self) -> &ObjectAge;

    /// Sort key of the objects that claim one thing; the smallest key holds it.
    fn seniority(&self) -> (&ObjectAge, &ObjectRef) {
        (self.age(), self.object())
    }
}

#[cfg(test)]
mod tests {
    use evermesh_model::Kind;

    use super::*;

    struct Claim(ObjectAge, ObjectRef);

    impl Contender for Claim {
        fn object(&self) -> &ObjectRef {
            &self.1
        }

        fn age(&self) -> &ObjectAge {
            &self.0
        }
    }

    fn claim(namespace: &str, created: Option<&str>, uid: &str) -> Claim {
        let metadata = ObjectMeta {
            creation_timestamp: created
                .map(|time| serde_json::from_value(time.into()).expect("a time")),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        let object = ObjectRef::new(Kind::VirtualNode, namespace, "x");
        Claim(ObjectAge::of(&metadata), object)
    }

    #[test]
    fn older_object_precedes_whatever_its_name_is() {
        let descending = [
            claim("c", None, "3"),
            claim("d", None, "2"),
            claim("z", Some("2020-01-01T00:00:00Z"), "9"),
            claim("b", Some("2020-01-01T00:00:01Z"), "4"),
            claim("a", Some("2020-01-01T00:00:01Z"), "5"),
        ];
        let sorted = |claims: &[Claim]| {
            claims.is_sorted_by(|one, other| one.seniority() < other.seniority())
        };
        assert!(sorted(&descending));
    }
}
