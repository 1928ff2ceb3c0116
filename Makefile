# Everything from a fresh checkout, with Python >= 3.10 and make alone: `make demo`, `make test`.
#
# Variables, on the command line or in the environment; the same ones each time, since a change builds .venv anew:
#   PYTHON     interpreter for .venv                     make test PYTHON=python3.12
#   TORCH      PyTorch to install                        make test TORCH="torch==2.6.0"
#   CPU_INDEX  PyTorch's index of CPU builds; asked only where there is no NVIDIA device

PYTHON ?= python3
TORCH ?= torch==2.13.0
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CHOICE := $(PYTHON) $(TORCH)
RECORD := $(VENV)/choice

# An environment that was made with another choice is made again; one made by hand is completed and never cleared.
ifneq ($(CHOICE),$(shell cat $(RECORD) 2>/dev/null))
.PHONY: $(VENV)/ready
CLEAR := $(if $(wildcard $(RECORD)),--clear)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/ready ## run examples/demo.py
	$(BIN)/python examples/demo.py

test: lint ## lint, type check and test suite
	$(BIN)/python -m pytest -q

lint: $(VENV)/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove caches and build products
	rm -rf dist demo-output .pytest_cache .mypy_cache .ruff_cache
	find . \( -path './$(VENV)' -o -path ./.git \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)

# PyTorch goes first and without its dependencies, so that the extra index is asked for one package only and an unreachable
# one costs a few seconds and a warning. The second install completes what is missing and leaves PyTorch as it is.
$(VENV)/ready: pyproject.toml
	@echo 'Setting up $(VENV) with $(TORCH). To choose another PyTorch: make $(MAKECMDGOALS) TORCH="torch==2.6.0"'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ase_xai needs Python 3.10 or newer: PYTHON=python3.12")'
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	$(PIP) install --quiet 'pip>=23'
	@if nvidia-smi -L 2>/dev/null | grep -q GPU; then index=; \
	else index='--extra-index-url $(CPU_INDEX) --retries 1 --timeout 10'; fi; set -x; \
	$(PIP) install --no-deps $$index '$(TORCH)'
	$(PIP) install --editable '.[test]'
	@echo '$(CHOICE)' > $(RECORD)
	@touch $@
