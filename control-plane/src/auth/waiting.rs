//! Counts the streams that wait until the watches deliver a pod, or a virtual node or gateway.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_ingest::identity::WorkloadIdentity;
use parking_lot::Mutex;

/// Streams of one workload that may wait at the same time. Each is looked at again after each rebuild.
pub(super) const WAITING_LIMIT: usize = 4;

/// The number of waiting streams of each workload.
#[derive(Default)]
pub(super) struct WaitingStreams(Mutex<BTreeMap<Vec<WorkloadIdentity>, usize>>);

/// The place of one stream among those that wait. Dropping it frees the place.
pub(super) struct WaitingPlace {
    all: Arc<WaitingStreams>,
    workloads: Vec<WorkloadIdentity>,
}

impl WaitingStreams {
    /// Takes a place, or returns the reason why there is none.
    pub(super) fn enter(
        self: &Arc<Self>,
        workloads: &[WorkloadIdentity],
    ) -> Result<WaitingPlace, String> {
        let mut counts = self.0.lock();
        let count = counts.entry(workloads.to_vec()).or_default();
        if *count >= WAITING_LIMIT {
            return Err(format!(
                "{WAITING_LIMIT} streams of the workload already wait"
            ));
        }
        *count += 1;
        Ok(WaitingPlace {
            all: Arc::clone(self),
            workloads: workloads.to_vec(),
        })
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock();
        if let Some(count) = counts.get_mut(&self.workloads) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.workloads);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_free_again_after_a_stream_and_workloads_do_not_share_places() {
        let pod = |name: &str| {
            [WorkloadIdentity::Pod {
                namespace: "demo".into(),
                name: name.into(),
                uid: "u".into(),
            }]
        };
        let all = Arc::<WaitingStreams>::default();
        let places: Vec<_> = (0..WAITING_LIMIT)
            .map(|_| all.enter(&pod("a")).unwrap())
            .collect();
        assert!(all.enter(&pod("a")).is_err());
        let other = all.enter(&pod("b")).unwrap();
        drop(places);
        drop(all.enter(&pod("a")).unwrap());
        drop(other);
        assert!(all.0.lock().is_empty());
    }
}
