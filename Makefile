# What people do here. Everything sets itself up; on a bare Debian machine run it as root once.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What tests and demonstrations start.
PROGRAMS := -p evermesh -p evermesh-proxy-init -p evermesh-testkit --bins

CARGO_DENY := 0.20.2

.PHONY: help run run-api run-kubernetes cluster cluster-down test test-cluster check bench images setup setup-cluster hosts

help: ## Says what there is
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 22

run: hosts ## Plays a canary release on this machine: hosts, real Envoys, 200 requests a second, about a minute
	@echo '==> Building (the first time takes a few minutes)'
	@cargo build --locked -p evermesh -p evermesh-proxy-init -p evermesh-testkit --bins
	@target/debug/evermesh-demo

run-api: setup ## The same with kubectl: on a real Kubernetes API server, by the chart's rights, with admission in force
	@echo '==> Building (the first time takes a few minutes)'
	@cargo build --locked -p evermesh -p evermesh-proxy-init -p evermesh-testkit --bins
	@target/debug/evermesh-demo --kubernetes

run-kubernetes: setup-cluster ## The same with pods: a whole Kubernetes on this machine, Evermesh by Helm, Envoys beside applications
	@echo '==> Building (the first time takes a few minutes)'
	@cargo build --locked $(PROGRAMS)
	@target/debug/evermesh-demo --pods

cluster: setup-cluster ## A Kubernetes of one node on this machine, for kubectl: target/cluster/kubeconfig
	@cargo build --locked -p evermesh-testkit --bins
	@target/debug/evermesh-cluster up

cluster-down: ## Ends it; nothing stays behind
	@cargo build --locked -p evermesh-testkit --bins
	@target/debug/evermesh-cluster down

test: setup-cluster ## All tests, with real Envoys, Cloud Map, hosts and a cluster with pods
	@echo '==> Testing'
	@env -u KUBECONFIG cargo test --workspace --locked
	@echo '==> All tests passed'

test-cluster: setup-cluster ## The tests with pods, on a Kubernetes of this machine or on that of KUBECONFIG
	@echo '==> Testing with pods'
	@cargo build --locked $(PROGRAMS)
	@cargo test --locked -p evermesh --test cluster

check: hosts ## What a reviewer checks by machine: format, lints, dependencies, documentation, each crate alone
	@echo '==> Format'
	@cargo fmt --all --check
	@echo '==> Lints'
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@echo '==> Each crate alone'
	@for manifest in $$(git ls-files '*/Cargo.toml'); do \
	    echo "    $$manifest"; cargo check --quiet --locked --manifest-path "$$manifest"; done
	@echo '==> Documentation'
	@RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace --locked
	@echo '==> Dependencies'
	@cargo deny --version 2>/dev/null | grep -qxF 'cargo-deny $(CARGO_DENY)' \
	    || cargo install cargo-deny --locked --version $(CARGO_DENY)
	@cargo deny --locked check bans licenses sources
	@cargo deny --locked check advisories || echo 'warning: advisories, see above'

bench: setup ## The benchmarks: a change to twenty real Envoys, then each crate's own (the first build takes long)
	@cargo build --release --locked -p evermesh -p evermesh-proxy-init -p evermesh-testkit --bins
	@target/release/evermesh-bench
	@cargo bench --workspace --locked

images: hosts ## Images of Evermesh and of what tests run beside it, below target/images, without a container engine
	@cargo build --release --locked $(PROGRAMS)
	@cargo rustc --release --locked -p evermesh-proxy-init --bin evermesh-proxy-init -- -C target-feature=+crt-static
	@scripts/images

# Installs what is missing and fetches every crate, also the one that is only unpacked (see proto/build.rs).
setup:
	@scripts/setup
	@cargo fetch --locked

# The same and what runs pods.
setup-cluster: setup
	@scripts/kubernetes cluster

# The same without a Kubernetes API server.
hosts:
	@scripts/setup hosts
	@cargo fetch --locked
