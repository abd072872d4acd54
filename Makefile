# Main targets: `make demo` and `make test`. Both install the requirements at the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= train,demo,flow,prepare,languages,wandb,deepspeed,8bit,dev
# More arguments for pip, for example an index with CPU builds: PIP_ARGS="--extra-index-url https://..."
PIP_ARGS ?=
# One more than the cores of a small machine: many tests wait for a process that ends.
WORKERS ?= 3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# One thread per process: two test workers share two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo demo-adapter demo-flow test test-faults lint format types
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## create .venv and install songgen with its requirements

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first, with an exact version: a range could select a CUDA build although a CPU build is available.
	$(PIP) install $(PIP_ARGS) -c constraints.txt $(TORCH)
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

demo: $(STAMP) ## build songs, tokenize, train every stage, generate: outputs/demo/index.html
	$(BIN)/python helpers/demo/run_demo.py

demo-adapter: demo ## after it, fine-tune its model to a new singer: outputs/demo/singer_adapter/comparison/index.html
	$(BIN)/python helpers/demo/run_adapter_demo.py

demo-flow: $(STAMP) ## train a small flow-matching model on a dozen songs, generate them: outputs/demo/flow/index.html
	$(BIN)/python helpers/demo/run_flow_demo.py

test: $(STAMP) ## run the tests, in less than ten minutes on two cores
	$(PYTEST) -n $(WORKERS) --dist loadfile -m "not faults"

test-faults: $(STAMP) ## run all fault cases of docs/trust.md, with a table, and the longest of the other tests
	$(PYTEST) tests/faults -n $(WORKERS) --dist loadfile -m "not gpu"
	$(PYTEST) tests/integration tests/unit -n $(WORKERS) --dist loadfile -m "faults and not gpu"

lint: $(STAMP) ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(STAMP) ## apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy
	$(BIN)/mypy
