# Entry points for users and contributors. Each target installs what it needs; on a bare Debian machine run it as root once.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Programs that tests and demonstrations start.
PROGRAMS := -p evermesh -p evermesh-proxy-init -p evermesh-testkit --bins

# The unit tier: crates whose tests need nothing but Rust.
PURE := evermesh-crds evermesh-golden evermesh-ingest evermesh-injector evermesh-model evermesh-proto \
    evermesh-translate evermesh-xds xtask
UNIT := $(foreach crate,$(PURE),package($(crate)) |) none()

# The Kubernetes tier: test targets that start a Kubernetes API server or a whole Kubernetes.
KUBERNETES := binary(admission) | binary(chart) | binary(cluster) | binary(images) | binary(kubectl) | binary(kubernetes) \
    | binary(registration)

TOOLS := target/tools/cargo-tools/bin
NEXTEST := $(TOOLS)/cargo-nextest nextest run --locked
# The tests as test-build has built them. Without cargo, so that the lints can use it at the same time.
BUILT := env -u KUBECONFIG $(TOOLS)/cargo-nextest nextest run \
    --cargo-metadata target/test-metadata.json --binaries-metadata target/test-binaries.json
# Tests with Kubernetes wait for an API server, pods and Leases most of the time, so more of them than cores run at once.
WAITING := --test-threads 4

.PHONY: help run run-api run-kubernetes cluster cluster-down test unit envoy kubernetes test-cluster check bench images
.PHONY: check-text check-lints test-unit test-envoy test-kubernetes test-proxies test-build setup setup-tools setup-hosts setup-cluster

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

# Each part runs in a make of its own, so that the summary can list how long it took. The lints use the cores while the
# tests with Envoy and Kubernetes wait, and are printed once these have passed.
test: setup-cluster ## Runs all checks and all tests, and prints how long each part took
	@rm -f target/test-times; \
	timed() { local start=$$SECONDS; "$${@:2}" $(MAKE) --no-print-directory $$1; \
	    printf '    %-16s %5d s\n' $$1 $$((SECONDS - start)) >>target/test-times; }; \
	timed check-text; timed test-build; timed test-unit; \
	timed check-lints nice >target/check-lints.log 2>&1 & lints=$$!; \
	trap 'kill $$lints 2>/dev/null || true' EXIT; \
	timed test-proxies; \
	wait $$lints || { cat target/check-lints.log; exit 1; }; \
	cat target/check-lints.log; \
	printf '==> All checks and tests passed; the lints ran beside the tests with proxies\n'; cat target/test-times

unit: setup-tools ## Runs the tests that need only Rust: pure crates and the xDS protocol
	@$(NEXTEST) $(addprefix -p ,$(PURE))
	@cargo test --quiet --locked --doc $(addprefix -p ,$(filter-out xtask,$(PURE)))

envoy: setup-hosts test-build test-envoy ## Runs the tests with real Envoys, Cloud Map and hosts, and the control plane's own unit tests

kubernetes: setup-cluster test-build test-kubernetes ## Runs the tests with a Kubernetes API server, and those with pods

# Tests of several packages start binaries of others, which cargo builds only if it is told to. One command builds both,
# so that dependencies have the same features and are built once.
test-build:
	@echo '==> Building all tests'
	@cargo build --locked --workspace --bins --tests
	@cargo metadata --locked --no-deps --format-version 1 >target/test-metadata.json
	@$(TOOLS)/cargo-nextest nextest list --locked --workspace --list-type binaries-only --message-format json \
	    >target/test-binaries.json

test-unit:
	@echo '==> Unit tier'
	@$(BUILT) -E '$(UNIT)'
	@cargo test --quiet --locked --workspace --doc

test-envoy:
	@echo '==> Envoy tier'
	@$(BUILT) -E 'not ($(UNIT) | $(KUBERNETES))'

test-kubernetes:
	@echo '==> Kubernetes tier'
	@$(BUILT) -E '$(KUBERNETES)' $(WAITING)

test-proxies:
	@echo '==> Envoy and Kubernetes tiers'
	@$(BUILT) -E 'not ($(UNIT))' $(WAITING)

test-cluster: setup-cluster ## Runs the tests with pods, on a Kubernetes of this machine or on that of KUBECONFIG
	@cargo build --locked $(PROGRAMS)
	@$(NEXTEST) -p evermesh --test cluster

check: setup-tools check-text check-lints ## Checks format, text, names, fields, dependencies, lints, documentation, each crate alone

check-text:
	@echo '==> Format'
	@cargo fmt --all --check
	@echo '==> Text, names and fields'
	@cargo run --quiet --locked -p xtask -- text
	@cargo run --quiet --locked -p xtask -- names
	@cargo run --quiet --locked -p xtask -- fields --check
	@echo '==> Dependencies'
	@$(TOOLS)/cargo-deny --locked check bans licenses sources
	@$(TOOLS)/cargo-deny --locked check advisories || echo 'warning: advisories, see above'

check-lints:
	@echo '==> Lints'
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@echo '==> Documentation'
	@RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --workspace --locked
	@echo '==> Each crate alone'
	@for manifest in $$(git ls-files '*/Cargo.toml'); do \
	    echo "    $$manifest"; cargo check --quiet --locked --manifest-path "$$manifest"; done

bench: setup ## Runs the benchmarks: a change to twenty real Envoys, then those of each crate (the first build takes long)
	@cargo build --release --locked -p evermesh-bench $(PROGRAMS)
	@target/release/evermesh-bench
	@cargo bench --workspace --locked

images: setup-hosts ## Writes the images of Evermesh and of the tests below target/images, without a container engine
	@cargo build --release --locked $(PROGRAMS)
	@cargo rustc --release --locked -p evermesh-proxy-init --bin evermesh-proxy-init -- -C target-feature=+crt-static
	@scripts/images

# Everything but what runs pods. cargo fetch also fetches the crate that is only unpacked (see proto/build.rs).
setup:
	@scripts/setup
	@cargo fetch --locked

# Cargo's plug-ins only.
setup-tools:
	@scripts/setup tools
	@cargo fetch --locked

# Everything but Kubernetes.
setup-hosts:
	@scripts/setup hosts
	@cargo fetch --locked

# Everything, with what runs pods.
setup-cluster: setup
	@scripts/kubernetes cluster
