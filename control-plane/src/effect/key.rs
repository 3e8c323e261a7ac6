//! Keys by which the leader authenticates the other replicas.
//!
//! Each replica generates a key when its process starts and publishes the SHA-256 digest of the key in the Lease (see
//! [`presence`](super::presence)). A replica that reports to the leader sends the key itself. A client that may write
//! the Lease can therefore act as a replica; a client that may only read the Lease cannot.

use std::fmt;

use anyhow::anyhow;
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

/// The secret key of a replica: 32 random bytes, new in every process, never stored.
#[derive(Clone)]
pub(crate) struct ReplicaKey(String);

impl ReplicaKey {
    /// # Errors
    /// The operating system provides no random bytes.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_unspecified| {
            anyhow!(
                "cannot generate the replica's key: the operating system provides no random bytes"
            )
        })?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    pub(in crate::effect) fn secret(&self) -> &str {
        &self.0
    }

    /// The digest that the Lease shows.
    pub(in crate::effect) fn digest(&self) -> String {
        digest_of(&self.0)
    }
}

impl fmt::Debug for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplicaKey")
    }
}

/// The digest of a key that a client sent.
pub(in crate::effect) fn digest_of(key: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, key.as_bytes()))
}
