//! Traces: with a tracer in the bootstrap, every request is traced, and the spans of several proxies form one trace.
//!
//! A server of the test kit collects the spans, in place of Jaeger or Zipkin.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{collections::BTreeMap, fs, net::SocketAddr};

use common::eventually;
use evermesh_testkit::{
    collector::{self, Span},
    control_plane::{ControlPlane, bootstrap_with},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::{Address, HttpResponse},
    interception::Interception,
    process::Process,
    tools,
};
use http::Request;
use http_body_util::Full;

const MANIFESTS: &str = include_str!("traces/mesh.yaml");

/// Number of requests on each path. App Mesh's listeners trace every request.
const CALLS: usize = 20;

/// The port of Zipkin.
const COLLECTOR: u16 = 9411;

/// An address that no host has, so that only interception answers there.
const UNUSED_ADDRESS: ([u8; 4], u16) = ([10, 77, 200, 1], 8080);

/// A caller, a gateway and a service, each on its own host with an Envoy.
struct Fixture {
    control_plane: ControlPlane,
    control: LabHost,
    front: LabHost,
    gate: LabHost,
    _envoys: Vec<Envoy>,
    _processes: [Process; 2],
    _lab: Lab,
}

impl Fixture {
    async fn new(version: EnvoyVersion, is_traced: bool) -> Self {
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        let front = lab.host("front").await.unwrap();
        let gate = lab.host("gate").await.unwrap();
        let color = lab.host("color").await.unwrap();
        let anywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let processes = [
            collector::start_on(&control, anywhere(COLLECTOR))
                .await
                .unwrap(),
            color.http_app("color", anywhere(8080)).await.unwrap(),
        ];

        let config = tools::scratch("config").unwrap();
        let manifests = MANIFESTS.replace("COLOR", &color.ip().to_string());
        fs::write(config.path().join("mesh.yaml"), manifests).unwrap();
        let mut control_plane = ControlPlane::start_on(&control, config.path(), &[]).unwrap();
        control_plane.ready().await.unwrap();

        let jaeger = format!("{}:{COLLECTOR}", control.ip());
        let arguments: &[&str] = if is_traced {
            &["--jaeger", &jaeger]
        } else {
            &[]
        };
        let mut envoys = Vec::new();
        for (host, node) in [
            (&front, "virtualNode/front_shop"),
            (&gate, "virtualGateway/gate_shop"),
            (&color, "virtualNode/color_shop"),
        ] {
            let node = format!("mesh/shop/{node}");
            let bootstrap = bootstrap_with(&node, control_plane.xds(), arguments).unwrap();
            let options = EnvoyOptions::new(version, bootstrap);
            let mut envoy = Envoy::start_on(host, &options).unwrap();
            envoy.ready().await.unwrap();
            envoys.push(envoy);
        }
        Interception::default().install(&front).unwrap();
        Interception {
            app_ports: vec![8080],
            ..Interception::default()
        }
        .install(&color)
        .unwrap();
        Self {
            control_plane,
            control,
            front,
            gate,
            _envoys: envoys,
            _processes: processes,
            _lab: lab,
        }
    }

    /// Sends a request from the caller's application.
    async fn call_from_inside(&self) -> HttpResponse {
        call(&self.front.reach(UNUSED_ADDRESS.into())).await
    }

    /// Sends a request to the gateway.
    async fn call_through_gateway(&self) -> HttpResponse {
        call(&self.gate.loopback(8088)).await
    }
}

async fn call(address: &Address) -> HttpResponse {
    let request = Request::get("/").header("host", "color.shop");
    let answer = address.send(request.body(Full::default()).unwrap()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.body, "color");
    answer
}

/// The value of a header as the application received it.
fn received_header(answer: &HttpResponse, header: &str) -> Option<String> {
    let headers = answer.headers["x-seen-headers"].to_str().unwrap();
    let mut headers = headers.split(';');
    let value = headers.find_map(|it| it.strip_prefix(header)?.strip_prefix('='))?;
    Some(value.to_owned())
}

/// Whether the request ID says that Envoy traces the request: its 15th character is `9`.
fn is_sampled(answer: &HttpResponse) -> bool {
    received_header(answer, "x-request-id").unwrap().as_bytes()[14] == b'9'
}

/// Service and kind of the spans of a trace, from the root; each span is the child of the one before.
fn chain(trace: &[Span]) -> Vec<(&str, &str)> {
    let mut chain: Vec<(&str, &str)> = Vec::new();
    let mut parent = None;
    while let Some(span) = trace.iter().find(|span| span.parent_id == parent) {
        chain.push((&span.local_endpoint.service_name, &span.kind));
        parent = Some(span.id.clone());
    }
    assert_eq!(chain.len(), trace.len(), "{trace:#?}");
    chain
}

async fn every_request_is_one_trace(version: EnvoyVersion) {
    let fixture = Fixture::new(version, true).await;
    let mut expected = BTreeMap::new();
    for _ in 0..CALLS {
        let node = [
            ("mesh/shop/virtualNode/front_shop", "CLIENT"),
            ("mesh/shop/virtualNode/color_shop", "SERVER"),
        ];
        let answer = fixture.call_from_inside().await;
        assert!(is_sampled(&answer));
        let trace = received_header(&answer, "x-b3-traceid").unwrap();
        assert!(expected.insert(trace, node.to_vec()).is_none());

        let gateway = "mesh/shop/virtualGateway/gate_shop";
        let through_gateway = [(gateway, "SERVER"), (gateway, "CLIENT"), node[1]];
        let trace = received_header(&fixture.call_through_gateway().await, "x-b3-traceid").unwrap();
        assert!(expected.insert(trace, through_gateway.to_vec()).is_none());
    }

    let collector = fixture.control.loopback(COLLECTOR);
    // Two spans of the path from inside, three of the path through the gateway.
    let expected_spans = CALLS * 5;
    eventually("every span", async || {
        collector::spans(&collector).await.unwrap().len() >= expected_spans
    })
    .await;
    let mut traces = BTreeMap::<String, Vec<Span>>::new();
    for span in collector::spans(&collector).await.unwrap() {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    let found = traces.iter().map(|(id, trace)| (id.clone(), chain(trace)));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
    let nacks = fixture.control_plane.metric("evermesh_xds_nacks_total");
    assert_eq!(nacks.await.unwrap(), 0);
}

/// Listeners always enable tracing, so the request ID carries Envoy's decision without a tracer too.
async fn without_tracer_there_are_no_trace_headers(version: EnvoyVersion) {
    let fixture = Fixture::new(version, false).await;
    for answer in [
        fixture.call_from_inside().await,
        fixture.call_through_gateway().await,
    ] {
        for header in ["x-b3-traceid", "x-b3-sampled", "traceparent"] {
            assert_eq!(received_header(&answer, header), None);
        }
        assert!(is_sampled(&answer));
    }
}

#[tokio::test]
async fn oldest_envoy_makes_one_trace_of_every_request() {
    every_request_is_one_trace(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_makes_one_trace_of_every_request() {
    every_request_is_one_trace(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_without_tracer_sends_no_trace_headers() {
    without_tracer_there_are_no_trace_headers(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_without_tracer_sends_no_trace_headers() {
    without_tracer_there_are_no_trace_headers(EnvoyVersion::Newest).await;
}
