# What a developer does with Eddy. Needs make and Python 3.11 or newer, nothing else; the broker
# tests also need Java 17 and Maven, and are skipped without. Everything that is fetched or created
# stays in dot folders beside this file.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
LOCK := deploy/requirements.lock

# A copied tree must not use the environment of the tree it was copied from: the stamp's name holds
# the path, since scripts and the editable install do.
STAMP := .venv/.eddy-$(shell pwd | cksum | cut -d' ' -f1)

# The first Python on PATH that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
NEEDS_PYTHON = test -n "$(PYTHON)" || { \
  echo "make: no Python 3.11 or newer on PATH; name one with PYTHON=..." >&2; exit 1; }

# uv from PATH; where there is none, the locked one, in an environment of its own.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .tools/uv/bin/uv)
OWN_UV := $(filter .tools/%,$(UV))

# uv takes the Python that is here, and keeps its cache here where the home folder is read-only.
export UV_PYTHON_DOWNLOADS := never
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export UV_CACHE_DIR := $(CURDIR)/.tools/cache
export PIP_CACHE_DIR := $(CURDIR)/.tools/cache/pip
endif

# Tests start hundreds of Python processes: what these compile is kept, but not beside the sources.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache
unexport PYTHONDONTWRITEBYTECODE

# The tests of a file go to one process, since they share what is dear to make; those on a broker mostly
# wait, so that there may be more processes than the two cores that Eddy is tested on. Before, one
# compiles what all of them need.
SPREAD := --dist loadfile --no-loadscope-reorder --numprocesses
COMPILED := $(BIN)/python -m tests.compile_kernels

.PHONY: help setup demo test check guarantees bench quality crash simulate coverage mutants docs kafka broker-jars lock clean

help: ## show this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)$$/  make \1\t\2/p' Makefile | expand -t 16

setup: $(STAMP) ## create .venv from the lock; does nothing when nothing changed

.tools/uv/bin/uv: $(LOCK)
	@$(NEEDS_PYTHON)
	@$(PYTHON) -m venv --clear .tools/uv
	@sed -n '/^uv==/,/# via/p' $(LOCK) > .tools/uv/uv.lock
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .tools/uv/uv.lock
	@touch $@

$(STAMP): $(LOCK) pyproject.toml | $(OWN_UV)
	@$(NEEDS_PYTHON)
	@test -x $(BIN)/python && test -z "$$(ls .venv/.eddy-* 2>/dev/null | grep -vxF '$(STAMP)')" || \
	  $(UV) venv --quiet --clear --python "$$(command -v $(PYTHON))" .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(LOCK)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "ready: $(BIN)/eddy, with $$($(BIN)/python --version)"

demo: setup ## a simulated shop with attackers in it: alerts here, then out/demo/index.html
	@$(BIN)/eddy demo

test: setup broker-jars ## the tests; those that need a broker are skipped without Java and Maven
	@$(COMPILED)
	@$(BIN)/python -m pytest -m "not long" $(SPREAD) 4

check: setup ## format, lint, types and the fast tests, in less than a minute
	@$(BIN)/ruff format --check --quiet || { echo "run: $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -m "not broker and not slow" $(SPREAD) auto

guarantees: setup broker-jars ## every test on a broker, those too that take long
	@$(COMPILED)
	@EDDY_REQUIRE_BROKER=1 $(BIN)/python -m pytest -m broker $(SPREAD) 3

bench: setup ## measure the speed of the main paths (AGAINST=folder: the engine beside another tree's)
	@$(BIN)/python -m tests.bench $(if $(AGAINST),engine --against $(AGAINST))

quality: setup ## how well models find labelled fraud beside simple bases; how honest p is (AGAINST=file)
	@$(BIN)/python -m tests.quality $(if $(AGAINST),--against $(AGAINST))

crash: setup broker-jars ## workers killed at every point and at random, against the oracle (SEEDS=40)
	@$(BIN)/python -m tests.crash $(if $(SEEDS),--seeds $(SEEDS))

coverage: setup ## lines and branches that the tests without a broker reach; kernels left out
	@mkdir -p .cache/coverage && rm -f .cache/coverage/data*
	@$(BIN)/python -m pytest -q -p tests.coverage_plugin -m "not broker and not slow" $(SPREAD) auto
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

mutants: setup ## small changes to the code, each of which some test must notice (SAMPLE=300, SEED=1)
	@$(BIN)/python -m tests.mutants $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

docs: setup ## build the documentation site: out/docs/index.html
	@$(BIN)/sphinx-build -q -W --keep-going -d .cache/docs deploy/docs out/docs
	@echo "out/docs/index.html"

simulate: setup ## workers on an in-memory broker, in simulated time, through random faults (SEEDS=1000)
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS))

kafka: setup ## a local broker in the foreground; its data stays in .kafka/data (PORT=9092)
	@echo "starting; stop it with Ctrl-C"
	@$(BIN)/python deploy/kafka/broker.py --port $(or $(PORT),9092) --data .kafka/data

# Exit code 3 says that Java or Maven is missing: then the tests say so and skip.
broker-jars: setup
	@$(BIN)/python deploy/kafka/broker.py --fetch || test $$? -eq 3

lock: $(OWN_UV) ## pin the dependencies anew in deploy/requirements.lock
	@$(UV) pip compile pyproject.toml --extra backtest --group dev --group docs --universal --fork-strategy fewest \
	  --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url --no-header \
	  --quiet -o $(LOCK)

clean: ## remove everything that make, the tests and the demo created
	@rm -rf .venv .tools .kafka .cache .hypothesis out dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
