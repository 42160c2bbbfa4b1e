# Two commands matter: `make demo` shows a pair surviving its faults, `make test` proves the tree good.
# Both install what they need (Debian, Ubuntu) and say so. `make help` lists the rest.

CARGO ?= cargo
LBNODE_RELEASE := $(or $(CARGO_TARGET_DIR),target)/release/lbnode
BENCH := $(or $(CARGO_TARGET_DIR),target)/release/bench
# Tools that cargo builds for us stay inside the checkout.
TOOLS := $(CURDIR)/target/tools

.PHONY: help demo build test test-all sim fmt clippy deny rules docs unit lab-tests numbers compare bench bench-quick differential audit

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' $(MAKEFILE_LIST)

demo:            ## build, then show two nodes sharing one VIP through every fault
	@.ci/setup build
	$(CARGO) build --release --locked -p node
	$(LBNODE_RELEASE) lab

build:           ## the release binary
	@.ci/setup build
	$(CARGO) build --release --locked -p node

test:            ## everything that has to hold before a commit lands (CI runs this)
	@.ci/setup test
	@$(MAKE) --no-print-directory fmt clippy deny rules docs unit lab-tests
	@echo "make test: all good"

test-all: test   ## make test, and what takes longer: soak, many seeds, the other stack
	@.ci/setup compare
	@.ci/setup browser
	LBNODE_LONG=1 $(CARGO) test --locked -p netns-tests --test pair -- --nocapture long_
	LBNODE_LONG=1 $(CARGO) test --locked -p tests --test http_real --test mail_real --test tls_real -- --nocapture long_
	@$(MAKE) --no-print-directory sim

sim:             ## the election and the hand-off under 20,000 seeds of loss, cuts, stalls and crashes
	SIM_SEEDS=20000 $(CARGO) test --release --locked -p vrrp --test simulation -- --nocapture
	SIM_SEEDS=20000 $(CARGO) test --locked -p node --test handoff_simulation -- --nocapture

numbers: build   ## the failover table of docs/failover.md, 20 runs of each scenario
	$(LBNODE_RELEASE) lab --repeat 20
	$(LBNODE_RELEASE) lab --repeat 20 --advert-interval 10ms

compare: build   ## the same with this machine's keepalived and haproxy
	@.ci/setup compare
	$(LBNODE_RELEASE) lab --repeat 20 --peer-stack

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny:            ## bans, licences and sources of everything that is linked in
	PATH="$(TOOLS)/bin:$$PATH" $(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources

audit:           ## security advisories; needs their database from the network
	PATH="$(TOOLS)/bin:$$PATH" $(CARGO) deny --locked check advisories

rules:           ## who may import whom, and what the pure halves may touch
	@.ci/import-rules

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet

unit:            ## all tests that need no network of their own, and the I/O tests of each crate
	$(CARGO) build --locked -p node
	$(CARGO) test --locked --workspace --exclude netns-tests

lab-tests:       ## real pairs in network namespaces
	@[ "$$(id -u)" = 0 ] || echo 'lab-tests: namespaces need root; these tests skip themselves'
	@echo 'lab-tests: the long ones (200 killed cores, ten minutes at 10 ms) are in make test-all'
	$(CARGO) build --locked -p node
	$(CARGO) test --locked -p netns-tests

bench: build     ## what a request costs beside haproxy and nginx: the table of docs/performance.md (half an hour)
	@.ci/setup bench
	$(CARGO) build --release --locked -p bench
	$(BENCH)

bench-quick: build  ## the same in under four minutes: shows that it works, and roughly where things stand
	@.ci/setup bench
	$(CARGO) build --release --locked -p bench
	$(BENCH) --quick

differential: ## ten thousand requests through lbnode and haproxy: every difference has a name (docs/differences.md)
	@.ci/setup test
	$(CARGO) build --locked -p node
	$(CARGO) test --locked -p tests --test differential -- --nocapture
