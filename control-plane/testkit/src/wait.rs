//! Waiting for a condition with a deadline.

use std::time::Duration;

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
