//! Logs to standard error and, with `--otlp-endpoint`, traces over OTLP.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::args::{LogFormat, TelemetryArgs};

/// Sends the buffered traces on drop. Keep it until the end of the process.
#[must_use]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "cannot deliver the last traces");
        }
    }
}

/// Directives before those of `--log`: the Kubernetes client logs each failed request, which the callers already log,
/// with a limit.
const QUIET: &str = "kube_client::client=off,kube_client::client::tls=warn,kube_runtime=off,";

/// Installs the global `tracing` subscriber.
///
/// # Errors
/// `--log` or `--otlp-endpoint` cannot be parsed, or a subscriber is installed already.
pub fn install(args: &TelemetryArgs) -> anyhow::Result<TelemetryGuard> {
    let filter = EnvFilter::try_new(format!("{QUIET}{}", args.log))
        .with_context(|| format!("--log {} is not a level or a list of directives", args.log))?;
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
    // Only the spans of Evermesh: those of the HTTP/2 library include the exporter's own requests, without end.
    let own_spans = Targets::new().with_target("evermesh", Level::INFO);
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("evermesh"))
            .with_filter(own_spans)
    });
    tracing_subscriber::registry()
        .with(traces)
        .with(log.with_filter(filter))
        .try_init()?;
    Ok(TelemetryGuard(provider))
}

/// Exports spans in batches from a separate thread.
fn tracer_provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("--otlp-endpoint {endpoint} is not a valid URL"))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("evermesh").build())
        .build())
}
