# Every target says what it does: `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The versions of all tools, here and nowhere else.
GOLANGCI_LINT_VERSION := v2.15.0
BUF_VERSION := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.12
VTPROTOBUF_VERSION := v0.6.0

TOOLS ?= $(HOME)/.cache/rateguard/tools
MODULES := schemas topics proxy processors projections deploy tests
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Packages that `make test` runs otherwise: against real servers in `make test-real`; without the test cache,
# which does not see that `go list` would answer something else by now; and without the race detector, which would
# find nothing in one goroutine and let it come only a tenth as far.
REAL := /tests/real(/|$$)
UNCACHED := ./tests/arch/...
UNRACED := ./proxy/rebuild/explore

# $(call tool,binary,module,version,package): installs a tool unless that version is there.
define tool
@mkdir -p '$(TOOLS)'; go version -m '$(TOOLS)/$(1)' 2>/dev/null | grep -qE '^[[:space:]]+mod[[:space:]]+$(2)[[:space:]]+$(3)([[:space:]]|$$)' || \
	{ echo 'installing $(1) $(3) (once)'; GOBIN='$(TOOLS)' GOWORK=off GOFLAGS= go install '$(4)@$(3)'; }
endef

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

.PHONY: run
run: build ## Build and start everything on embedded stores
	@exec bin/rateguard up

.PHONY: build
build: ## Build every command into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(patsubst %,./%/...,$(wildcard */cmd))

.PHONY: test
test: ## Run every test that a laptop can run, with the race detector where there is more than one goroutine
	@packages=$$(go list work | grep -vE '$(REAL)|/tests/arch$$|/rebuild/explore$$'); \
	( failed=0; \
		go test -race -shuffle=on -timeout 20m -json $$packages || failed=1; \
		go test -timeout 20m -json $(UNRACED) || failed=1; \
		go test -count=1 -json $(UNCACHED) || failed=1; \
		exit $$failed ) | go run ./tests/tools/testreport

.PHONY: test-real
test-real: build ## Run the README, the SDKs and the crash suite on real Redis, PostgreSQL and Apache Kafka (it starts them)
	@RATEGUARD_TEST_STORES=real go test -count=1 -p 1 -timeout 30m -json ./tests/real/... ./tests/e2e/... ./tests/crash/... | go run ./tests/tools/testreport

.PHONY: check
check: generate fmt lint tidy standalone-modules ## Generate, format, lint and tidy, then fail when that changed anything
	@git diff --exit-code
	@new=$$(git ls-files --others --exclude-standard); [ -z "$$new" ] || { echo "not in git:"; echo "$$new"; exit 1; }

.PHONY: generate
generate: proto ## Make all generated code and data again
	@for m in $(MODULES); do (cd $$m && go generate ./...); done

.PHONY: proto
proto: tool-buf tool-protoc-gen-go tool-protoc-gen-go-vtproto ## Check the event contracts and generate their code
	@cd schemas && PATH='$(TOOLS)':"$$PATH" && buf lint && buf breaking --against baseline.binpb && buf generate

.PHONY: proto-baseline
proto-baseline: tool-buf ## Take the event contracts of now as what later ones must not break (at a release)
	@cd schemas && '$(TOOLS)/buf' build -o baseline.binpb

.PHONY: lint
lint: tool-golangci-lint ## Run the linters over all modules
	@'$(TOOLS)/golangci-lint' run $(MODULES:%=./%/...)

.PHONY: fmt
fmt: tool-golangci-lint ## Format all Go code
	@'$(TOOLS)/golangci-lint' fmt $(MODULES)

.PHONY: tidy
tidy: ## Tidy every go.mod
	@for m in $(MODULES); do (cd $$m && go mod tidy); done

.PHONY: standalone-modules
standalone-modules: ## Build each module alone: go.work hides an import in the wrong direction
	@for m in $(MODULES); do (cd $$m && GOWORK=off go build ./...); done

.PHONY: bench
bench: build ## Measure the proxy against a bare reverse proxy; prints a table, writes JSON to bench/out
	@mkdir -p bench/out
	@go run ./tests/load -bin bin -out bench/out/load.json
	@cd proxy && go test -run '^$$' -bench Decision -benchtime 2s ./lua

.PHONY: soak
soak: build ## Kill everything each 10 s under 200 requests/s, then watch the proxy's memory for 10 minutes
	@RATEGUARD_CRASH_KILLS=5 go test -count=1 -timeout 15m -v -run TestKill ./tests/crash
	@go run ./tests/load -bin bin -soak 10m

.PHONY: chaos
chaos: ## Let proxies, processors, Redis, Kafka and PostgreSQL fail under load for 10 minutes, then count everything; RATEGUARD_CHAOS_SEED repeats a run
	@RATEGUARD_CHAOS_TIME=$${RATEGUARD_CHAOS_TIME:-10m} go test -count=1 -timeout 30m -v ./tests/chaos

.PHONY: explore
explore: ## Try the accounting protocol in every order of its events, of two requests a process with each fault; takes hours, prints how many
	@RATEGUARD_EXPLORE_FULL=1 go test -count=1 -timeout 0 -v ./proxy/rebuild/explore

.PHONY: clean
clean: ## Remove what was built; data and tools stay
	rm -rf bin bench/out

.PHONY: tool-golangci-lint tool-buf tool-protoc-gen-go tool-protoc-gen-go-vtproto
tool-golangci-lint:
	$(call tool,golangci-lint,github.com/golangci/golangci-lint/v2,$(GOLANGCI_LINT_VERSION),github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
tool-buf:
	$(call tool,buf,github.com/bufbuild/buf,$(BUF_VERSION),github.com/bufbuild/buf/cmd/buf)
tool-protoc-gen-go:
	$(call tool,protoc-gen-go,google.golang.org/protobuf,$(PROTOC_GEN_GO_VERSION),google.golang.org/protobuf/cmd/protoc-gen-go)
tool-protoc-gen-go-vtproto:
	$(call tool,protoc-gen-go-vtproto,github.com/planetscale/vtprotobuf,$(VTPROTOBUF_VERSION),github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto)
