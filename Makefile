# `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export MUSTER_CACHE := $(or $(MUSTER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/muster)
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(MUSTER_CACHE)/tools/$(CARGO_DENY_VERSION)/bin/cargo-deny
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# Settings of other projects that would point torch-sys at another libtorch, or cargo at another place.
unexport LIBTORCH LIBTORCH_INCLUDE LIBTORCH_LIB LIBTORCH_STATIC LIBTORCH_CXX11_ABI LIBTORCH_USE_PYTORCH CARGO_BUILD_TARGET

.PHONY: help setup build check chaos sim test bench demo quickstart-data clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Fetch libtorch into the per-user cache, once (DEVICE=cuda for GPUs)
	@scripts/setup $(if $(DEVICE),--device $(DEVICE))

build: setup ## Build muster and muster-worker into target/release
	cargo build --release --bin muster --bin muster-worker --workspace
	@scripts/link-binaries $(TARGET_DIR)/release

check: setup $(CARGO_DENY) ## Format, lints, licences, the repository's own rules, manifests and units, docs
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	PATH="$(dir $(CARGO_DENY)):$$PATH" cargo deny --all-features check bans licenses sources
	cargo xtask deps
	cargo xtask tidy
	deploy/kubernetes/validate
	if command -v systemd-analyze >/dev/null; then deploy/systemd/verify; fi
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --workspace

test: build ## All tests
	cargo xtask linkage $(TARGET_DIR)/release
	@scripts/run-tests

bench: build ## Measure against torchrun and torchft, into bench/RESULTS.md (75 minutes; QUICK=1: 9, a trial)
	cargo build --release --bin muster-load --workspace
	@bench/run $(if $(QUICK),--quick)

chaos: build ## Kill, freeze and end processes of a real job KILLS times (SEED=1): the same bits have to come out
	@MUSTER_TEST_KILLS=$(or $(KILLS),100) MUSTER_TEST_SEED=$(or $(SEED),1) \
	  cargo test --release --workspace --test e2e chaos:: -- --nocapture

sim: ## Simulate coordinator, agents and workers under faults: SEEDS=10000 of them from SEED=1 on; SEEDS=1 shows its trace
	@MUSTER_SIM_SEEDS=$(or $(SEEDS),10000) MUSTER_SIM_SEED=$(or $(SEED),1) \
	  cargo test --release -p muster-cluster --lib sim::seeds::whatever_happens -- --nocapture

demo: build quickstart-data ## Train on Shakespeare with two workers, kill one on the way, generate text
	@scripts/demo

quickstart-data: build ## Fetch and prepare what configs/quickstart.toml trains on
	@scripts/quickstart-data

clean: ## Remove what was built; the cache, data and runs stay
	cargo clean

# Once per user; little optimisation, since it runs for a second and is compiled for minutes.
$(CARGO_DENY):
	env -u RUSTFLAGS -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
	  CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked \
	  --no-default-features --root $(MUSTER_CACHE)/tools/$(CARGO_DENY_VERSION)
