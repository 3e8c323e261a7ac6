//! The queue between the engine and the streams on one side and the tracker on the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use evermesh_proto::{ContentVersion, ResourceType};
use evermesh_xds::{Delivery, DeliveryOutcome, ProxyId};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::CommitRecord;

/// Events that may wait for the tracker.
const QUEUED_EVENTS: usize = 1 << 16;

/// An input of the tracker.
#[derive(Debug)]
pub enum TrackerEvent {
    /// The engine is about to commit.
    Commit(CommitRecord),
    /// A proxy answered.
    Answer(ProxyAnswer),
}

/// A proxy's answer to a version of a resource.
#[derive(Debug)]
pub struct ProxyAnswer {
    pub(super) proxy: ProxyId,
    /// Name of the proxy's view.
    pub(super) view: Arc<str>,
    pub(super) kind: ResourceType,
    pub(super) name: Arc<str>,
    pub(super) version: ContentVersion,
    pub(super) is_acked: bool,
    /// Time at which the answer was read.
    pub(super) at: Instant,
}

impl ProxyAnswer {
    /// The answer in a delivery that was read at this time.
    pub fn new(delivery: Delivery, at: Instant) -> Self {
        Self {
            proxy: delivery.proxy,
            view: delivery.view,
            kind: delivery.resource.kind,
            name: Arc::clone(&delivery.resource.name),
            version: delivery.resource.version,
            is_acked: delivery.outcome == DeliveryOutcome::Acked,
            at,
        }
    }
}

/// Sends events to the tracker without waiting. Events that find the queue full are counted and dropped.
#[derive(Debug, Clone)]
pub struct TrackerSender {
    events: mpsc::Sender<TrackerEvent>,
    dropped: Arc<AtomicU64>,
}

/// Receives the events of a [`TrackerSender`].
#[derive(Debug)]
pub struct TrackerReceiver {
    events: mpsc::Receiver<TrackerEvent>,
    dropped: Arc<AtomicU64>,
}

/// The queue of the tracker: up to 65,536 events.
pub fn channel() -> (TrackerSender, TrackerReceiver) {
    let (sender, events) = mpsc::channel(QUEUED_EVENTS);
    let dropped = Arc::<AtomicU64>::default();
    let sender = TrackerSender {
        events: sender,
        dropped: Arc::clone(&dropped),
    };
    (sender, TrackerReceiver { events, dropped })
}

impl TrackerSender {
    pub fn send(&self, event: TrackerEvent) {
        // A closed queue means that the process ends.
        if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl TrackerReceiver {
    /// The next event; `None` after all senders are gone.
    pub(super) async fn recv(&mut self) -> Option<TrackerEvent> {
        self.events.recv().await
    }

    /// Number of events that were dropped since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Span;

    use super::*;

    #[test]
    fn event_that_finds_the_queue_full_is_counted_and_dropped() {
        let (sender, receiver) = channel();
        for _ in 0..QUEUED_EVENTS + 3 {
            sender.send(TrackerEvent::Commit(CommitRecord {
                noticed: Instant::now(),
                origins: Vec::new(),
                resources: 0,
                awaited: Vec::new(),
                deliveries: 0,
                span: Span::none(),
            }));
        }
        assert_eq!(receiver.take_dropped(), 3);
        assert_eq!(receiver.take_dropped(), 0);
        assert_eq!(receiver.events.len(), QUEUED_EVENTS);
    }
}
