# The front door. `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# `tools` comes before what uses them, whatever `-j` says; cargo has both cores anyway.
.NOTPARALLEL:
.PHONY: help demo demo-down test lint advisories bench build packages book tools

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## Build, start a control plane and four agents here, deploy a release, break one, watch it roll back
	@tests/demo/demo.sh up

demo-down: ## Stop the demo and remove what it left
	@tests/demo/demo.sh down

build: ## Build everything (release profile), and the agent as it is shipped into target/agent
	cargo build --release --locked
	cargo build --profile agent --locked -p stella-agent

packages: ## Build the Debian packages, the RPMs and the archive into target/packages (needs cargo-deb and rpmbuild)
	@packaging/build

book: ## Build the book into target/book (needs mdbook)
	mdbook build docs

tools: ## Install what the tests need and is missing (Debian, root)
	@.ci/tools

lint: ## Formatting, clippy, docs, spelling, unused and unwanted dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo check --locked --quiet --manifest-path protocol/fuzz/Cargo.toml --target-dir target
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	codespell
	cargo shear
	cargo deny --locked --log-level error check bans licenses sources
	for crate in protocol control-plane/expression control-plane/domain; do \
		cargo deny --locked --log-level error --manifest-path $$crate/Cargo.toml --config control-plane/domain/deny.toml check bans || exit 1; \
	done

advisories: ## Ask RustSec's database whether something is known against a library (needs GitHub)
	cargo deny check advisories

test: tools lint ## Install what is missing, lint, run every test
	cargo build --workspace --bins --locked
	@if [ ! -e .demo ]; then DEMO_STOP=1 tests/demo/demo.sh up; \
	elif [ -n "$$CI" ]; then echo ".demo exists, and so the demo cannot be tried; make demo-down removes it" >&2; exit 1; \
	else echo "the demo is up, and is left alone"; fi
	@packaging/build dev
	cargo nextest run --workspace --locked

bench: ## Measure, beside the raw limits of this machine
	cargo build --release --locked -p stella-server -p stella-tests
	cargo build --profile agent --locked -p stella-agent
	mkdir -p target/bench && ln -sf ../release/stella-orchestrator ../release/stella-load ../agent/stella-agent target/bench/
	STELLA_BIN_DIR=target/bench target/release/stella-load all
