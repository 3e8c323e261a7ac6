//! How the leader knows a replica that tells it something: by a key whose digest stands in the Lease.
//!
//! Whoever may write the Lease may be a replica; whoever may only read it learns nothing that would do.

use std::fmt;

use anyhow::anyhow;
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

/// The key of a replica: new with every process, and known to it alone.
#[derive(Clone)]
pub(crate) struct ReplicaKey(String);

impl ReplicaKey {
    /// # Errors
    /// The machine has no randomness.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes)
            .map_err(|_unspecified| anyhow!("there is no randomness for a key"))?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The key itself, for the leader.
    pub(in crate::effect) fn secret(&self) -> &str {
        &self.0
    }

    /// What the Lease shows of it.
    pub(in crate::effect) fn digest(&self) -> String {
        digest_of(&self.0)
    }
}

impl fmt::Debug for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplicaKey")
    }
}

/// The digest of what somebody says is its key.
pub(in crate::effect) fn digest_of(key: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, key.as_bytes()))
}
