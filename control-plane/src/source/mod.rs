//! The outside worlds that the engine is told of: a folder of manifests or a cluster, and Cloud Map.
//!
//! In: files, Kubernetes, AWS. Out: one bounded channel of [`ChangeBatch`]es, read by the engine alone. Each source is a task of
//! its own, keeps what it last told, and sends only what differs from that; a full channel makes it wait.
//!
//! Must not build, translate or judge: an object leaves here as its manifest has it, and what is wrong with a
//! manifest leaves as a [`Problem`].

pub mod cloud_map;
pub mod file;
pub mod kubernetes;

use std::{fmt, sync::Arc, time::Instant};

use evermesh_ingest::object::Object;
use evermesh_model::{CloudMapService, CloudMapState, Kind, ObjectRef, Problem};

/// Changes that belong together: an engine that applies half of them shows a state that never was.
#[derive(Debug)]
pub struct ChangeBatch {
    /// When the source noticed the first of them.
    pub noticed: Instant,
    /// How far a watch has come with them, if they are from a cluster.
    pub position: Option<kubernetes::WatchPosition>,
    /// The changes, in the order in which they are to be applied.
    pub changes: Vec<SourceChange>,
}

impl ChangeBatch {
    /// Changes that come from no cluster.
    pub const fn new(noticed: Instant, changes: Vec<SourceChange>) -> Self {
        Self {
            noticed,
            position: None,
            changes,
        }
    }
}

/// What a source tells the engine.
#[derive(Debug)]
pub enum SourceChange {
    /// An object came or changed, or went.
    Object {
        /// Which one.
        object: ObjectRef,
        /// The file and document where it was read, such as `shop/color.yaml#2`; none when it went, or came from a
        /// cluster.
        origin: Option<Arc<str>>,
        /// What it is now; none when it went.
        value: Option<Object>,
    },
    /// The problems of one origin: they replace all that were told of it before.
    Problems {
        /// A file's path below the folder, or the folder itself; an object of a cluster.
        origin: Arc<str>,
        /// What is wrong there now; none when all is well.
        problems: Vec<Problem>,
    },
    /// What is known of a Cloud Map service. Every service that is wanted is told of at least once, even if
    /// Cloud Map cannot be reached.
    CloudMap {
        /// Which one.
        service: CloudMapService,
        /// Its instances, and why the last call failed if it did.
        state: Arc<CloudMapState>,
    },
    /// The first full read of a source is told: what it has not named does not exist.
    Synced(SourceName),
}

/// A source that can be complete, so that being ready can wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceName {
    /// The folder of manifests.
    Files,
    /// The objects of one kind in a cluster.
    Kubernetes(Kind),
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files => f.write_str("files"),
            Self::Kubernetes(kind) => write!(f, "kubernetes: {kind}"),
        }
    }
}
