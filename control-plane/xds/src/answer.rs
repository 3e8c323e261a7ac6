//! The answers of a client to the versions of one resource, as far as an origin of the resource is concerned.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_proto::resource::ContentVersion;

use crate::delivery::Rejection;

/// The ACKed version of a resource, and what keeps the client from a newer one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientAnswer {
    /// Version that the client ACKed last and uses; absent if it has ACKed none. Not a version of the store if the
    /// client got a merge of the newest version and its copy.
    pub acked: Option<ContentVersion>,
    /// Last NACK, until the client ACKs a newer version.
    pub rejection: Option<Rejection>,
    /// Present if the newest version needs clusters that the client rejected.
    pub blockage: Option<Blockage>,
}

/// The parts of a resource that a client does not get or cannot use, because it rejected clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blockage {
    /// The version of the store that is blocked.
    pub(crate) version: ContentVersion,
    /// The version that the client gets instead: `version` itself, or a merge with the client's copy. Absent if it gets
    /// nothing.
    pub(crate) offered: Option<ContentVersion>,
    /// The rejected clusters that the version needs, each with the message of the NACK.
    pub(crate) clusters: Vec<(Arc<str>, String)>,
    /// Origins of the parts that are blocked, and of the resource as a whole.
    pub(crate) origins: BTreeSet<Arc<str>>,
}

impl ClientAnswer {
    /// Whether the client uses everything that this version of the resource has from an origin
    /// ([`Resource::origins`](evermesh_proto::Resource::origins)).
    pub fn has_acked(&self, version: ContentVersion, origin: &str) -> bool {
        match self.blockage_of(version) {
            Some(blockage) if blockage.origins.contains(origin) => false,
            Some(blockage) => self.acked.is_some() && self.acked == blockage.offered,
            None => self.acked == Some(version),
        }
    }

    /// The reason for which the client refuses what this version of the resource has from an origin: the message of its
    /// NACK, or of the NACK of a cluster. `None` if it does not refuse that.
    pub fn refusal(&self, version: ContentVersion, origin: &str) -> Option<String> {
        let blockage = self.blockage_of(version);
        if let Some(blockage) = blockage.filter(|it| it.origins.contains(origin)) {
            let (cluster, message) = blockage.clusters.first()?;
            return Some(format!(
                "the cluster `{cluster}`, which the object needs, was rejected: {message}"
            ));
        }
        let offered = blockage.map_or(Some(version), |blockage| blockage.offered);
        let rejection = self.rejection.as_ref();
        let rejection = rejection.filter(|rejection| Some(rejection.version) == offered)?;
        Some(rejection.message.clone())
    }

    fn blockage_of(&self, version: ContentVersion) -> Option<&Blockage> {
        let blockage = self.blockage.as_ref();
        blockage.filter(|blockage| blockage.version == version)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn version(text: &str) -> ContentVersion {
        ContentVersion::of(text.as_bytes())
    }

    fn rejection(text: &str) -> Rejection {
        Rejection {
            version: version(text),
            message: "no such host".to_owned(),
            at: SystemTime::UNIX_EPOCH,
        }
    }

    /// An answer to a version `newest` of which the part of `b` is blocked.
    fn blocked(offered: Option<&str>, acked: &str) -> ClientAnswer {
        ClientAnswer {
            acked: Some(version(acked)),
            rejection: None,
            blockage: Some(Blockage {
                version: version("newest"),
                offered: offered.map(version),
                clusters: vec![("bad".into(), "no such host".to_owned())],
                origins: ["b".into()].into(),
            }),
        }
    }

    #[test]
    fn origin_of_a_blocked_part_is_refused_and_others_count_by_the_offer() {
        let newest = version("newest");
        let waiting = blocked(Some("merged"), "old");
        assert!(!waiting.has_acked(newest, "a"));
        assert_eq!(waiting.refusal(newest, "a"), None);
        let done = blocked(Some("merged"), "merged");
        assert!(done.has_acked(newest, "a"));
        assert!(!done.has_acked(newest, "b"));
        let refusal = done.refusal(newest, "b").unwrap();
        assert_eq!(
            refusal,
            "the cluster `bad`, which the object needs, was rejected: no such host"
        );
        // A client that has the newest version cannot use the blocked part of it either.
        assert!(!blocked(Some("newest"), "newest").has_acked(newest, "b"));
        assert!(!blocked(None, "old").has_acked(newest, "a"));
    }

    #[test]
    fn blockage_of_an_earlier_version_says_nothing_about_the_newest() {
        let later = version("later");
        let answer = blocked(Some("merged"), "merged");
        assert!(!answer.has_acked(later, "a"));
        assert_eq!(answer.refusal(later, "b"), None);
    }

    #[test]
    fn rejected_merge_is_a_refusal_of_the_other_parts() {
        let answer = ClientAnswer {
            rejection: Some(rejection("merged")),
            ..blocked(Some("merged"), "old")
        };
        let refusal = answer.refusal(version("newest"), "a");
        assert_eq!(refusal.as_deref(), Some("no such host"));
        let plain = ClientAnswer {
            rejection: Some(rejection("newest")),
            ..ClientAnswer::default()
        };
        assert!(plain.refusal(version("newest"), "a").is_some());
        assert_eq!(plain.refusal(version("later"), "a"), None);
    }
}
