//! Prometheus metrics of the process, served at `/metrics` in the OpenMetrics text format.
//!
//! Histograms are observed as things happen. Values that another part holds already (the counters of the xDS server, the
//! engine's snapshot) are read at each scrape by a collector. There is no global registry.
//!
//! Names and labels are API: dashboards and alerts use them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use evermesh_model::Problem;
use evermesh_proto::ResourceType;
use evermesh_xds::Store;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use tokio::sync::watch;

use crate::{
    auth::AuthenticationMetrics,
    certificate_health::{CertificateCollector, CertificateHealth},
    engine::EngineSnapshot,
    server_clock::ServerClock,
    source::kubernetes::ApiServerHealth,
    webhook::AdmissionMetrics,
};

/// The two kinds of rebuilds of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildKind {
    /// The graph was built and all changed resources were derived.
    Full,
    /// Only endpoints were rebuilt.
    Endpoints,
}

impl RebuildKind {
    /// The value of the label `kind`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Endpoints => "endpoints",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RebuildLabels {
    kind: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct ProcessMetrics {
    registry: Registry,
    rebuild_seconds: Family<RebuildLabels, Histogram, fn() -> Histogram>,
    rebuild_panics: Counter,
    change_seconds: Histogram,
}

impl ProcessMetrics {
    /// The content type of the text that [`Self::encode`] returns.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// `api_server` is present with `--kubernetes`.
    pub fn new(
        store: Arc<Store>,
        snapshots: watch::Receiver<Arc<EngineSnapshot>>,
        api_server: Option<(Arc<ApiServerHealth>, Arc<ServerClock>)>,
        admission: &AdmissionMetrics,
        authentication: &AuthenticationMetrics,
        certificates: &Arc<CertificateHealth>,
    ) -> Self {
        let mut registry = Registry::with_prefix("evermesh");
        admission.register(&mut registry);
        authentication.register(&mut registry);
        registry.register(
            "build",
            "Version of this process",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let rebuild_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        registry.register_with_unit(
            "turn",
            "Duration of the engine's rebuilds: full ones, and those of endpoints only",
            Unit::Seconds,
            rebuild_seconds.clone(),
        );
        let rebuild_panics = Counter::default();
        registry.register(
            "rebuild_panics",
            "Rebuilds that panicked, which is a bug of Evermesh",
            rebuild_panics.clone(),
        );
        let change_seconds = seconds();
        registry.register_with_unit(
            "change",
            "Time from a change in a source to the last ACK or NACK of the proxies that it affects",
            Unit::Seconds,
            change_seconds.clone(),
        );
        registry.register_collector(Box::new(CertificateCollector(Arc::clone(certificates))));
        registry.register_collector(Box::new(ScrapeCollector {
            store,
            snapshots,
            api_server,
        }));
        Self {
            registry,
            rebuild_seconds,
            rebuild_panics,
            change_seconds,
        }
    }

    pub fn count_rebuild_panic(&self) {
        self.rebuild_panics.inc();
    }

    pub fn observe_rebuild(&self, kind: RebuildKind, duration: Duration) {
        let kind = kind.as_str();
        self.rebuild_seconds
            .get_or_create(&RebuildLabels { kind })
            .observe(duration.as_secs_f64());
    }

    /// Observes the time from a change in a source to the last answer of a proxy.
    pub fn observe_change(&self, duration: Duration) {
        self.change_seconds.observe(duration.as_secs_f64());
    }

    /// The text of a scrape.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A histogram with buckets from 0.1 ms to 13 s, each twice as large as the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 18))
}

/// Metrics whose values are read at each scrape.
#[derive(Debug)]
struct ScrapeCollector {
    store: Arc<Store>,
    snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    api_server: Option<(Arc<ApiServerHealth>, Arc<ServerClock>)>,
}

impl Collector for ScrapeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let ready = i64::from(snapshot.waiting_for.is_empty());
        gauge(
            &mut encoder,
            "ready",
            "1 after the first commit, 0 before it",
            ready,
        )?;
        problems(&mut encoder, &snapshot.problems)?;
        self.resources(&mut encoder)?;
        if let Some((health, clock)) = &self.api_server {
            gauge(
                &mut encoder,
                "kubernetes_clock_ahead_seconds",
                "Time by which the clock of the API server is ahead of the one of this machine",
                clock.seconds_ahead(),
            )?;
            kubernetes(&mut encoder, health)?;
        }

