# Two commands matter: `make run` and `make test`. Each sets up everything it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
MACHINE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
LOCK := requirements-$(MACHINE).lock
READY := $(VENV)/.ready-$(MACHINE)

.PHONY: run test docs lint proof bench gpu numbers schema setup clean help

run: setup  ## three SPPO rounds on the toy world
	@$(BIN)/alignflow run sppo

test: setup lint  ## everything that CI checks
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not slow" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

docs: setup  ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict && echo "site/index.html"

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

proof: setup  ## the longer proofs, losses beside TRL's among them; docs/proofs.md has their last results
	@$(BIN)/python -m pip install --quiet --no-deps trl==1.16.0
	@$(BIN)/python -m pip install --quiet lm-eval==0.4.13
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m slow

bench: setup  ## ratios against peers, in one run
	@$(BIN)/python -m pip install --quiet --no-deps trl==1.16.0
	@$(BIN)/python -m benchmarks.training
	@$(BIN)/python -m benchmarks.tables
	@$(BIN)/python -m benchmarks.sampling
	@$(BIN)/python -m benchmarks.oracles
	@$(BIN)/python -m benchmarks.answers
	@$(BIN)/python -m benchmarks.judging
	@$(BIN)/python -m benchmarks.reinforcing
	@$(BIN)/python -m benchmarks.coverage

gpu:  ## what one GPU does, in at most 8 minutes; needs torch, transformers, accelerate, peft and pyarrow, no network
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu

numbers: setup  ## the README's expected numbers, over three seeds (half an hour)
	@$(BIN)/python -m benchmarks.seeds

schema: setup  ## write pipelines.schema.json anew, after a change to a task's signature
	@$(BIN)/alignflow schema > pipelines.schema.json

setup: $(READY)  ## the environment alone

$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "alignflow needs Python 3.11 or newer; say which with PYTHON=…")'
	@echo "Setting up $(VENV) from $(LOCK): about 3 minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^torch==' $(LOCK))" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	     --index-url https://download.pytorch.org/whl/$(if $(filter cpu,$(MACHINE)),cpu,cu130) "$$(grep '^torch==' $(LOCK))"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m flows.run.prefect.server prepare
	@$(BIN)/python -m flows.reporting.sinks.mlflow_database
	@touch $@

clean:  ## forget the environment and everything that runs produced
	rm -rf $(VENV) *.egg-info
	find artifacts -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'
