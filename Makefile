# `make demo` and `make test` do all the set-up. They build as the calling user and raise privilege for one binary.

CARGO  ?= cargo
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
# Empty for root; otherwise said out loud before it is used.
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help demo test lint unit lab bench bench-change bench-cluster bench-plan bench-lint scenarios soak bpf bpf-check fuzz fuzz-packets image manifests clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: ## A rolling update under load in network namespaces on this machine; report in target/demo/report.json
	@scripts/setup.sh demo
	$(CARGO) build --release --locked
	@mkdir -p target/demo && : > target/demo/report.json
	@scripts/privileged.sh $(TARGET)/release/evenkeel demo --report target/demo/report.json

test: ## Everything CI runs: lints, unit tests as this user, then the lab tests as root
	@scripts/setup.sh test
	$(MAKE) --no-print-directory lint unit bpf-check lab

lint: ## Format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --exclude evenkeel-programs --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --exclude evenkeel-programs --no-deps --locked --quiet

unit: ## Tests that need no privilege
	$(CARGO) nextest run --workspace --exclude evenkeel-programs --exclude evenkeel-lab-tests --locked
	$(CARGO) test --workspace --exclude evenkeel-programs --exclude evenkeel-lab-tests --doc --locked --quiet

lab: ## Tests of the real binary and the real eBPF object, in network namespaces; needs root
	$(CARGO) build --locked
	$(CARGO) test --no-run --locked --package evenkeel-lab-tests --test lab
	@scripts/privileged.sh $$(scripts/test-binary.sh evenkeel-lab-tests lab) $(LAB)

bench: ## Benchmarks of the data plane (12 minutes; needs the eBPF toolchain); BENCH="steady --seconds 20" for a single one
	@scripts/setup.sh bench
	$(CARGO) build --release --locked --package evenkeel --package xtask
	@$(TARGET)/release/xtask bpf --harness >/dev/null
	@scripts/privileged.sh $(TARGET)/release/xtask bench $(or $(BENCH),all)

bench-cluster: ## The chart's controller and agents in namespaces (a quarter of an hour; needs root): ROUNDS (30) services come and go, the API is away for OUTAGE (60) seconds twice, SERVICES (1000) at once
	@scripts/setup.sh test
	$(CARGO) build --release --locked
	$(CARGO) test --no-run --locked --package evenkeel-lab-tests --test lab
	@for measure in a_service_comes an_outage many_services; do \
	  EVENKEEL_BIN=$(abspath $(TARGET))/release/evenkeel ROUNDS=$(or $(ROUNDS),30) OUTAGE=$(or $(OUTAGE),60) SERVICES=$(or $(SERVICES),1000) \
	    scripts/privileged.sh $$(scripts/test-binary.sh evenkeel-lab-tests lab) installed::$$measure || exit; done

bench-change: ## How long changes of endpoints take from file or watch to the maps, 100 a second (needs root): CHANGES (3000) beside SERVICES (5000) with ten endpoints each
	@scripts/setup.sh test
	$(CARGO) build --release --locked
	$(CARGO) test --no-run --locked --package evenkeel-lab-tests --test lab
	@for source in files the_api; do \
	  EVENKEEL_BIN=$(abspath $(TARGET))/release/evenkeel SERVICES=$(or $(SERVICES),5000) CHANGES=$(or $(CHANGES),3000) \
	    scripts/privileged.sh $$(scripts/test-binary.sh evenkeel-lab-tests lab) --nocapture changes::by_$$source || exit; done

scenarios: ## Faults under load, with peers (20 minutes; report in target/scenarios/report.json); SCENARIO=S2 for one, SOAK=1 at length
	@scripts/setup.sh scenarios
	$(CARGO) build --release --locked --package evenkeel --package xtask
	@mkdir -p $(TARGET)/scenarios && : > $(TARGET)/scenarios/report.json
	@scripts/privileged.sh $(TARGET)/release/xtask scenarios $(SCENARIO)

bench-plan: ## How long decisions take on large Worlds; needs no privilege
	$(CARGO) bench --locked --package evenkeel-plan

bench-lint: ## How long 5,000 manifests take; needs no privilege
	$(CARGO) bench --locked --package evenkeel-lint

bpf: ## Build the eBPF object and put it into the tree (needs its toolchain)
	@scripts/setup.sh bpf
	$(CARGO) xtask bpf

bpf-check: ## The committed eBPF object is what its sources give
	$(CARGO) xtask bpf --check

fuzz: ## Fuzz every parser of outside bytes, TIME seconds each (needs rustup's nightly)
	@scripts/setup.sh fuzz
	scripts/fuzz.sh $(or $(TIME),60)

fuzz-packets: ## Run any packet at all through the real eBPF object: PACKETS (10 million) in at most TIME (600) seconds; needs root
	$(CARGO) build --release --locked --package xtask
	@scripts/privileged.sh $(TARGET)/release/xtask fuzz-packets --packets $(or $(PACKETS),10000000) --seconds $(or $(TIME),600)

soak: ## Flows through the real eBPF object while endpoints come and go: FLOWS (10 million), CHANGES (100 thousand); needs root
	$(CARGO) build --release --locked --package xtask
	@scripts/privileged.sh $(TARGET)/release/xtask soak --flows $(or $(FLOWS),10000000) --changes $(or $(CHANGES),100000)

image: ## An OCI image archive of the static binary, without Docker: target/image/evenkeel.oci.tar
	RUSTFLAGS="-C target-feature=+crt-static -C strip=debuginfo --remap-path-prefix=$$PWD=/evenkeel --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo" \
	  $(CARGO) build --release --locked --target x86_64-unknown-linux-gnu --package evenkeel
	$(CARGO) xtask image --binary $(TARGET)/x86_64-unknown-linux-gnu/release/evenkeel

manifests: ## Write the definitions in the chart, and the plain manifests rendered from it (needs helm)
	$(CARGO) build --locked
	scripts/manifests.sh

clean: ## Remove what was built
	$(CARGO) clean
