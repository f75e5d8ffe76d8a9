# Strongroom's commands. Everything that is compiled lands outside the clone, keyed by version.
SHELL := /bin/bash
CACHE ?= $(or $(STRONGROOM_CACHE),$(HOME)/.cache/strongroom)
RUSTC_VERSION := $(shell rustc --version | cut -d' ' -f2)
export STRONGROOM_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target-$(RUSTC_VERSION)
# By name and of the whole workspace: for one package alone cargo would compile everything with other features.
CSI_TESTS := $(sort $(basename $(notdir $(wildcard csi/tests/*.rs))) $(patsubst csi/tests/%/main.rs,%,$(wildcard csi/tests/*/main.rs)))
BINARY := $(CARGO_TARGET_DIR)/release/strongroom

.PHONY: help demo test test-posix test-datasafed test-csi test-e2e test-operator model fuzz bench dist lint build tools

help: ## List these commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

build: ## Build the strongroom binary
	cargo build --release --locked

demo: build ## Show the product at work: files in through a mount, ciphertext in the store, bytes back
	tests/demo.sh $(BINARY)

tools: ## Install what tests need (Debian packages, MinIO) into the machine or the cache
	tests/setup/tools.sh

test: tools ## Run all tests: unit, stores, real mounts, kills, the POSIX suites, the CSI driver
	cargo test --release --locked --workspace

test-posix: tools ## Run suites and programs of others on a mount: pjdfstest, fsx, fio, backup clients
	cargo test --release --locked --test posix

test-datasafed: tools ## Compare with the real datasafed: generated command lines on MinIO and directories
	cargo test --release --locked --test datasafed

test-csi: tools build ## Test the CSI driver: csi-sanity, and what it leaves out, with real processes and mounts
	cargo test --release --locked --workspace $(addprefix --test ,$(CSI_TESTS))

test-e2e: tools build ## Test the driver in a real Kubernetes of one node, installed by helm
	cargo test --release --locked --workspace --test cluster

test-operator: tools ## Test BackupRepos: the operator on a real API server, with a real store
	cargo test --release --locked --workspace --test operator

model: ## Drive the file system against a reference with faults and crashes: 20,000 sequences
	STRONGROOM_CASES=20000 cargo test --release --locked --test model

fuzz: ## Fuzz every parser of outside bytes (SECONDS_EACH=20, TARGETS="url descriptor")
	tests/fuzz/run.sh

dist: ## Make static programs, an image's directory, bill of materials, checksums; and prove that they are static
	tests/setup/tools.sh dist
	deploy/dist.sh

bench: build ## Measure: crypto, mounts over MinIO, peers, datasafed, volumes (LATENCY=20: peers with slow round trips)
	tests/setup/tools.sh peers
ifdef LATENCY
	LATENCY=$(LATENCY) cargo bench --locked --bench peers
else
	cargo bench --locked --bench crypto
	cargo bench --locked --bench mount
	cargo bench --locked --bench peers
	cargo bench --locked --bench datasafed
	cargo bench --locked -p strongroom-csi --bench volume
endif

lint: tools ## Check format, clippy, licences and sources, layers
	cargo fmt --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	@# Also what is compiled for other systems alone: their licences count, too.
	cargo fetch --locked --quiet
	$(CACHE)/cargo-deny-0.20.2/bin/cargo-deny --offline --locked --config .deny.toml check bans licenses sources
	cargo test --release --locked --workspace --test tidy
