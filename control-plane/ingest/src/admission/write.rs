//! What admission is asked about, and its refusal.
//!
//! Must not decide anything.

use std::fmt;

use evermesh_model::{Kind, ObjectRef, Problem};
use serde_json::Value;

use crate::stage::Problems;

/// An object on its way into the cluster, as JSON: what our types do not know must survive.
#[derive(Debug, Clone)]
pub struct ObjectWrite<'a> {
    /// Which object. The name is empty while the API server has yet to generate one.
    pub object: ObjectRef,
    /// Whether it is there already.
    pub operation: Operation<'a>,
    /// The object as it is to be.
    pub new: &'a Value,
}

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation<'a> {
    /// It comes.
    Create,
    /// It changes.
    Update {
        /// The object as it is.
        old: &'a Value,
    },
}

impl ObjectWrite<'_> {
    /// Whether [`fill`](super::fill) looks at other objects to answer.
    pub fn needs_cluster_snapshot(&self) -> bool {
        let kind = self.object.kind;
        self.operation == Operation::Create
            && kind != Kind::Mesh
            && kind.api_version() == Kind::Mesh.api_version()
    }

    /// Whether the object is only waiting for its finalizers. Then every write must pass, or an object
    /// that some rule refuses by now could never go.
    pub(crate) fn is_terminating(&self) -> bool {
        !self.new["metadata"]["deletionTimestamp"].is_null()
    }
}

/// Why a write does not pass, in words for whoever wrote the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionDenial {
    /// What is wrong; never empty.
    pub problems: Vec<Problem>,
    /// Whether other objects are the reason. These are known from a watch, which may lag behind the API
    /// server: a newer [`ClusterSnapshot`](super::ClusterSnapshot) may let the same write pass.
    pub may_be_stale: bool,
}

impl AdmissionDenial {
    /// The problems of the object itself, if there are any.
    pub(crate) fn of(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self {
            problems,
            may_be_stale: false,
        })
    }

    /// Problems with other objects.
    pub(crate) fn by_others(problems: Problems<'_>) -> Self {
        Self {
            problems: problems.into_list(),
            may_be_stale: true,
        }
    }
}

impl fmt::Display for AdmissionDenial {
    /// The object is left out: whoever reads this has just written it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if !problem.field.is_root() {
                write!(f, "{}: ", problem.field)?;
            }
            write!(f, "{} ({:?})", problem.message, problem.reason)?;
        }
        Ok(())
    }
}
