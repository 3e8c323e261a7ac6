//! Waiting for a condition with a deadline.

use std::time::Duration;

use anyhow::{Result, bail};

/// Time between two checks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
///
/// If it does not hold within `limit`; the message names `what`.
pub async fn eventually(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let done = tokio::time::timeout(limit, poll).await;
    assert!(done.is_ok(), "{what} did not happen within {limit:?}");
}

/// Limit for an API server to take new definitions, roles and webhook configurations into account.
const RETRY: Duration = Duration::from_secs(30);

/// Repeats `attempt` until it succeeds; the error begins with `failure` and ends with the last error.
pub(crate) async fn retry(
    failure: &str,
    mut attempt: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let mut last = None;
    let trying = async {
        while let Err(error) = attempt().await {
            last = Some(error);
            tokio::time::sleep(INTERVAL).await;
        }
    };
    if tokio::time::timeout(RETRY, trying).await.is_err() {
        bail!(
            "{failure} within {RETRY:?}: {:#}",
            last.unwrap_or_else(|| anyhow::anyhow!("the first attempt did not end"))
        );
    }
    Ok(())
}
