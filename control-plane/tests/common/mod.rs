//! Waiting for events, in the same way in every integration test.

use std::time::Duration;

use evermesh_testkit::wait;

/// Deadline for an event that takes seconds on an idle machine. Long, so that a machine whose cores are busy with
/// something else does not fail a test.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Waits until `condition` holds; fails the test, with the text `event`, after [`DEADLINE`].
pub(crate) async fn eventually(event: &str, condition: impl AsyncFnMut() -> bool) {
    wait::eventually(event, DEADLINE, condition).await;
}
