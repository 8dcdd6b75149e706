# vethloom: `make help` lists every target.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 10s
PKGS     ?= ./...
TESTFLAGS ?=
# The timeout of one package's tests.
TIMEOUT  ?= 15m

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# seccomp makes libcontainer load the system-call filter; it needs cgo and libseccomp.
# runc_nocriu leaves checkpoints out of it, which nothing here can ask for.
TAGS    := seccomp,runc_nocriu
BUILD   := $(GO) build -trimpath -ldflags '$(LDFLAGS)'
STATIC  := net netlab
CGO     := netd net-shim
BINS    := $(STATIC:%=bin/%) $(CGO:%=bin/%)
CACHE   := $(CURDIR)/.cache

export VETHLOOM_BIN := $(CURDIR)/bin

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  %-12s %s\n", $$1, $$2 }'

.PHONY: deps
deps: ## install what building, tests and the demo need (Debian, Ubuntu)
	@.ci/deps all

.PHONY: bench-deps
bench-deps: deps ## also install dockerd, without starting it, for `make bench`
	@.ci/deps docker

# Always handed to the go command, which knows better than make what changed.
.PHONY: build
build: $(BINS) ## build every binary into bin/

.PHONY: $(BINS)
$(STATIC:%=bin/%): bin/%:
	CGO_ENABLED=0 $(BUILD) -o $@ ./cmd/$*
$(CGO:%=bin/%): bin/%:
	CGO_ENABLED=1 $(BUILD) -tags $(TAGS) -o $@ ./cmd/$*

.PHONY: demo
demo: demo-deps build ## show three nodes at work, in network namespaces of their own
	@labs/demo/run.sh

.PHONY: lab
lab: bin/netlab ## list the labs: documents that run, on a cluster inside this machine
	@bin/netlab list

.PHONY: demo-deps
demo-deps:
	@.ci/deps demo

.PHONY: root
root:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "These tests make network namespaces, links and firewall tables (each in a namespace of its own), so they need root:" >&2; \
	  echo "  sudo env PATH=\"\$$PATH\" make $(firstword $(MAKECMDGOALS))" >&2; \
	  exit 1; \
	fi

.PHONY: test
test: root build ## run every test (as root)
	$(GO) test -tags $(TAGS) -count=1 -timeout $(TIMEOUT) $(TESTFLAGS) $(PKGS)

.PHONY: race
race: root build ## run the tests with the race detector (as root)
	CGO_ENABLED=1 $(GO) test -race -tags $(TAGS) -count=1 -timeout $(TIMEOUT) $(TESTFLAGS) $(PKGS)

.PHONY: lint
lint: $(CACHE)/staticcheck ## formatting, vet, staticcheck, import directions, modules, generated code, shell
	@GO='$(GO)' TAGS='$(TAGS)' STATICCHECK='$(CACHE)/staticcheck' .ci/lint/run

# A module of its own: the tool's dependencies stay out of vethloom's.
$(CACHE)/staticcheck: .ci/lint/go.mod .ci/lint/go.sum
	@mkdir -p $(@D)
	$(GO) build -C .ci/lint -o $@ honnef.co/go/tools/cmd/staticcheck

.PHONY: fuzz
fuzz: root build ## run each fuzz target for FUZZTIME (10s)
	@GO='$(GO)' TAGS='$(TAGS)' FUZZTIME='$(FUZZTIME)' .ci/fuzz

.PHONY: bench
bench: root build ## compare with CNI, Docker, runc and a bare bridge, in one run
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench $(BENCHFLAGS)

.PHONY: bench-scale
bench-scale: root ## measure a thousand nodes at one etcd, and networks of 10,000 endpoints
	$(GO) build -trimpath -o bin/bench-scale ./bench/scale
	bin/bench-scale $(BENCHFLAGS)

.PHONY: generate
generate: ## regenerate the protocol code (needs protoc)
	$(GO) generate ./...

.PHONY: install
install: ## install what `make build` made, the unit and completions below DESTDIR/PREFIX
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' packaging/install.sh install

.PHONY: uninstall
uninstall: ## remove what install put there; state in /var/lib/vethloom stays
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' packaging/install.sh uninstall

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .cache
