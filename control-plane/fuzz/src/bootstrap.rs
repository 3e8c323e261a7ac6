//! Target `bootstrap`: the arguments of `evermesh bootstrap`, and the flags of `evermesh serve` that become settings of
//! injected sidecars.
//!
//! The input has one argument per line. Arguments of `serve` follow a first line `serve`.

use clap::Parser as _;
use evermesh::args::{BootstrapArgs, CommandLine, EvermeshCommand};
use evermesh_injector::bootstrap::{bootstrap, render, render_line};
use serde_json::Value;

use crate::{FuzzTarget, mutation::InputFormat};

pub(crate) const TARGET: FuzzTarget = FuzzTarget {
    name: "bootstrap",
    format: InputFormat::Lines,
    run,
    seeds,
};

/// Flags that name files, which `serve` reads: an input must not read files of this machine.
const FILES: &str = "--sidecar-xds-ca";

fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let mut arguments = text.lines().peekable();
    let serves = arguments.next_if_eq(&"serve").is_some();
    let arguments: Vec<&str> = arguments.collect();
    let command: &[&str] = if serves {
        &["evermesh", "serve", "--kubernetes"]
    } else {
        &["evermesh", "bootstrap"]
    };
    if serves && arguments.iter().any(|it| it.starts_with(FILES)) {
        return;
    }
    match CommandLine::try_parse_from(command.iter().chain(&arguments)) {
        Ok(line) => match line.command {
            EvermeshCommand::Bootstrap(args) => has_what_was_asked_for(&args),
            EvermeshCommand::Serve(args) => {
                if let Err(error) = args.injection() {
                    let message = error.to_string();
                    assert!(message.contains("--"), "names no flag: {message}");
                }
            }
            EvermeshCommand::Lint(_)
            | EvermeshCommand::Crds
            | EvermeshCommand::RemoveFinalizers => {}
        },
        // Help and the version are printed in the same way.
        Err(error) => assert!(!error.to_string().trim().is_empty()),
    }
}

fn has_what_was_asked_for(args: &BootstrapArgs) {
    let made = bootstrap(&args.options());
    let line = render_line(&made).expect("every message of a bootstrap has a descriptor");
    let file = render(&made).expect("every message of a bootstrap has a descriptor");
    let json: Value = serde_json::from_str(&file).expect("a bootstrap is JSON");
    assert_eq!(
        Ok(&json),
        serde_json::from_str(&line).as_ref().map_err(drop)
    );
    let id = json["node"]["id"].as_str();
    assert_eq!(id, Some(args.node.to_string().as_str()));
    for (key, value) in args.metadata.iter().rev() {
        let last = args.metadata.iter().rfind(|(other, _)| other == key);
        if last.is_some_and(|(_, last)| last == value) {
            assert_eq!(json["node"]["metadata"][key], *value, "{key}");
        }
    }
    let clusters = json["static_resources"]["clusters"].as_array();
    let clusters = clusters.map(Vec::as_slice).unwrap_or_default();
    let control_plane = clusters.first().expect("the cluster of the control plane");
    let text = control_plane.to_string();
    let host = Value::from(args.xds.host.as_str()).to_string();
    assert!(text.contains(&host), "{host} in {text}");
    for cluster in clusters {
        let name = &cluster["name"];
        let same = clusters.iter().filter(|it| it["name"] == *name);
        assert_eq!(same.count(), 1, "{name}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let plain = "--node=mesh/m/virtualNode/a_b\n--xds=evermesh.test:18000";
    let flags = [
        "--node=arn:aws:appmesh:eu-west-1:111122223333:mesh/m/virtualGateway/g",
        "--xds=[::1]:18000",
        "--xds-ca=/ca.pem\n--xds-certificate=/c.pem\n--xds-key=/k.pem\n--xds-token=/token",
        "--metadata=a=b,c=d\n--metadata=e=",
        "--zone=eu-west-1a\n--admin-port=0\n--admin-access-log=/dev/null\n--sotw",
        "--without-stats-tags\n--statsd=127.0.0.1:8125",
        "--statsd-socket=/run/d.sock\n--jaeger=jaeger:9411",
        "--datadog=10.0.0.1:8126\n--sds-socket=/run/sds",
        "--opentelemetry=collector:4317",
        "--xray-port=2000\n--xray-sampling-rate=0.5",
        "--help",
    ];
    let serve = [
        "--sidecar-xds=evermesh.test:18000\n--sidecar-order=container\n--ignored-ips=10.0.0.0/8,::1",
        "--sidecar-cpu-requests=10m\n--sidecar-memory-limits=1e3\n--sidecar-concurrency=1024\n--prestop-delay=65535",
        "--enable-sds\n--sds-uds-path=/run/sds\n--enable-stats-tags\n--enable-statsd\n--statsd-port=1",
        "--enable-xray-tracing\n--xray-sampling-rate=1\n--xray-daemon-port=2000",
        "--xds-tls-service=a/b\n--xds-authentication=kubernetes\n--sidecar-token-audience=x",
        "--injection-malformed-annotation=warn\n--injection-without-member=skip\n--wait-until-proxy-ready",
    ];
    let bootstrap = flags.iter().map(|flags| format!("{plain}\n{flags}"));
    let serve = serve.iter().map(|flags| format!("serve\n{flags}"));
    bootstrap.chain(serve).map(String::into_bytes).collect()
}
