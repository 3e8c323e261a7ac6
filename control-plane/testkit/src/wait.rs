//! Waiting for what happens by itself.

use std::time::Duration;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until something holds.
///
/// # Panics
/// If it does not within `patience`; that is what a test fails with.
pub async fn eventually(what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    let done = tokio::time::timeout(patience, poll).await;
    assert!(done.is_ok(), "{what} did not happen");
}
