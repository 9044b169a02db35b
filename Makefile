# Every command of the project; `make` lists them. PYTHON chooses the interpreter of the environment in .venv.

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
STEP := scripts/step
MATURIN := env -u CONDA_PREFIX VIRTUAL_ENV=$(abspath $(VENV)) PATH="$(abspath $(BIN)):$(PATH)" $(BIN)/maturin
EXTENSION := $(BIN)/python scripts/extension.py
# One process for each CPU. The tests of a file share servers.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile
# GNU make of some systems is 3.81: no multi-target patterns, no .ONESHELL.
PYTHON_SOURCES := python tests examples scripts benchmarks
# The tests start hundreds of servers. Without bytecode, each would compile the package first.
unexport PYTHONDONTWRITEBYTECODE
# For workspaces beside the main one: what they share with it is compiled once.
BESIDE := --locked --target-dir target --manifest-path

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check dev fast extension optimised build fmt format-check spelling lint docs deny types test-rust \
        test-python test-all compat bench stress fuzz protos protos-check changelog lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---- what most people need

run: extension $(STAMPS)/demo ## Set up, and serve the demo models on ports 8500 and 8501
	@exec $(BIN)/python scripts/run_demo.py .demo

test: test-rust test-python ## Set up, and run the Rust and the Python tests

check: format-check spelling lint types docs protos-check test ## What CI runs: format, lint, types, documentation, generated code, tests

# ---- the single steps

dev: optimised ## Set up a contributor's environment in .venv, without running anything

fast: $(STAMPS)/metadata ## Build the extension in seconds, to try a change; bench, stress and compat build the real one
	@$(EXTENSION) check 2>/dev/null || \
	    $(STEP) "Building the extension quickly" $(EXTENSION) build fast $(MATURIN) develop --profile fast

