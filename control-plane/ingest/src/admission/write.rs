//! The input of admission ([`ObjectWrite`]) and its negative answer ([`AdmissionDenial`]).

use std::{borrow::Cow, fmt};

use evermesh_model::{Kind, ObjectRef, Problem};
use serde_json::Value;

use crate::stage::Problems;

/// A write to an object that the API server asks about. The object is JSON, so that fields unknown to Evermesh survive.
#[derive(Debug, Clone)]
pub struct ObjectWrite<'a> {
    /// The identity of the object. The name is empty if the API server generates it later (`generateName`).
    pub object: ObjectRef,
    /// Creation or update.
    pub operation: Operation<'a>,
    /// The object after the write.
    pub new: Cow<'a, Value>,
}

/// The operation of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation<'a> {
    /// The object is created.
    Create,
    /// The object is changed.
    Update {
        /// The object before the write.
        old: Cow<'a, Value>,
    },
}

impl ObjectWrite<'_> {
    /// Returns whether the answer depends on other objects.
    pub fn needs_cluster_snapshot(&self) -> bool {
        match self.object.kind {
            Kind::Mesh => false,
            Kind::Route => !self.is_terminating() && self.changes_spec(),
            kind => {
                self.operation == Operation::Create
                    && kind.api_version() == Kind::Mesh.api_version()
            }
        }
    }

    /// Returns whether the write creates the object or changes its spec.
    pub(crate) fn changes_spec(&self) -> bool {
        match &self.operation {
            Operation::Create => true,
            Operation::Update { old } => old["spec"] != self.new["spec"],
        }
    }

    /// Returns whether the object is being deleted. Every write must then pass, because otherwise the finalizers of an
    /// object that newer rules reject could never be removed.
    pub(crate) fn is_terminating(&self) -> bool {
        !self.new["metadata"]["deletionTimestamp"].is_null()
    }
}

/// The reasons why a write is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionDenial {
    /// The problems of the object; never empty.
    pub problems: Vec<Problem>,
    /// Whether the denial depends on other objects. The watch may lag behind the API server, so the same write may pass
    /// with a newer [`ClusterSnapshot`](super::ClusterSnapshot).
    pub may_be_stale: bool,
}

impl AdmissionDenial {
    /// Denies the write if the object has problems that do not depend on other objects.
    pub(crate) fn from_problems(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self {
            problems,
            may_be_stale: false,
        })
    }

    /// A denial that depends on other objects.
    pub(crate) fn from_snapshot(problems: Problems<'_>) -> Self {
        Self {
            problems: problems.into_list(),
            may_be_stale: true,
        }
    }

    /// Denies the write if the object has problems that depend on other objects.
    pub(crate) fn from_snapshot_problems(problems: Problems<'_>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self::from_snapshot(problems))
    }
}

impl fmt::Display for AdmissionDenial {
    /// Omits the object, because the reader is its author.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if !problem.field.is_root() {
                write!(f, "{}: ", problem.field)?;
            }
            write!(f, "{} ({})", problem.message, problem.reason)?;
        }
        Ok(())
    }
}
