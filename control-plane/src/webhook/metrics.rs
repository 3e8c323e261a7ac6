//! How many admission requests came, and how long they took.
//!
//! Must not hold a registry: whoever has one registers these families in it.

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

/// What was asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    /// `mutate`, `validate`, or `inject` for pods
    pub(super) webhook: &'static str,
    /// `VirtualNode`
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

/// Why an event about a pod was not told.
#[derive(Debug, Clone, Copy)]
pub(super) enum DroppedEvent {
    /// Nothing is known of a namespace that is ours
    Namespace,
    /// More came than is told
    Queue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UntoldLabels {
    why: &'static str,
}

/// The families of admission. Clones share their figures.
#[derive(Debug, Clone)]
pub struct AdmissionMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<WebhookLabels, Histogram, fn() -> Histogram>,
    untold: Family<UntoldLabels, Counter>,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            untold: Family::default(),
        }
    }
}

impl AdmissionMetrics {
    /// Shows the families on the pages of this registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "admission_requests",
            "Admission requests by webhook, kind, operation and outcome",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "admission",
            "From an admission request read to its answer, waiting for news of other objects included",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "admission_untold_events",
            "Events about pods that were not written, by why",
            self.untold.clone(),
        );
    }

    pub(super) fn untold(&self, why: DroppedEvent) {
        let why = match why {
            DroppedEvent::Namespace => "namespace",
            DroppedEvent::Queue => "queue",
        };
        self.untold.get_or_create(&UntoldLabels { why }).inc();
    }

    pub(super) fn answered(&self, labels: &RequestLabels, took: Duration) {
        self.requests.get_or_create(labels).inc();
        let webhook = labels.webhook;
        self.seconds
            .get_or_create(&WebhookLabels { webhook })
            .observe(took.as_secs_f64());
    }
}

/// From 0.1 ms to 13 s, in steps of two.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 18))
}
