# Everything a contributor runs. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_KBPS ?= 6
TEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo format lint type test test-slow tables constraints clean museum

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup: $(STAMP)  ## create .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "error: $(PYTHON) is Python %d.%d; telucodec needs 3.11 or newer: make PYTHON=python3.12 setup" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[eval]' \
		|| echo "note: pesq could not be built (it needs a C compiler); PESQ-WB will be shown as missing" >&2
	@touch $@

demo: setup  ## encode the clips of data/, decode them to out/demo/, print the figures
	$(BIN)/telucodec eval data/clips --kbps $(DEMO_KBPS) --keep out/demo --overwrite

museum: setup  ## re-create known training failures; the doctor must name each (minutes)
	$(BIN)/python benchmarks/museum.py

format: setup  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## static types
	$(BIN)/mypy

test: setup  ## lint, types and tests: what CI runs
	@$(MAKE) --no-print-directory -j2 checks pytest

.PHONY: checks pytest
checks: lint type
pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_JOBS)

test-slow: setup  ## the tests that take minutes
	$(BIN)/pytest -m slow

tables: setup  ## rewrite the tables of the README and the model card; ROWS=eval.jsonl stores new figures first
	$(BIN)/python benchmarks/quality_table.py $(if $(ROWS),--rows $(ROWS))

constraints: setup  ## rewrite constraints.txt from what is installed
	@{ echo "# Exact versions of every dependency; written by 'make constraints'."; \
	   echo "# The CUDA libraries are left out: the torch wheel pins its own."; \
	   $(PIP) freeze --exclude-editable | grep -vE '^(nvidia-|cuda-|triton)' | sed -E 's/\+[a-z0-9.]+$$//'; } > constraints.tmp
	@mv constraints.tmp constraints.txt

clean:  ## remove the environment, caches and results
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache
