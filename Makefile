# Entry points for users and contributors. Each target installs what it needs; on a bare Debian machine run it as root once.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A first build is a sixth faster without the files for incremental builds, and takes 8 GB instead of 14. Those who build
# with cargo itself have them.
export CARGO_INCREMENTAL ?= 0

# Programs that tests and demonstrations start.
PROGRAMS := -p evermesh -p evermesh-proxy-init -p evermesh-testkit --bins

# The unit tier: crates whose tests need nothing but Rust.
PURE := evermesh-crds evermesh-golden evermesh-ingest evermesh-injector evermesh-model evermesh-proto \
    evermesh-translate evermesh-xds xtask
UNIT := $(foreach crate,$(PURE),package($(crate)) |) none()

# The Kubernetes tier: test targets that start a Kubernetes API server or a whole Kubernetes.
KUBERNETES := binary(admission) | binary(chart) | binary(cluster) | binary(images) | binary(kubectl) | binary(kubernetes) \
    | binary(registration)

# Tests with SPIRE, which takes as long to build as all of Evermesh.
SPIRE := binary(tls) & test(/^spire::/)

TOOLS := target/tools/cargo-tools/bin
NEXTEST := $(TOOLS)/cargo-nextest nextest run --locked
XTASK := cargo run --quiet --locked -p xtask --
# Tests with Kubernetes wait for an API server, pods and Leases most of the time, so more of them than cores run at once.
WAITING := --test-threads 4

.PHONY: help run run-api run-kubernetes cluster cluster-down test unit envoy kubernetes spire test-cluster check bench hostile mutate fuzz
.PHONY: images check-format check-workspace check-crates test-all test-build test-docs test-envoy test-kubernetes
.PHONY: setup setup-tools setup-hosts setup-spire setup-cluster

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 22

run: setup-hosts ## Runs a canary release on this machine: hosts, real Envoys, 200 requests per second, about a minute
	@echo '==> Building (the first time takes a few minutes)'
	@cargo build --locked -p evermesh-demo $(PROGRAMS)
	@target/debug/evermesh-demo

run-api: setup ## The same with kubectl: a real Kubernetes API server, the chart's permissions, and admission
	@echo '==> Building (the first time takes a few minutes)'
	@cargo build --locked -p evermesh-demo $(PROGRAMS)
	@target/debug/evermesh-demo --kubernetes

run-kubernetes: setup-cluster ## The same with pods: a complete Kubernetes, Evermesh installed by Helm, injected Deployments
	@echo '==> Building (the first time takes a few minutes)'
	@cargo build --locked -p evermesh-demo $(PROGRAMS)
	@target/debug/evermesh-demo --pods

cluster: setup-cluster ## Starts a one-node Kubernetes on this machine; its kubeconfig is target/cluster/kubeconfig
	@cargo build --locked -p evermesh-testkit -p evermesh-local-cluster --bins
	@target/debug/evermesh-cluster up

cluster-down: ## Stops that Kubernetes and removes everything of it
	@cargo build --locked -p evermesh-testkit -p evermesh-local-cluster --bins
	@target/debug/evermesh-cluster down

# Each part runs in a make of its own, so that the summary can list how long it took. Programs for the tests are installed
# while the tests are built. The tests with pods take longest and wait most of the time, so all checks run beside them; that
# output follows the tests'. The format, which is checked in a second, comes first.
test: setup-tools ## Runs all checks and all tests, and prints how long each part took
	@part() { local start=$$SECONDS; $(MAKE) --no-print-directory "$$@" || return; \
	    printf '    %-16s %5d s\n' "$$1" $$((SECONDS - start)) >>target/test-parts; }; \
	    mkdir -p target && : >target/test-parts; \
	    part check-format; \
	    part setup-cluster >target/setup.log 2>&1 & setup=$$!; \
	    part test-build && built=0 || built=$$?; \
	    wait $$setup && installed=0 || installed=$$?; \
	    cat target/setup.log; [ "$$built$$installed" = 00 ]; \
	    { part check-workspace XTASK=target/debug/xtask; part check-crates; part test-docs; } >target/checks.log 2>&1 & checks=$$!; \
	    part test-all && tests=0 || tests=$$?; \
	    wait $$checks && checks=0 || checks=$$?; \
	    cat target/checks.log; \
	    [ "$$tests$$checks" = 00 ]; echo '==> All checks and tests passed'; cat target/test-parts

# The golden cases run in one process for each crate, because each process makes the schemas of all kinds.
unit: setup-tools ## Runs the tests that need only Rust: pure crates and the xDS protocol
	@$(NEXTEST) $(addprefix -p ,$(PURE)) -E 'not binary(golden)'
	@cargo test --quiet --locked --test golden $(addprefix -p ,$(PURE))
	@cargo test --quiet --locked --doc $(addprefix -p ,$(filter-out xtask,$(PURE)))

