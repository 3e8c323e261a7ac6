//! Logs to standard error, and traces over OTLP where a collector is configured.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::args::{LogFormat, TelemetryArgs};

/// What must outlive the work: dropped last, it sends the traces that are still held.
#[must_use]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces were not delivered");
        }
    }
}

/// Installs the subscriber of this process.
///
/// # Errors
/// The filter or the collector's address is malformed, or a subscriber is already installed.
pub fn install(args: &TelemetryArgs) -> anyhow::Result<TelemetryGuard> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {}: not a level or a list of directives", args.log))?;
    let log = match args.log_format {
        LogFormat::Human => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    let provider = args
        .otlp_endpoint
        .as_deref()
        .map(tracer_provider)
        .transpose()?;
    // Our own spans alone: those of HTTP/2 would include the exporter's, which would be exported in turn.
    let ours = Targets::new().with_target("evermesh", Level::INFO);
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("evermesh"))
            .with_filter(ours)
    });
    tracing_subscriber::registry()
        .with(traces)
        .with(log.with_filter(filter))
        .try_init()?;
    Ok(TelemetryGuard(provider))
}

/// Sends spans in batches from a thread of its own.
fn tracer_provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("--otlp-endpoint {endpoint}"))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("evermesh").build())
        .build())
}
