//! `evermesh-demo --kubernetes`: each step is applied with `kubectl` and becomes Programmed.
//!
//! Needs the binaries `evermesh`, `evermesh-proxy-init` and `evermesh-test-app`: `cargo test --workspace` builds them,
//! as does `cargo build --workspace --bins`.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::process::Command;

use evermesh_testkit::process;

/// The demo itself fails if a request fails or a split does not match its weights.
#[test]
fn every_step_is_applied_with_kubectl_and_programmed() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_evermesh-demo"));
    let output = process::run(demo.arg("--kubernetes")).unwrap();
    let count = |words: &str| output.matches(words).count();
    assert_eq!(count("$ kubectl apply -f route.yaml"), 3, "{output}");
    assert_eq!(count("Programmed: 1/1 proxies have accepted the object"), 4);
    for weights in [[100, 0], [90, 10], [50, 50], [0, 100]] {
        let weights = format!("color-v1={},color-v2={} ", weights[0], weights[1]);
        assert_eq!(count(&weights), 1, "{weights}: {output}");
    }
    assert_eq!(count("none failed"), 1, "{output}");
}
