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
TIMEOUT  ?= 20m

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# seccomp makes libcontainer load the system-call filter; it needs cgo and libseccomp.
# runc_nocriu leaves checkpoints out of it, which nothing here can ask for.
TAGS    := seccomp,runc_nocriu
BUILD   := $(GO) build -trimpath -ldflags '$(LDFLAGS)'
STATIC  := net net-build net-copy netlab net-resolver net-relay vethloom-cni
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
bench-deps: deps ## also install dockerd, without starting it, and umoci, for `make bench`
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
demo: demo-deps build $(CACHE)/crictl ## show three hosts at work, with Docker and containerd, in network namespaces
	@demo/run.sh

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

# Packages that start daemons and containers or build many namespaces. Their tests run one package after the other: side
# by side they would be late because of each other. The others run beside each other first.
HEAVY := /(backend|cmd|drivers|engine|labs|subnet|internal/(cluster|daemon|doctor|e2e|etcd|health|kern|lab|store))(/|$$)

# The tests of PKGS with the flags given. `go list` compiles everything first, with all processors, which -p 1 would not.
define gotest
	@packages=$$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' -tags $(TAGS) $(PKGS)); \
	heavy=$$(grep -E '$(HEAVY)' <<<"$$packages" || true); \
	light=$$(grep -vE '$(HEAVY)' <<<"$$packages" || true); \
	$(GO) list -export -deps -test $(1) -tags $(TAGS) -f '' $$packages >/dev/null 2>&1 || true; \
	failed=0; \
	[ -z "$$light" ] || $(GO) test $(1) -tags $(TAGS) -count=1 -timeout $(TIMEOUT) $(TESTFLAGS) $$light || failed=1; \
	[ -z "$$heavy" ] || $(GO) test $(1) -p 1 -tags $(TAGS) -count=1 -timeout $(TIMEOUT) $(TESTFLAGS) $$heavy || failed=1; \
	exit $$failed
endef

# A Docker Engine of today, and the runc that it wants, from a module of their own. They take long to compile, once.
.PHONY: $(CACHE)/engine .cache/engine
$(CACHE)/engine .cache/engine:
	$(GO) build -C .ci/dockerd -buildvcs=false -tags 'exclude_graphdriver_btrfs no_systemd seccomp runc_nocriu' \
		-o '$(CACHE)/engine/' github.com/moby/moby/v2/cmd/dockerd github.com/opencontainers/runc

# The BuildKit that tests of builds start, from a module of its own, too.
.PHONY: $(CACHE)/buildkit .cache/buildkit
$(CACHE)/buildkit .cache/buildkit:
	$(GO) build -C .ci/buildkit -buildvcs=false -tags seccomp -o '$(CACHE)/buildkit/' \
		github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl

# The clients of Docker's API of today that tests have speak to ours: docker and compose, each from a module of its own.
# The version of Go is named because the module of docker names none.
.PHONY: $(CACHE)/clients .cache/clients
$(CACHE)/clients .cache/clients:
	$(GO) build -C .ci/clients/docker -buildvcs=false -gcflags='github.com/docker/cli/...=-lang=go1.25' \
		-o '$(CACHE)/clients/docker' github.com/docker/cli/cmd/docker
	$(GO) build -C .ci/clients/compose -buildvcs=false -o '$(CACHE)/clients/docker-compose' \
		github.com/docker/compose/v2/cmd

# What tests build for themselves, in network namespaces from which nothing can be fetched.
.PHONY: test-tools
test-tools: $(CACHE)/engine $(CACHE)/buildkit $(CACHE)/clients $(CACHE)/crictl
	$(GO) mod download
	$(GO) test -C .ci/crictl -c -o '$(CACHE)/critest' sigs.k8s.io/cri-tools/cmd/critest
	$(GO) build -C .ci/kubernetes -o '$(CACHE)/kubernetes' .

# The packages whose tests are of what reaches whom, and what does not: they run on the slow path, too.
REACH := drivers/bridge drivers/overlay drivers/routed internal/e2e/fabric

.PHONY: test
test: root build test-tools ## run every test (as root)
	$(call gotest)
	$(if $(filter ./...,$(PKGS)),@$(MAKE) slow-path)

# They start beside each other: they mostly wait.
.PHONY: slow-path
slow-path: export VETHLOOM_FASTPATH = off
slow-path: root build ## run the tests of what reaches whom once more, without the fast path (as root)
	$(GO) test -p 2 -tags $(TAGS) -count=1 -timeout $(TIMEOUT) $(TESTFLAGS) $(addprefix ./,$(REACH))

.PHONY: race
race: export CGO_ENABLED = 1
race: root build ## run the tests with the race detector (as root)
	$(call gotest,-race)

# What `make test` takes samples of.
.PHONY: soak
soak: export VETHLOOM_SOAK = 1
soak: root build ## kill netd before every single step of what it does (as root; half an hour)
	$(GO) test -tags $(TAGS) -count=1 -timeout 2h -run KilledAtEveryStep $(TESTFLAGS) ./internal/daemon

.PHONY: lint
lint: $(CACHE)/staticcheck ## formatting, vet, staticcheck, import directions, manifests, modules, generated code, shell
	@GO='$(GO)' TAGS='$(TAGS)' STATICCHECK='$(CACHE)/staticcheck' .ci/lint/run

# A module of its own: the tool's dependencies stay out of vethloom's.
$(CACHE)/staticcheck: .ci/lint/go.mod .ci/lint/go.sum
	@mkdir -p $(@D)
	$(GO) build -C .ci/lint -o $@ honnef.co/go/tools/cmd/staticcheck

# The demo's containerd is asked for pods by it. A module of its own, too.
$(CACHE)/crictl: .ci/crictl/go.mod .ci/crictl/go.sum
	@mkdir -p $(@D)
	$(GO) build -C .ci/crictl -o $@ sigs.k8s.io/cri-tools/cmd/crictl

TREE ?= .

.PHONY: numbers
numbers: ## how the tree is cut up: sizes of packages, functions and types, widths, tests (TREE=DIR: of another)
	@$(GO) test -count=1 -v -run 'TestNumbers$$' ./internal/arch -args -tree $(abspath $(TREE)) | grep -vE '^(=== |--- |PASS|ok )'

.PHONY: fuzz
fuzz: root build ## run each fuzz target for FUZZTIME (10s)
	@GO='$(GO)' TAGS='$(TAGS)' FUZZTIME='$(FUZZTIME)' .ci/fuzz

.PHONY: bench
bench: root build ## compare with CNI, Docker, containerd, runc and a bare bridge, in one run
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
