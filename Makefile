# Portolan. `make help` lists the targets; README.md says what comes first.
#
# Everything that is built goes to bin/, which git ignores:
#   bin/portolan         the CLI, the daemon and the router helper
#   bin/portolan-agent   what runs inside the machine
#   bin/portolan-shim    what the engine runs there for each published port; C
#   bin/engine/          dockerd, containerd, runc, docker and its plugins (see engine/Makefile)
#   bin/tools/           golangci-lint, pinned by tools/go.mod

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=

# What `portolan version` says. A source archive without git is "dev".
VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)

# Static, and the same bytes from the same sources. Git is asked above, not by Go, so that a clone which belongs to
# somebody else builds as well.
build = CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# portolan-demo, the web server of `make run`, makes sense with the other two only.
programs := $(notdir $(wildcard cmd/portolan cmd/portolan-agent cmd/portolan-demo))

.PHONY: help build engine cli run test check fmt lint cross unit fuzz bench bench-quick bench-peers bench-docs soak vm-test install uninstall clean
.DEFAULT_GOAL := build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: $(addprefix bin/,$(programs)) bin/portolan-shim ## bin/portolan, bin/portolan-agent and bin/portolan-shim

# Go knows better than make what is out of date, so it is always asked.
.PHONY: $(addprefix bin/,$(programs))
$(addprefix bin/,$(programs)): bin/%:
	@$(build) -o $@ ./cmd/$*

# Tests build it elsewhere.
%/portolan-shim: cmd/portolan-shim/main.c
	@mkdir -p $(@D)
	@$(CC) -std=c11 -Os -Wall -Wextra -static -s -o $@ $<

# The registry that tests push to and pull from.
bin/registry: test/registry/go.mod test/registry/go.sum test/registry/main.go
	@cd test/registry && $(build) -o ../../$@ .
	@touch $@

# What TestRange compares Portolan with.
bin/peers/docker-proxy: engine/go.mod engine/go.sum
	@$(MAKE) --no-print-directory -C bench/peers $(abspath $@)

engine: ## bin/engine: dockerd, containerd, runc (minutes the first time)
	@$(MAKE) --no-print-directory -C engine engine

cli: ## bin/engine: docker, buildx, compose
	@$(MAKE) --no-print-directory -C engine cli

run: ## from a clone to a web server in a container on localhost:8000 (PORT=...)
	@scripts/run

test: ## all tests, as root
	@scripts/test

check: fmt lint cross unit ## before each commit: format, lint, other systems, unit tests with the race detector

fmt: ## names files that gofmt would change
	@files=$$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l); \
	 [ -z "$$files" ] || { echo "gofmt -w these files:"; echo "$$files"; exit 1; } >&2

linter := bin/tools/golangci-lint
$(linter): tools/go.mod tools/go.sum
	@echo 'building golangci-lint (a minute or two the first time)'
	@cd tools && CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

lint: $(linter) ## golangci-lint, with go vet in it
	@$(linter) run ./...

# Hosts are Linux today. The host's side must not forget the others.
cross: ## cmd/portolan builds for darwin and windows
	@for os in darwin windows; do echo "build for $$os"; CGO_ENABLED=0 GOOS=$$os $(GO) build -buildvcs=false -o /dev/null ./cmd/portolan || exit; done

unit: ## unit tests with the race detector
	@CGO_ENABLED=1 $(GO) test -buildvcs=false -race -short -timeout 3m ./cmd/... ./internal/...

fuzz: ## every fuzz target for FUZZTIME=30s
	@scripts/fuzz

bench: ## the benchmarks of docs/benchmarks.md, as root (under an hour)
	@scripts/bench

bench-quick: ## the same, less exact (under five minutes)
	@scripts/bench -quick

bench-peers: ## installs and builds what benchmarks compare Portolan with
	@scripts/packages peers
	@$(MAKE) --no-print-directory -C bench/peers

bench-docs: ## docs/benchmarks.md and its charts from docs/benchmarks.json
	@cd bench/render && $(GO) run -buildvcs=false . ../../docs/benchmarks.json ../../docs/benchmarks.md ../../docs/benchmarks

soak: ## a machine that works while its processes are killed, as root (DURATION=10m)
	@scripts/soak $(or $(DURATION),10m)

# Tests for which kernels as small as a cloud computer's lack something, such as ip_vs, and what control groups of version 2 count.
VM_TESTS := hostnet/TestMesh e2e/TestMemoryShortage
vm-test: build ## tests on Debian's own kernel in QEMU, as root (ten minutes)
	@mkdir -p bin/vm-test
	@CGO_ENABLED=0 $(GO) build -buildvcs=false -o bin/vm-test/toolbox ./internal/testimage/toolbox
	@for test in $(VM_TESTS); do dir=$${test%/*} name=$${test#*/}; \
	 CGO_ENABLED=0 $(GO) test -buildvcs=false -c -o bin/vm-test/$$dir.test ./test/$$dir || exit; \
	 (cd test/$$dir && PORTOLAN_BIN=$(CURDIR)/bin PORTOLAN_TOOLBOX=$(CURDIR)/bin/vm-test/toolbox \
	  ../../scripts/vm $(CURDIR)/bin/vm-test/$$dir.test -test.run "^$$name\$$" -test.v -test.timeout 30m) || exit; \
	 done

install: build engine cli ## into PREFIX=/usr/local
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/portolan/engine/cli-plugins
	install -m 755 bin/portolan $(DESTDIR)$(PREFIX)/bin/
	install -m 755 bin/portolan-agent bin/portolan-shim $(DESTDIR)$(PREFIX)/lib/portolan/
	install -m 755 $(shell find bin/engine -maxdepth 1 -type f 2>/dev/null) $(DESTDIR)$(PREFIX)/lib/portolan/engine/
	install -m 755 bin/engine/cli-plugins/* $(DESTDIR)$(PREFIX)/lib/portolan/engine/cli-plugins/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/systemd/user
	sed 's,/usr/local/,$(PREFIX)/,' dist/systemd/portolan.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/portolan.service
	sed 's,/usr/local/,$(PREFIX)/,' dist/systemd/user/portolan.service > $(DESTDIR)$(PREFIX)/lib/systemd/user/portolan.service

uninstall: ## what install put there
	rm -rf $(DESTDIR)$(PREFIX)/bin/portolan $(DESTDIR)$(PREFIX)/lib/portolan
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/*/portolan.service

clean: ## everything that was built here
	rm -rf bin
