# Every target makes what it needs, `.venv` first. PYTHON names the interpreter for that: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint types lab soak bench clean

help:
	@echo 'make demo    hand a file over, then let three daemons pair, replicate, lose one and heal'
	@echo 'make test    all tests but those below'
	@echo 'make lint    ruff: rules and format'
	@echo 'make types   mypy'
	@echo 'make lab     tests with hosts in network namespaces (Linux, root)'
	@echo 'make soak    tests with GiB-sized payloads, or minutes long'
	@echo 'make bench   benchmarks, each beside something known'
	@echo 'make clean   remove .venv and caches'

# `.venv/.base` says that what the program needs is there, `.venv/.all` that what its tests need is too. Nothing is
# fetched again while they are newer than pyproject.toml, so that all targets work without a network from then on.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'Python 3.11 or newer is needed, and $(PYTHON) is not that ($(or $(shell $(PYTHON) --version 2>/dev/null),not found)).' \
	    'Name another: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@test -x $(BIN)/pip || { echo 'Making $(VENV)'; $(PYTHON) -m venv $(VENV); }
endef
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --editable

$(VENV)/.base: pyproject.toml
	$(make_venv)
	$(PIP_INSTALL) .
	@touch $@

$(VENV)/.all: pyproject.toml
	$(make_venv)
	$(PIP_INSTALL) '.[test,lint]'
	@touch $(VENV)/.base $@

# What two tests of the MCP face need of npm. Without it, or without a network, they are skipped and say so; in CI they fail.
$(VENV)/npm/.done: tests/npm/package-lock.json $(VENV)/.all
	@if command -v npm >/dev/null; then \
	  mkdir -p $(VENV)/npm && cp tests/npm/package.json tests/npm/package-lock.json $(VENV)/npm/ && \
	  (cd $(VENV)/npm && npm ci --silent --no-audit --no-fund --ignore-scripts) && touch $@ || \
	  echo 'npm could not install what is in tests/npm.' >&2; \
	else echo 'There is no npm here.' >&2; fi

demo: $(VENV)/.base
	@$(BIN)/python examples/demo.py
	@$(BIN)/tether demo

test: $(VENV)/.all $(VENV)/npm/.done
	$(BIN)/pytest -rs -n 2 --dist loadgroup -m 'not soak' --ignore tests/lab --ignore tests/bench

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.all
	$(BIN)/mypy

lab: $(VENV)/.all
	$(BIN)/pytest -rs -m 'not soak' tests/lab

soak: $(VENV)/.all
	$(BIN)/pytest -m soak

bench: $(VENV)/.all
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
