.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
BENCH ?=
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test check bench bench-peers bench-robust bench-robust-oracle bench-scale bench-private \
  bench-secagg bench-fairness bench-hardening bench-overhead blob-faults fuzz faults soak reorgs kill-matrix behaviours \
  contracts contracts-slow lock setup setup-dev clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-16s %s\n", $$1, $$2}'

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	touch $@

contracts/node_modules/.installed: contracts/package.json contracts/package-lock.json
	# Not "npm ci": it insists on the packages of every platform, and not every registry has them all.
	cd contracts && npm install --silent --no-save --no-audit --no-fund
	touch $@

setup: $(VENV)/.runtime ## Install what running needs into .venv/
setup-dev: $(VENV)/.dev contracts/node_modules/.installed ## Install what developing needs

demo: setup ## A whole paid federation on this machine, offline
	$(BIN)/galaxy demo

test: setup-dev ## Every test: contracts (forge) and Python
	$(MAKE) -C contracts test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: setup-dev ## Lint, types, layers, freshness of artifacts
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/contracts/test_abi_freshness.py

# The peers' environments: each takes torch as the TORCH variable says, and nothing of ours.
benchmarks/.venv-%/.installed: benchmarks/peers/requirements-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< '$(TORCH)'
	touch $@

# Without dependencies: torchvision and seaborn are not used.
benchmarks/.venv-byzfl/.installed: benchmarks/robust/requirements-byzfl.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	touch $@

bench-peers: setup benchmarks/.venv-flower/.installed benchmarks/.venv-pfl/.installed ## Compare with Flower, pfl-research and plain PyTorch (BENCH=--quick)
	$(BIN)/python -m benchmarks.peers $(BENCH)
	$(BIN)/python -m benchmarks.render

bench-secagg: setup benchmarks/.venv-flower/.installed ## Measure masked mode: cost beside SecAgg+, exactness, leakage (BENCH=--quick)
	$(BIN)/python -m benchmarks.secagg $(BENCH)

bench-scale: setup ## Measure growing numbers of owners, parameters and coalitions (BENCH=--quick)
	$(BIN)/python -m benchmarks.scale $(BENCH)
	$(BIN)/python -m benchmarks.render

bench-private: setup ## What differential privacy costs: accuracy beside epsilon, a few minutes (BENCH=--quick)
	$(BIN)/python -m benchmarks.private $(BENCH)

bench-robust: setup ## The worst attack on each rule, IID and not, 20 to 40 % attackers (BENCH=--quick)
	$(BIN)/python -m benchmarks.robust $(BENCH)

bench-robust-oracle: setup benchmarks/.venv-byzfl/.installed benchmarks/.venv-flower/.installed ## Robust rules beside byzfl's and Flower's
	$(BIN)/python -m benchmarks.robust.oracle

bench-fairness: setup ## Who is paid what when one data owner does not play fair (BENCH="--seeds 1 --twin-seeds 5")
	$(BIN)/python -m benchmarks.fairness $(BENCH)

bench-hardening: setup ## What hardening costs and does on tables (BENCH="--seeds N")
	$(BIN)/python -m benchmarks.hardening $(BENCH)

reorgs: setup-dev ## Whole jobs on a chain that takes blocks back (BENCH="--budget-minutes N --seed S --quick")
	$(BIN)/python -m benchmarks.reorgs $(BENCH)

blob-faults: setup-dev ## Lost, flipped, truncated, swapped and late blobs in every kind of store (BENCH=--quick)
	$(BIN)/python -m benchmarks.blob_faults $(BENCH)

fuzz: setup ## Millions of bad inputs to every parser, a few core-minutes (BENCH="--budget-minutes N --seed S --quick")
	$(BIN)/python -m benchmarks.fuzz $(BENCH)

faults: setup ## Whole jobs under simulated faults, half an hour (BENCH="--budget-minutes N --replay SEED")
	$(BIN)/python -m benchmarks.faults $(BENCH)

kill-matrix: setup ## SIGKILL at every step of every actor, restart, same outcome (BENCH="--budget-minutes 5 --seed 7", --quick)
	$(BIN)/python -m benchmarks.kills $(BENCH)

soak: setup ## Twenty long-lived nodes, six of them misbehaving, serve a hundred jobs (BENCH="--jobs N --seed S --quick")
	$(BIN)/python -m benchmarks.soak $(BENCH)

bench-overhead: setup ## What the protocol costs beside bare training: time, and bytes of a data owner (BENCH=--quick)
	$(BIN)/python -m benchmarks.overhead $(BENCH)
	$(BIN)/python -m benchmarks.render

behaviours: setup ## Every behaviour at 200 data owners and 30 rounds
	$(BIN)/python benchmarks/behaviours.py

bench: setup ## Time the demo and its parts
	$(BIN)/python benchmarks/demo.py

contracts: setup-dev ## Build the contracts, write ABI and bytecode, test, coverage, gas
	$(MAKE) -C contracts build test coverage
	$(BIN)/python -m pytest tests/contracts

contracts-slow: setup-dev ## Long invariant runs and slither
	$(MAKE) -C contracts invariants-long slither

lock: ## Renew the dependency locks (needs uv)
	for f in runtime dev; do uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --upgrade -o requirements/$$f.lock requirements/$$f.in; done

clean: ## Remove what was installed and built
	rm -rf $(VENV) .venv-slither benchmarks/.venv-* benchmarks/.cache contracts/node_modules contracts/out contracts/cache build .galaxy
