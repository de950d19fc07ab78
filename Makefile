# Rowan: build, try and test. `make help` lists the targets.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null)
FUZZTIME ?= 10s
SOAKTIME ?= 10m
# What go run ./test/bench -help lists.
BENCHFLAGS ?=
# What go run ./test/scale -help lists.
SCALEFLAGS ?=

# Where scripts/deps unpacks a kernel for the guest in which the nbd driver is
# tried, if this machine has none of that kind.
GUEST := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rowan/guest-kernel
export ROWAN_GUEST_KERNEL ?= $(if $(wildcard /boot/vmlinuz-*-cloud-amd64),,$(GUEST))

.DEFAULT_GOAL := build
.PHONY: help build demo run test test-unit test-race bench bench-scale fuzz soak lint deps clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## build bin/rowand and bin/rowan, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/ ./cmd/...

demo: ## a minute's walk through: format, write, snapshot, damage, browse, revert
	@scripts/deps demo
	@$(MAKE) --no-print-directory build
	@scripts/demo

run: ## an appliance on loopback with a LUN named demo, until Ctrl-C
	@$(MAKE) --no-print-directory build
	@scripts/run

test: ## everything that CI runs
	@scripts/deps
	@$(MAKE) --no-print-directory lint build test-unit test-race

# -count=1, because go test does not know what the tests depend on that run
# other programs, ours included, and would show an old result.
test-unit:
	$(GO) test -count=1 -timeout=30m ./...

test-race:
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout=30m ./...

bench: ## measure beside nbdkit and qemu-nbd, write docs/benchmarks.md
	@scripts/deps
	@$(MAKE) --no-print-directory build
	$(GO) run ./test/bench -images ext4,xfs $(BENCHFLAGS)

bench-scale: ## measure large LUNs, many snapshots, many LUNs, write docs/benchmarks.md
	$(GO) run ./test/scale $(SCALEFLAGS)

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@GO="$(GO)" scripts/fuzz "$(FUZZTIME)"

soak: ## the random tests, by seed, each for SOAKTIME (10m), and 1,000 rounds of kill -9
	@scripts/deps
	ROWAN_SOAK=$(SOAKTIME) $(GO) test -count=1 -timeout=0 -p 1 -v -run '^TestSoak' ./blockdev/... ./test/e2e

lint: ## gofmt, go vet, staticcheck, shell syntax
	@GO="$(GO)" scripts/lint

deps: ## install what the tests and the demo need, or say what is missing
	@scripts/deps

clean: ## remove what was built
	rm -rf bin
