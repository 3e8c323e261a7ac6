//! Sources: tasks that read objects from files, a Kubernetes cluster or Cloud Map, and send changes to the engine.
//!
//! | source | reads | complete after |
//! |---|---|---|
//! | [`mod@file`] | a folder of manifests (`--config`) | the first read of the whole folder |
//! | [`kubernetes`] | one watch per kind and namespace (`--kubernetes`) | the first list of each kind |
//! | [`cloud_map`] | the instances of the services that nodes name | the first answer for each service |
//!
//! All sources send [`ChangeBatch`]es into one bounded channel; a source that finds it full waits. A source remembers what
//! it sent and sends only differences. It parses and validates objects, and reports invalid ones as [`Problem`]s; it does
//! not resolve references.

pub mod cloud_map;
pub mod file;
pub mod kubernetes;

use std::{fmt, sync::Arc, time::Instant};

use evermesh_ingest::object::Object;
use evermesh_model::{CloudMapService, CloudMapState, Kind, ObjectRef, Problem};

/// Changes that the engine applies together, such as those of one file.
#[derive(Debug)]
pub struct ChangeBatch {
    /// Time at which the source noticed the first change.
    pub noticed: Instant,
    /// Position of the watch after these changes; present for batches from a Kubernetes cluster.
    pub position: Option<kubernetes::WatchPosition>,
    /// Changes in the order in which the engine applies them.
    pub changes: Vec<SourceChange>,
}

impl ChangeBatch {
    /// A batch that does not come from a watch.
    pub const fn new(noticed: Instant, changes: Vec<SourceChange>) -> Self {
        Self {
            noticed,
            position: None,
            changes,
        }
    }
}

/// One change that a source sends to the engine.
#[derive(Debug)]
pub enum SourceChange {
    /// An object was added, changed or removed.
    Object {
        object: ObjectRef,
        /// File and document of the object, such as `shop/color.yaml#2`; `None` for an object of a Kubernetes cluster and
        /// for a removed object.
        origin: Option<Arc<str>>,
        /// The object, or `None` if it was removed.
        value: Option<Object>,
    },
    /// The current problems of one origin; they replace its earlier problems.
    Problems {
        /// Path of a file below the folder, the folder itself, or `kubernetes:` with an object.
        origin: Arc<str>,
        problems: Vec<Problem>,
    },
    /// The state of a Cloud Map service. Every wanted service is reported at least once, even if Cloud Map cannot be
    /// reached.
    CloudMap {
        service: CloudMapService,
        state: Arc<CloudMapState>,
    },
    /// A source has sent all objects that exist.
    Synced(SourceName),
}

/// A source for whose first complete read the engine waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceName {
    Files,
    /// The objects of one kind in a Kubernetes cluster.
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
