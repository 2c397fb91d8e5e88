# Every target sets up what it needs, and is quick when that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= normalization_scaling
# null: as many as there are processors.
WORKERS ?= null
# torchmetrics imports transformers wherever it is installed, which adds seconds to the start of every process. So it
# lies in a folder of its own, for the tests of text encoders.
TEXT := $(VENV)/text
HOST ?= 127.0.0.1
PORT ?= 5000

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help setup study test test-fast lint docs ui bench clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(VENV)/.installed  ## create .venv and install everything, pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $(TEXT) transformers tokenizers typer shellingham
	touch $@

study: setup  ## run a study (STUDY=normalization_scaling, on all processors) and draw its figures
	$(BIN)/lina run study=$(STUDY) workers=$(WORKERS)
	$(BIN)/lina plots study=$(STUDY)
	@echo
	@echo "report:  reports/$(STUDY)/report.md, with its figures and tables"
	@echo "cells:   runs/$(STUDY)/, one folder each"
	@echo "compare: make ui, then http://$(HOST):$(PORT)"

test: setup  ## run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25
	PYTHONPATH=$(CURDIR)/$(TEXT) $(BIN)/python -m pytest -n 2 tests/data/test_text.py tests/util/test_compat.py

test-fast: setup  ## run the tests that start no processes of their own and simulate no studies
	$(BIN)/python -m pytest -n 2 -m "not system and not simulation"
	PYTHONPATH=$(CURDIR)/$(TEXT) $(BIN)/python -m pytest -n 2 tests/data/test_text.py tests/util/test_compat.py

lint: setup  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## build the documentation into site/; a broken link or API name ends it
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

ui: setup  ## open MLflow's UI on the run store
	$(BIN)/lina ui host=$(HOST) port=$(PORT)

bench: setup  ## measure attention, several ranks, the study layer, shards, the report, and a cell outside Trainer.fit
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/attention_figures.py
	$(BIN)/python benchmarks/study.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/report.py
	@folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && $(BIN)/lina run study=$(STUDY) \
	  paths.runs=$$folder trainer.max_images=320 trainer.val_every_images=320 seed=0

clean:  ## remove .venv and caches; runs and reports stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