envoy: setup-hosts test-build test-envoy ## Runs the tests with real Envoys, Cloud Map and hosts, and the control plane's own unit tests

kubernetes: setup-cluster test-build test-kubernetes ## Runs the tests with a Kubernetes API server, and those with pods

# Tests of several packages start binaries of others, which cargo builds only if it is told to. One command builds both,
# so that dependencies have the same features and are built once. The list of tests lets `test-all` begin without cargo,
# which would wait for the checks beside it.
test-build:
	@echo '==> Building all tests'
	@cargo build --locked --workspace --bins --tests
	@$(TOOLS)/cargo-nextest nextest list --locked --workspace --list-type binaries-only --message-format json >target/tests.json

test-docs:
	@echo '==> Examples in documentation'
	@cargo test --quiet --locked --workspace --doc

test-envoy:
	@echo '==> Envoy tier'
	@$(NEXTEST) --workspace -E 'not ($(UNIT) | $(KUBERNETES) | ($(SPIRE)))'

test-kubernetes:
	@echo '==> Kubernetes tier'
	@env -u KUBECONFIG $(NEXTEST) --workspace -E '$(KUBERNETES)' $(WAITING)

# In one run, because those with Kubernetes leave cores idle that the others can use.
test-all:
	@echo '==> All tiers'
	@env -u KUBECONFIG $(TOOLS)/cargo-nextest nextest run --binaries-metadata target/tests.json -E 'not ($(SPIRE))' $(WAITING)

spire: setup-spire test-build ## Runs the tests with SPIRE, which the first run builds (no part of `make test`)
	@echo '==> SPIRE'
	@$(NEXTEST) --workspace -E '$(SPIRE)'

test-cluster: setup-cluster ## Runs the tests with pods, on a Kubernetes of this machine or on that of KUBECONFIG
	@cargo build --locked $(PROGRAMS)
	@$(NEXTEST) -p evermesh --test cluster

check: setup-tools check-format check-workspace check-crates ## Checks format, text, names, fields, dependencies, lints, documentation, each crate alone

check-format:
	@echo '==> Format'
	@cargo fmt --all --check

check-workspace:
	@echo '==> Text, names and fields'
	@$(XTASK) text
	@$(XTASK) names
	@$(XTASK) logs
	@$(XTASK) fields --check
	@echo '==> Dependencies'
	@$(TOOLS)/cargo-deny --locked check bans licenses sources
	@if $(TOOLS)/cargo-deny --locked fetch db; then $(TOOLS)/cargo-deny --frozen check advisories; \
	    else echo 'warning: advisories were not checked, because their database cannot be reached'; fi
	@echo '==> Lints'
	@cargo clippy --workspace --all-targets --locked -- -D warnings

check-crates:
	@echo '==> Each crate alone'
	@for manifest in $$(git ls-files '*/Cargo.toml' | sort -r); do \
	    echo "    $$manifest"; cargo check --quiet --locked --manifest-path "$$manifest"; done
	@echo '==> Documentation'
	@RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps --locked --workspace

bench: setup ## Runs the benchmarks: a change to twenty real Envoys, then those of each crate (the first build takes long)
	@cargo build --release --locked -p evermesh-bench $(PROGRAMS)
	@target/release/evermesh-bench
	@cargo bench --workspace --locked

hostile: setup-tools ## Attacks Evermesh in every way of docs/security.md and judges its memory and its times (release build)
	@cargo build --release --locked -p evermesh -p evermesh-hostile --bins
	@target/release/evermesh-hostile

mutate: ## Finds changes of ingest and translation that no test notices, see docs/testing.md
	@cargo run --quiet --locked -p xtask -- mutate

fuzz: setup-tools ## Feeds hostile bytes to every reader of input, each for an hour (FUZZ_SECONDS), see docs/testing.md
	@scripts/fuzz

images: setup-hosts ## Writes the images of Evermesh and of the tests, and lists of their contents, below target/images
	@cargo build --release --locked $(PROGRAMS)
	@cargo rustc --release --locked -p evermesh-proxy-init --bin evermesh-proxy-init -- -C target-feature=+crt-static
	@scripts/images

# Everything but SPIRE and what runs pods. cargo fetch also fetches the crate that is only unpacked (see proto/build.rs).
setup:
	@scripts/setup
	@cargo fetch --locked

# Cargo's plug-ins only.
setup-tools:
	@scripts/setup tools
	@cargo fetch --locked

# Everything but SPIRE and Kubernetes.
setup-hosts:
	@scripts/setup hosts
	@cargo fetch --locked

# The same with SPIRE.
setup-spire: setup-hosts
	@scripts/spire

# Everything but SPIRE, with what runs pods.
setup-cluster: setup
	@scripts/kubernetes cluster
