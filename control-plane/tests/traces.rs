//! Traces: a tracer in the bootstrap traces every request, and its spans join to one trace across proxies.
//!
//! Neither Jaeger nor Zipkin can be had here: the spans go to a small server of the test kit, over a real network.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use evermesh_testkit::{
    collector::{self, Span},
    control_plane::{ControlPlane, bootstrap_with},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::{Address, HttpResponse},
    interception::Interception,
    process::Process,
    tools, wait,
};
use http::Request;
use http_body_util::Full;

const MANIFESTS: &str = include_str!("traces/mesh.yaml");

/// Envoy's tracer sends what it has every five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often each way is taken. None of them may be left out: App Mesh's listeners named no share.
const CALLS: usize = 20;

/// Zipkin's port.
const COLLECTOR: u16 = 9411;

/// No host has this address: only interception answers there.
const NOWHERE: ([u8; 4], u16) = ([10, 77, 200, 1], 8080);

/// A caller, a gateway and a service on hosts of their own, each behind its Envoy.
struct Scene {
    control_plane: ControlPlane,
    control: LabHost,
    front: LabHost,
    gate: LabHost,
    _envoys: Vec<Envoy>,
    _processes: [Process; 2],
    _lab: Lab,
}

impl Scene {
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

    /// From the application beside the caller's proxy.
    async fn call(&self) -> HttpResponse {
        call(&self.front.reach(NOWHERE.into())).await
    }

    /// From outside the mesh, by the gateway.
    async fn enter(&self) -> HttpResponse {
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

/// What the application saw of a header.
fn seen(answer: &HttpResponse, header: &str) -> Option<String> {
    let headers = answer.headers["x-seen-headers"].to_str().unwrap();
    let mut headers = headers.split(';');
    let value = headers.find_map(|it| it.strip_prefix(header)?.strip_prefix('='))?;
    Some(value.to_owned())
}

/// Whether Envoy's mark in the request id says that the request is traced.
fn is_sampled(answer: &HttpResponse) -> bool {
    seen(answer, "x-request-id").unwrap().as_bytes()[14] == b'9'
}

/// The spans of a trace from its beginning: each is the child of the one before.
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
    let scene = Scene::new(version, true).await;
    let mut expected = BTreeMap::new();
    for _ in 0..CALLS {
        let node = [
            ("mesh/shop/virtualNode/front_shop", "CLIENT"),
            ("mesh/shop/virtualNode/color_shop", "SERVER"),
        ];
        let answer = scene.call().await;
        assert!(is_sampled(&answer));
        let trace = seen(&answer, "x-b3-traceid").unwrap();
        assert!(expected.insert(trace, node.to_vec()).is_none());

        let gateway = "mesh/shop/virtualGateway/gate_shop";
        let passed = [(gateway, "SERVER"), (gateway, "CLIENT"), node[1]];
        let trace = seen(&scene.enter().await, "x-b3-traceid").unwrap();
        assert!(expected.insert(trace, passed.to_vec()).is_none());
    }

    let collector = scene.control.loopback(COLLECTOR);
    let wanted = CALLS * 5;
    wait::eventually("every span", PATIENCE, async || {
        collector::spans(&collector).await.unwrap().len() >= wanted
    })
    .await;
    let mut traces = BTreeMap::<String, Vec<Span>>::new();
    for span in collector::spans(&collector).await.unwrap() {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    let found = traces.iter().map(|(id, trace)| (id.clone(), chain(trace)));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
    let refused = scene.control_plane.metric("evermesh_xds_nacks_total");
    assert_eq!(refused.await.unwrap(), 0);
}

/// The listeners ask for traces all the same: what shows is Envoy's decision in the request id, as with a tracer.
async fn nobody_is_traced_without_a_tracer(version: EnvoyVersion) {
    let scene = Scene::new(version, false).await;
    for answer in [scene.call().await, scene.enter().await] {
        for header in ["x-b3-traceid", "x-b3-sampled", "traceparent"] {
            assert_eq!(seen(&answer, header), None);
        }
        assert!(is_sampled(&answer));
    }
}

#[tokio::test]
async fn every_request_is_one_trace_on_the_oldest() {
    every_request_is_one_trace(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn every_request_is_one_trace_on_the_newest() {
    every_request_is_one_trace(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn nobody_is_traced_without_a_tracer_on_the_oldest() {
    nobody_is_traced_without_a_tracer(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn nobody_is_traced_without_a_tracer_on_the_newest() {
    nobody_is_traced_without_a_tracer(EnvoyVersion::Newest).await;
}