build: $(STAMPS)/requirements ## Build a wheel into dist/
	@$(STEP) "Building the wheel" env SERVABLE_COMMIT="$$(git rev-parse --short=10 HEAD 2>/dev/null)" \
	    $(MATURIN) build --release --out dist
	@ls -1 dist/*.whl

fmt: $(STAMPS)/requirements ## Format Rust and Python
	cargo fmt --all
	$(BIN)/ruff format $(PYTHON_SOURCES)
	$(BIN)/ruff check --fix-only --quiet $(PYTHON_SOURCES)

format-check: $(STAMPS)/requirements
	@$(STEP) "Checking the format of Rust" cargo fmt --all --check
	@$(STEP) "Checking the format of Python" $(BIN)/ruff format --diff $(PYTHON_SOURCES)

lint: $(STAMPS)/requirements ## Clippy and ruff; whether benchmarks and fuzz targets still compile
	@$(STEP) "Linting Rust" cargo clippy --workspace --all-targets --locked -- -D warnings
	@$(STEP) "Compiling the benchmarks" cargo check $(BESIDE) benchmarks/serving/Cargo.toml
	@$(STEP) "Compiling the fuzz targets" cargo check $(BESIDE) fuzz/Cargo.toml --no-default-features
	@$(STEP) "Linting Python" $(BIN)/ruff check $(PYTHON_SOURCES)

spelling: $(STAMPS)/requirements
	@$(STEP) "Checking the spelling" $(BIN)/typos

docs: ## The documentation of the Rust crates, in target/doc; broken links fail
	@$(STEP) "Documenting Rust" env RUSTDOCFLAGS="-D warnings" \
	    cargo doc --workspace --no-deps --locked --document-private-items

deny: ## Licences, sources and versions of the crates that we depend on; needs cargo-deny
	cargo deny --workspace --locked check bans licenses sources

types: extension ## mypy, and whether _core.pyi tells the truth about the extension
	@$(STEP) "Checking types" $(BIN)/mypy
	@$(STEP) "Comparing the stub with the extension" $(BIN)/stubtest servable._core

test-rust: $(STAMPS)/runtime-models $(VENV)/parsed-examples.jsonl ## Only the Rust tests
	@$(STEP) "Testing Rust" scripts/test-rust $(VENV)/runtime-models $(VENV)/parsed-examples.jsonl

test-python: extension $(STAMPS)/clients ## Only the Python tests
	$(PYTEST)

test-all: test-rust extension $(STAMPS)/clients $(STAMPS)/operations $(STAMPS)/frameworks ## Every test, the slow ones and the chaos included
	$(PYTEST) -m "not gpu"

compat: optimised ## Compare with TensorFlow Serving; or CASES=file RECORDINGS='file ...' SERVER=command
	@$(BIN)/python tests/compat/run.py $(if $(CASES),--cases "$(CASES)") \
	    $(if $(RECORDINGS),--recordings $(RECORDINGS)) $(if $(SERVER),--server "$(SERVER)")

bench: optimised $(STAMPS)/comparisons ## Measure the server, as ratios; QUICK=1 takes about eight minutes
	@$(BIN)/python benchmarks/serving/run.py $(if $(QUICK),--quick)

stress: optimised ## Change, swap and load models for half an hour; QUICK=1 takes a few minutes
	@failed=0; \
	for program in "swaps.py$(if $(QUICK), --swaps=12)" "many_models.py$(if $(QUICK), --models=200)" \
	        "load_unload.py$(if $(QUICK), --cycles=50)" "chaos.py$(if $(QUICK), --seconds=60)"; do \
	    echo "== $$program"; $(BIN)/python benchmarks/stress/$$program || failed=1; \
	done; exit $$failed

fuzz: extension ## Fuzz every parser for FUZZ_SECONDS=60 each, or only TARGET; needs cargo-fuzz
	@PYTHON=$(BIN)/python scripts/fuzz "$(TARGET)" "$(FUZZ_SECONDS)"

protos: ## Generate the protocol code anew from protos/
	cargo run --quiet --locked --target-dir target/protos --manifest-path protos/generate/Cargo.toml

protos-check:
	@$(STEP) "Comparing the generated protocol code" \
	    cargo run --quiet --locked --target-dir target/protos --manifest-path protos/generate/Cargo.toml -- --check

changelog: $(STAMPS)/requirements ## Print what changelog.d adds to CHANGELOG.md
	@$(BIN)/towncrier build --draft --version next

lock: $(STAMPS)/requirements ## Resolve the lock files of requirements anew
	$(BIN)/python scripts/lock_requirements.py

clean: ## Remove everything that was built: environment, extension, demo models
	rm -rf $(VENV) .demo dist target fuzz/target python/servable/*.so .pytest_cache .mypy_cache .ruff_cache

# ---- the environment, remade where what it is made from has changed

$(STAMPS)/environment:
	@scripts/check-tools "$(PYTHON)"
	@$(STEP) "Creating $(VENV)" "$(PYTHON)" -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/requirements: requirements-dev.lock $(STAMPS)/environment
	@$(STEP) "Installing TensorFlow and the tools" $(BIN)/python -m pip install --no-deps -r requirements-dev.lock
	@touch $@

# What the clients of other projects require conflicts with what we do, so they are kept apart.
$(STAMPS)/clients: requirements-clients.lock $(STAMPS)/environment
	@$(STEP) "Creating $(VENV)/clients" $(BIN)/python -m venv --clear $(VENV)/clients
	@$(STEP) "Installing clients of other projects" \
	    $(VENV)/clients/bin/python -m pip install --no-deps -r requirements-clients.lock
	@touch $@

# Large, and needed by slow tests only, which name the directory in PYTHONPATH.
$(STAMPS)/operations: requirements-operations.lock $(STAMPS)/requirements
	@rm -rf $(VENV)/operations
	@$(STEP) "Installing tensorflow-text and large packages" \
	    $(BIN)/python -m pip install --no-deps --target $(VENV)/operations -r requirements-operations.lock
	@touch $@

# Likewise, for the tests of `servable.save`.
$(STAMPS)/frameworks: requirements-frameworks.lock $(STAMPS)/requirements
	@rm -rf $(VENV)/frameworks
	@$(STEP) "Installing CatBoost, JAX, MLflow, PyTorch and skops" \
	    $(BIN)/python -m pip install --no-deps --target $(VENV)/frameworks -r requirements-frameworks.lock
	@touch $@

# What benchmarks compare the server with.
$(STAMPS)/comparisons: requirements-comparisons.lock $(STAMPS)/requirements
	@rm -rf $(VENV)/comparisons
	@$(STEP) "Installing FastAPI" \
	    $(BIN)/python -m pip install --no-deps --target $(VENV)/comparisons -r requirements-comparisons.lock
	@touch $@

# What an installed package says of itself, such as its commands, comes from pyproject.toml.
$(STAMPS)/metadata: pyproject.toml $(STAMPS)/requirements
	@rm -f $(VENV)/extension.json
	@touch $@

# An extension that belongs to the sources, of any profile.
extension: $(STAMPS)/metadata
	@$(EXTENSION) check 2>/dev/null || $(MAKE) --no-print-directory optimised

# One that figures may be taken from.
optimised: $(STAMPS)/metadata
	@$(EXTENSION) check --release 2>/dev/null || { scripts/check-tools "$(BIN)/python" && \
	    $(STEP) "Building the extension" $(EXTENSION) build release $(MATURIN) develop --release; }

$(STAMPS)/demo: examples/demo_models/export.py $(STAMPS)/requirements
	@$(STEP) "Exporting the demo models" $(BIN)/python examples/demo_models/export.py .demo turtle3 turtle5
	@touch $@

$(STAMPS)/runtime-models: tests/testdata/export_runtime_models.py $(STAMPS)/requirements
	@$(STEP) "Exporting models for the tests" $(BIN)/python $< $(VENV)/runtime-models
	@touch $@

$(VENV)/parsed-examples.jsonl: tests/testdata/parse_examples.py $(STAMPS)/requirements
	@$(STEP) "Parsing examples for the tests" $(BIN)/python $< $@