        let xds = self.store.metrics();
        let open = i64::try_from(xds.streams_open.get()).unwrap_or(i64::MAX);
        gauge(&mut encoder, "xds_streams_open", "Open streams", open)?;
        for (name, help, counter) in [
            ("xds_streams", "Streams opened", &xds.streams),
            (
                "xds_requests",
                "Requests received, ACKs and NACKs included",
                &xds.requests,
            ),
            ("xds_responses", "Responses sent", &xds.responses),
            (
                "xds_response_bytes",
                "Bytes of the responses sent",
                &xds.response_bytes,
            ),
            (
                "xds_resources",
                "Resources in the responses sent",
                &xds.resources,
            ),
            ("xds_removals", "Removals sent", &xds.removals),
            ("xds_acks", "Responses that proxies accepted", &xds.acks),
            ("xds_nacks", "Responses that proxies rejected", &xds.nacks),
            (
                "xds_stale_nonces",
                "Requests with the nonce of an older response",
                &xds.stale_nonces,
            ),
            (
                "xds_resumed",
                "Resources not sent because a reconnecting proxy had the current version",
                &xds.resumed,
            ),
            ("xds_commits", "Commits to the store", &xds.commits),
        ] {
            let value = ConstCounter::new(counter.get());
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

impl ScrapeCollector {
    fn resources(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut counts: BTreeMap<ResourceType, (i64, i64)> = BTreeMap::new();
        for (key, resource) in self.store.resources() {
            let (count, bytes) = counts.entry(key.kind).or_default();
            *count += 1;
            *bytes += i64::try_from(resource.body.len()).unwrap_or(i64::MAX);
        }
        for (name, help, pick) in [
            (
                "resources",
                "Resources served",
                (|(count, _)| count) as fn((i64, i64)) -> i64,
            ),
            (
                "resource_bytes",
                "Encoded bytes of the resources served",
                |(_, bytes)| bytes,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (kind, figures) in &counts {
                let value = ConstGauge::new(pick(*figures));
                value.encode(family.encode_family(&[("type", kind.as_str())])?)?;
            }
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn kubernetes(encoder: &mut DescriptorEncoder<'_>, api_server: &ApiServerHealth) -> fmt::Result {
    let silent_for = api_server.silent_for().unwrap_or_default();
    gauge(
        encoder,
        "kubernetes_silent_seconds",
        "Time since the API server answered last; 0 while it answers",
        i64::try_from(silent_for.as_secs()).unwrap_or(i64::MAX),
    )?;
    let mut family = encoder.encode_descriptor(
        "kubernetes_watch_failures",
        "Watches that failed or could not be started",
        None,
        MetricType::Counter,
    )?;
    for (kind, failures) in api_server.watch_failures() {
        let labels = [("kind", kind.as_str())];
        ConstCounter::new(failures).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn problems(encoder: &mut DescriptorEncoder<'_>, problems: &[Problem]) -> fmt::Result {
    let mut counts: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for problem in problems {
        let labels = (problem.reason.as_str(), problem.severity.as_str());
        *counts.entry(labels).or_default() += 1;
    }
    let mut family = encoder.encode_descriptor(
        "problems",
        "Problems of objects and files; /debug/problems lists them",
        None,
        MetricType::Gauge,
    )?;
    for ((reason, severity), count) in counts {
        let labels = [("reason", reason), ("severity", severity)];
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_api() {
        assert_eq!(RebuildKind::Full.as_str(), "full");
        assert_eq!(RebuildKind::Endpoints.as_str(), "endpoints");
    }
}
