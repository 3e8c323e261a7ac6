//! A collector of traces: what Envoy needs of Zipkin and Jaeger, and no more.
//!
//! Neither can be had here. This is a server on a real socket that keeps the spans that are posted to it, as Zipkin's
//! JSON (version 2), and hands them out; it judges, stores and joins nothing.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Mutex};

use crate::{hosts::LabHost, http::Address, process::Process, tools};

/// Where spans are posted.
const SPANS: &str = "/api/v2/spans";

/// A small program starts in milliseconds, on a busy machine in seconds.
const START: Duration = Duration::from_secs(20);

/// The part of a span that tells where it belongs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// The trace.
    pub trace_id: String,
    /// The span of the caller; none at the beginning of a trace.
    pub parent_id: Option<String>,
    /// Unique in its trace.
    pub id: String,
    /// `CLIENT` where a request leaves for another, `SERVER` where it arrives.
    pub kind: String,
    /// Who saw it.
    pub local_endpoint: SpanEndpoint,
}

/// Who saw a span.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpanEndpoint {
    /// The cluster in Envoy's bootstrap.
    pub service_name: String,
}

/// Starts a collector on a host, and waits until it answers.
pub async fn start_on(host: &LabHost, listen: SocketAddr) -> Result<Process> {
    let mut command = host.command(tools::built("evermesh-test-app")?);
    command.args(["collector", "--listen", &listen.to_string()]);
    let mut process = host.spawn("collector", command)?;
    let address = host.loopback(listen.port());
    process
        .wait_until("answering", START, async || address.get("/").await.is_ok())
        .await?;
    Ok(process)
}

/// Every span that the collector at this address has.
pub async fn spans(collector: &Address) -> Result<Vec<Span>> {
    Ok(serde_json::from_str(&collector.get("/").await?)?)
}

/// Collects until the process ends.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let spans = Arc::clone(&spans);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, &spans));
            // A connection that breaks concerns its caller alone.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    spans: &Mutex<Vec<Span>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = match (request.method(), request.uri().path()) {
        (&Method::GET, _) => serde_json::to_vec(&*spans.lock().await).map_err(Into::into),
        (&Method::POST, SPANS) => collect(request, spans).await.map(|()| Vec::new()),
        (method, path) => Err(anyhow::anyhow!("{method} {path} is nothing of Zipkin's")),
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}").into_bytes()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    Ok(response)
}

async fn collect(request: Request<Incoming>, spans: &Mutex<Vec<Span>>) -> Result<()> {
    let body = request.into_body().collect().await?.to_bytes();
    let posted: Vec<Span> = serde_json::from_slice(&body).context("no spans of Zipkin's")?;
    spans.lock().await.extend(posted);
    Ok(())
}
