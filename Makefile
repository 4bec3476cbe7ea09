# Everything a developer or CI runs. `make demo` and `make test` install what they need on Debian 12 and say what to install elsewhere.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test soak bench lint unit whole

export CARGO_TARGET_DIR ?= $(CURDIR)/target
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gridkeep
VENV := $(CACHE)/venv
BIN := $(CARGO_TARGET_DIR)/debug
# Most tests of whole programs wait for other programs: files of tests run side by side, the tests of one file one after another.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

help:
	@echo "make demo    an issuer, a server and a first token on this machine (ONCE=1: end after it; CONFIG=DIR: with your own files)"
	@echo "make test    everything CI runs: lints, unit tests, other people's clients, faults, a browser"
	@echo "make soak    the long proofs, at their stated size"
	@echo "make bench   the figures of docs/benchmarks.md, beside the programs we replace (BENCH_FULL=1: up to 1,000,000 credentials with 10,000,000 tokens)"
	@echo "make lint    formatting, clippy, licences and sources of dependencies"

demo:
	@scripts/prepare build
	@echo "Building gridkeep; the first time takes some minutes."
	@scripts/cargo build --quiet --locked --release -p gridkeep -p gridkeep-testbed
	@"$(CARGO_TARGET_DIR)/release/gridkeep-testbed" demo $(if $(ONCE),--once) \
		$(if $(CONFIG),--config "$(CONFIG)" $(if $(ISSUER),--issuer "$(ISSUER)") $(if $(ROLE),--role "$(ROLE)"))

test: unit whole

unit:
	@scripts/prepare build unit
	scripts/cargo fmt --all --check
	scripts/cargo clippy --workspace --all-targets --locked -- -D warnings
	scripts/cargo test --workspace --locked

whole:
	@scripts/prepare build test
	scripts/cargo build --locked -p gridkeep -p gridkeep-testbed
	GRIDKEEP_BIN="$(BIN)" "$(VENV)/bin/python" -m pytest tests $(SIDE_BY_SIDE)

# Fuzzing comes last and takes ten minutes for each target; what it needs is looked for first.
soak:
	@scripts/fuzz --check
	@scripts/prepare build test
	GRIDKEEP_SOAK=500 scripts/cargo test --workspace --locked --release
	scripts/cargo build --locked --release -p gridkeep -p gridkeep-testbed
	GRIDKEEP_SOAK=500 GRIDKEEP_BIN="$(CARGO_TARGET_DIR)/release" "$(VENV)/bin/python" -m pytest tests
	scripts/fuzz 600

bench:
	@scripts/prepare build test bench
	scripts/cargo build --locked --release -p gridkeep -p gridkeep-testbed -p gridkeep-bench
	GRIDKEEP_BIN="$(CARGO_TARGET_DIR)/release" "$(VENV)/bin/python" tests/bench/run.py --date "$$(date +%F)"

lint:
	@scripts/prepare build lint
	scripts/cargo fmt --all --check
	scripts/cargo clippy --workspace --all-targets --locked -- -D warnings
	"$(CACHE)/tools/bin/cargo-deny" --all-features check licenses bans sources
