//! A collector of traces that accepts Zipkin's JSON (version 2), as Envoy's tracers send it to Zipkin and Jaeger.
//!
//! `POST /api/v2/spans` adds spans; `GET` of any path returns all of them as one JSON array.
//! The collector keeps spans as they come and does not join them to traces.

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

const SPANS: &str = "/api/v2/spans";

/// Limit for the start of the collector; a start takes milliseconds, or seconds on a busy machine.
const START: Duration = Duration::from_secs(20);

/// The fields of a span that place it in its trace.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    pub trace_id: String,
    /// The span of the caller, or `None` for the first span of a trace.
    pub parent_id: Option<String>,
    pub id: String,
    /// `CLIENT` for a request that a proxy sends, `SERVER` for one that it receives.
    pub kind: String,
    pub local_endpoint: SpanEndpoint,
}

/// The proxy that reported a span.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpanEndpoint {
    /// `node.cluster` of the proxy's bootstrap.
    pub service_name: String,
}

/// Starts a collector on a host and waits until it answers.
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

/// All spans that the collector at this address received.
pub async fn spans(collector: &Address) -> Result<Vec<Span>> {
    Ok(serde_json::from_str(&collector.get("/").await?)?)
}

/// Runs a collector in this process.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let spans = Arc::clone(&spans);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, &spans));
            // An error of one connection does not concern the others.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    spans: &Mutex<Vec<Span>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match (request.method(), request.uri().path()) {
        (&Method::GET, _) => serde_json::to_vec(&*spans.lock().await).map_err(Into::into),
        (&Method::POST, SPANS) => collect(request, spans).await.map(|()| Vec::new()),
        (method, path) => Err(anyhow::anyhow!(
            "{method} {path} is not part of Zipkin's API; use POST {SPANS}"
        )),
    };
    let (status, body) = match body {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}").into_bytes()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    Ok(response)
}

async fn collect(request: Request<Incoming>, spans: &Mutex<Vec<Span>>) -> Result<()> {
    let body = request.into_body().collect().await?.to_bytes();
    let posted: Vec<Span> =
        serde_json::from_slice(&body).context("the body is not a list of Zipkin spans")?;
    spans.lock().await.extend(posted);
    Ok(())
}
