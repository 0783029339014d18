# `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(MUSTER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/muster)
BIN := $(or $(CARGO_TARGET_DIR),target)/release
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE)/tools/bin/cargo-deny

.PHONY: help setup build check test clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Fetch libtorch into the per-user cache (once)
	@python3 scripts/fetch_libtorch.py third_party/libtorch

build: setup ## Build muster and muster-worker into target/release
	cargo build --release --workspace --bins

check: setup $(CARGO_DENY) ## Format, lints, dependencies' licences, directions between crates, docs
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	PATH="$(CACHE)/tools/bin:$$PATH" cargo deny --all-features check bans licenses sources
	cargo run --release --quiet --package xtask -- deps
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --workspace

test: build ## All tests
	cargo run --release --quiet --package xtask -- linkage $(BIN)/muster
	cargo test --release --workspace

clean: ## Remove what was built; the cache stays
	cargo clean

# Once per user; little optimisation, since it runs for a second and is compiled for minutes.
$(CARGO_DENY):
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	  cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --no-default-features --root $(CACHE)/tools
