# The few commands there are. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fuzz soak bench simulate
SHELL := /bin/bash
# Tools that scripts/setup.sh built here.
export PATH := $(PATH):$(CURDIR)/target/tools/bin

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

setup: ## Install and fetch what is missing (quick when nothing is)
	@scripts/setup.sh

demo: ## Everything on this machine: a broker, all roles, five countries (ARGS=--keep leaves it running)
	@scripts/setup.sh demo
	cargo run --release -- demo $(ARGS)

# Without default features is what the image is built from.
lint: setup ## Format, clippy, dependency rules, documentation
	cargo fmt --all --check
	rustfmt --check --edition 2024 fuzz/fuzz_targets/*.rs
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo check -p keyferry --no-default-features
	cargo deny --offline --workspace --all-features check bans licenses sources
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --all-features

# For the S3 of the tests, which takes any.
test: export AWS_ACCESS_KEY_ID := test
test: export AWS_SECRET_ACCESS_KEY := test
# Built first, so that a broker waits for no compiler, and the program that tests run is that of these sources; then one
# broker serves all test binaries.
test: setup lint ## Lint, then all tests on a real Kafka
	cargo test --workspace --all-features --no-run
	cargo build --workspace --all-features --bin with-broker --bin keyferry
	target/debug/with-broker scripts/test.sh

# All of it in one run, on a machine that does nothing else: figures of several runs can not be compared.
bench: setup ## Measure: table, and target/bench/summary.json (PARTS="processor restore" for some of it)
	cargo bench --workspace --all-features --bench stages
	cargo build --release --workspace --all-features --bin bench
	target/release/bench $(PARTS)

# Needs a nightly compiler and cargo-fuzz, which nothing else does. What fuzzing found is run by `make test`.
fuzz: ## Feed the decoders garbage (TARGET=json SECONDS=60; all of them, a minute each, unless told)
	@scripts/fuzz.sh "$(TARGET)" "$(SECONDS)"

soak: setup ## Break everything for a while, and compare with a model (MINUTES=10 SEED=)
	cargo build --workspace --all-features --bin soak --bin lone-role
	target/debug/soak "$(or $(MINUTES),10)" "$(SEED)"

simulate: ## Play histories over a simulated log until one does not hold (MINUTES=1; KEYFERRY_SEED= plays one and prints it)
	cargo build --release --workspace --all-features --bin simulate
	target/release/simulate $(or $(MINUTES),1)
