//! What `/metrics` shows. The families are values held here; there is no global registry.
//!
//! Histograms are fed as things happen. Everything that somebody else counts already (the xDS server,
//! the engine's last turn) is read when the page is asked for.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use evermesh_model::{Problem, Severity};
use evermesh_proto::ResourceType;
use evermesh_xds::Store;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::ConstCounter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use tokio::sync::watch;

use crate::{
    auth::AuthenticationMetrics, engine::EngineSnapshot, source::kubernetes::ApiServerHealth,
    webhook::AdmissionMetrics,
};

/// Which turns a figure is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnLabels {
    kind: &'static str,
}

/// The families of this process.
#[derive(Debug)]
pub struct ProcessMetrics {
    registry: Registry,
    turn_seconds: Family<TurnLabels, Histogram, fn() -> Histogram>,
    change_seconds: Histogram,
}

impl ProcessMetrics {
    /// The content type of [`Self::encode`]'s text.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Families that show what is served and what the engine published.
    pub fn new(
        store: Arc<Store>,
        published: watch::Receiver<Arc<EngineSnapshot>>,
        reachable: Option<Arc<ApiServerHealth>>,
        admission: &AdmissionMetrics,
        authentication: &AuthenticationMetrics,
    ) -> Self {
        let mut registry = Registry::with_prefix("evermesh");
        admission.register(&mut registry);
        authentication.register(&mut registry);
        registry.register(
            "build",
            "The version of this process",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let turn_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        registry.register_with_unit(
            "turn",
            "Turns of the engine: full ones, and the short cut for endpoints",
            Unit::Seconds,
            turn_seconds.clone(),
        );
        let change_seconds = seconds();
        registry.register_with_unit(
            "change",
            "From a source's notice of a change to the last answer of the proxies that hold it",
            Unit::Seconds,
            change_seconds.clone(),
        );
        registry.register_collector(Box::new(Scraped {
            store,
            published,
            reachable,
        }));
        Self {
            registry,
            turn_seconds,
            change_seconds,
        }
    }

    /// A turn of this kind took this long.
    pub fn turn(&self, kind: &'static str, took: Duration) {
        self.turn_seconds
            .get_or_create(&TurnLabels { kind })
            .observe(took.as_secs_f64());
    }

    /// A change took this long to its last ACK.
    pub fn change(&self, took: Duration) {
        self.change_seconds.observe(took.as_secs_f64());
    }

    /// The page.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// From 0.1 ms to 13 s, in steps of two.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 18))
}

/// What is read when the page is asked for.
#[derive(Debug)]
struct Scraped {
    store: Arc<Store>,
    published: watch::Receiver<Arc<EngineSnapshot>>,
    reachable: Option<Arc<ApiServerHealth>>,
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let published = Arc::clone(&self.published.borrow());
        let ready = i64::from(published.waiting_for.is_empty());
        gauge(
            &mut encoder,
            "ready",
            "1 once the first full turn is served",
            ready,
        )?;
        problems(&mut encoder, &published.problems)?;
        self.resources(&mut encoder)?;
        if let Some(reachable) = &self.reachable {
            kubernetes(&mut encoder, reachable)?;
        }

        let xds = self.store.metrics();
        let open = i64::try_from(xds.streams_open.get()).unwrap_or(i64::MAX);
        gauge(&mut encoder, "xds_streams_open", "Streams open now", open)?;
        for (name, help, counter) in [
            ("xds_streams", "Streams opened", &xds.streams),
            (
                "xds_requests",
                "Requests read, ACKs and NACKs among them",
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
            ("xds_nacks", "Responses that proxies refused", &xds.nacks),
            (
                "xds_stale_nonces",
                "Requests that answered an older response",
                &xds.stale_nonces,
            ),
            (
                "xds_resumed",
                "Resources not sent, since a reconnecting proxy had them",
                &xds.resumed,
            ),
            ("xds_commits", "Commits to what is served", &xds.commits),
        ] {
            let value = ConstCounter::new(counter.get());
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

impl Scraped {
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

fn kubernetes(encoder: &mut DescriptorEncoder<'_>, reachable: &ApiServerHealth) -> fmt::Result {
    let silent_for = reachable.silent_for().unwrap_or_default();
    gauge(
        encoder,
        "kubernetes_silent_seconds",
        "How long the API server has not answered; 0 while it does",
        i64::try_from(silent_for.as_secs()).unwrap_or(i64::MAX),
    )?;
    let mut family = encoder.encode_descriptor(
        "kubernetes_watch_failures",
        "Watches that broke off or could not be started",
        None,
        MetricType::Counter,
    )?;
    for (kind, failures) in reachable.failures() {
        let labels = [("kind", kind.as_str())];
        ConstCounter::new(failures).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn problems(encoder: &mut DescriptorEncoder<'_>, problems: &[Problem]) -> fmt::Result {
    let mut counts: BTreeMap<(String, &str), i64> = BTreeMap::new();
    for problem in problems {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        *counts
            .entry((format!("{:?}", problem.reason), severity))
            .or_default() += 1;
    }
    let mut family = encoder.encode_descriptor(
        "problems",
        "Problems in what was read; /debug/problems lists them",
        None,
        MetricType::Gauge,
    )?;
    for ((reason, severity), count) in counts {
        let labels = [("reason", reason.as_str()), ("severity", severity)];
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
