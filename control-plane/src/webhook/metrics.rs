//! Counts admission requests and dropped events, and measures the duration of requests.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    /// `mutate` or `validate`, and `inject` for pods
    pub(super) webhook: &'static str,
    /// Kind of the object, such as `VirtualNode`
    pub(super) kind: &'static str,
    /// `create`, `update`, or `other`
    pub(super) operation: &'static str,
    /// `allowed`, `patched`, `denied`, `malformed`, `unready` or `failed`
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: &'static str,
}

/// Reason why an event about a pod was not written; the label `why` of `admission_untold_events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DroppedEvent {
    /// The namespace has no injection label, so the request may be forged
    Namespace,
    /// The queue of events is full
    Queue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedEventLabels {
    why: &'static str,
}

/// The metric families of admission. Clones share their values.
#[derive(Debug, Clone)]
pub struct AdmissionMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<WebhookLabels, Histogram, fn() -> Histogram>,
    dropped_events: Family<DroppedEventLabels, Counter>,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            dropped_events: Family::default(),
        }
    }
}

impl AdmissionMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "admission_requests",
            "Admission requests by webhook, kind, operation and outcome",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "admission",
            "Time from reading an admission request to its answer, including the wait for changes of other objects",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "admission_untold_events",
            "Events about pods that were not written, by reason",
            self.dropped_events.clone(),
        );
    }

    pub(super) fn dropped_event(&self, reason: DroppedEvent) {
        let why = reason.as_str();
        self.dropped_events
            .get_or_create(&DroppedEventLabels { why })
            .inc();
    }

    pub(super) fn answered(&self, labels: &RequestLabels, took: Duration) {
        self.requests.get_or_create(labels).inc();
        let webhook = labels.webhook;
        self.seconds
            .get_or_create(&WebhookLabels { webhook })
            .observe(took.as_secs_f64());
    }
}

impl DroppedEvent {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Queue => "queue",
        }
    }
}

/// Buckets from 0.1 ms to 13 s, each twice as long as the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 18))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_dropped_events_are_these_label_values() {
        assert_eq!(DroppedEvent::Namespace.as_str(), "namespace");
        assert_eq!(DroppedEvent::Queue.as_str(), "queue");
    }
}
