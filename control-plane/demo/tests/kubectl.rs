//! The demo on a Kubernetes API: every step is applied by `kubectl` and becomes Programmed, and the demo finds no fault.
//!
//! Needs the binaries `evermesh`, `evermesh-proxy-init` and `evermesh-test-app`: `cargo test --workspace` builds them,
//! `cargo build --workspace --bins` otherwise.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::process::Command;

use evermesh_testkit::process;

/// It judges failures and splits itself.
#[test]
fn make_run_api_shows_a_canary_by_kubectl() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_evermesh-demo"));
    let shown = process::run(demo.arg("--kubernetes")).unwrap();
    let count = |words: &str| shown.matches(words).count();
    assert_eq!(count("$ kubectl apply -f route.yaml"), 3, "{shown}");
    assert_eq!(count("Programmed: 1/1 proxies have accepted the object"), 4);
    for weights in [[100, 0], [90, 10], [50, 50], [0, 100]] {
        let weights = format!("color-v1={},color-v2={} ", weights[0], weights[1]);
        assert_eq!(count(&weights), 1, "{weights}: {shown}");
    }
    assert_eq!(count("none failed"), 1, "{shown}");
}
