# Lifeboat. `make` alone prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One set of flags for builds, vet and tests, so that the build cache serves them all.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

STORE ?= s3
SOAK ?= 1h
SEED ?=
RUNS ?= 100
SEEDS ?= 20000
PKG ?=
BIN := build/bin
BUILD := go build -ldflags "-s -w"

.PHONY: help build lint test soak sim chaos demo bench cluster cluster-down deps clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the product's static binaries and the commands of test bed and demo into build/bin
	@mkdir -p $(BIN)
	@echo "building the product and the commands of test bed and demo (about two minutes the first time, then seconds)"
	@$(BUILD) -o $(BIN)/ ./cmd/... ./test/bed/cmd/bed ./test/demo/cmd/demo

lint: ## hold format, layers, sizes and comments (.depguard.yaml, revive.toml, staticcheck, vet)
	@test/lint/run

test: deps build lint ## everything: lint, unit tests, tests with root and CRIU, the whole path on the test bed
	@test/run

soak: deps build ## pre-dump, dump, restore and kill agents at random, for SOAK=1h; SEED=... tries one seed again
	@set -a; eval "$$($(BIN)/bed prepare)"; set +a; \
	LIFEBOAT_SOAK=$(SOAK) LIFEBOAT_SOAK_SEED=$(SEED) go test -count=1 -v -timeout 0 ./test/soak

chaos: deps build ## hand jobs over on the test bed while random things go wrong, RUNS=100 times; SEED=... is the first run's
	@$(BUILD) -o $(BIN)/ ./test/chaos/cmd/chaos
	@$(BIN)/chaos --runs $(RUNS) --seed $(or $(SEED),1)

sim: ## play hand-overs through with faults by seeds: SEEDS=20000 for so many, SEED=... plays one again and prints its history
	LIFEBOAT_SIM_SEEDS=$(SEEDS) LIFEBOAT_SIM_SEED=$(SEED) go test -count=1 $(if $(SEED),-v) -timeout 0 ./test/sim

demo: deps build ## a training job survives the end of its node; STORE=file for a bucket that is a shared folder
	@$(BIN)/demo --store $(STORE)

bench: ## measure against what is there without Lifeboat, rows into build/bench; PKG=store for one part (store, handover, snapshot, restore, scale)
	@mkdir -p $(BIN)
	@$(BUILD) -o $(BIN)/ ./test/bench/cmd/bench
	@$(BIN)/bench $(PKG)

cluster: deps build ## bring up the two-node test bed, leave it up, and say how to use it
	@$(BIN)/bed up

cluster-down: build ## end the test bed and remove everything of it
	@$(BIN)/bed down

deps: build ## install the Debian packages that the test bed needs and the machine lacks
	@$(BIN)/bed deps

clean: ## remove what was built here (caches outside of the checkout stay)
	rm -rf build
