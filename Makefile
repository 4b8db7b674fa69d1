# A fresh machine needs only python3.11 or newer and make: every target sets up what it uses, once.
PYTHON ?= python3
VENV ?= .venv
ORACLE_VENV ?= .venv-oracle
KERNEL_VENV ?= .venv-kernels
KERNEL_JAX = $(shell sed -n 's/^VERSION = (\(.*\), \(.*\)).*/\1.\2/p' saccade/kernels/__init__.py)
WORKERS ?= 2
DEMO_IMAGE ?= saccade/bundled/demo.png
DEMO_QUESTION ?= what size is the star that has the same material as the blue star?
BIN = $(VENV)/bin

.PHONY: setup check test test-oracle test-kernels demo bench clean

setup: $(VENV)/.dev

# Core only: what a user of the package installs.
$(VENV)/.core: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "saccade needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

# torch lives only here, so that a user's `make test` never downloads it.
$(ORACLE_VENV)/.oracle: pyproject.toml
	$(PYTHON) -m venv $(ORACLE_VENV)
	$(ORACLE_VENV)/bin/python -m pip install --quiet -e '.[dev,oracle]'
	touch $@

# The version of JAX that the GPU kernels were run with, whose interpreter runs them on a CPU.
$(KERNEL_VENV)/.dev: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 12) else "the kernels want Python 3.12 or newer, this is %d.%d: make test-kernels PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(KERNEL_VENV)
	$(KERNEL_VENV)/bin/python -m pip install --quiet -e '.[dev]' 'jax==$(KERNEL_JAX).*'
	touch $@

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(WORKERS) -m 'not oracle and not gpu and not slow'

test-oracle: $(ORACLE_VENV)/.oracle
	$(ORACLE_VENV)/bin/python -m pytest -q -n $(WORKERS) -m oracle

test-kernels: $(KERNEL_VENV)/.dev
	$(KERNEL_VENV)/bin/python -m pytest -q -n $(WORKERS) -m 'not gpu and not slow' tests/test_*kernel*.py

demo: $(VENV)/.core
	$(BIN)/saccade ask $(DEMO_IMAGE) "$(DEMO_QUESTION)" --explain

# In the oracle environment: one of them compares with transformers.
bench: $(ORACLE_VENV)/.oracle
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(ORACLE_VENV)/bin/python "$$script"; done
	$(ORACLE_VENV)/bin/python benchmarks/decode_speed.py --smollm2 --transformers --batch 1 8 --ways greedy

clean:
	rm -rf $(VENV) $(ORACLE_VENV) $(KERNEL_VENV) build dist
