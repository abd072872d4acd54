# Two commands: `make demo` and `make test`. Both install what they need, at the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= train,demo,prepare,languages,wandb,deepspeed,dev
# More arguments for pip, for example an index with CPU builds: PIP_ARGS="--extra-index-url https://..."
PIP_ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# One thread a process: two test workers share two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo test test-faults lint format types
.DEFAULT_GOAL := help

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## make .venv and install songgen and all it needs

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and exactly: a range would take a build with gigabytes of CUDA where a CPU build is at hand.
	$(PIP) install $(PIP_ARGS) -c constraints.txt $(TORCH)
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

demo: $(STAMP) ## songs, tokens, every stage, generated songs: outputs/demo/index.html
	$(BIN)/python helpers/demo/run_demo.py

test: $(STAMP) ## the tests, in less than ten minutes on two cores
	$(PYTEST) -n $(WORKERS) --dist loadfile -m "not faults"

test-faults: $(STAMP) ## every fault case of docs/trust.md, with a table
	$(PYTEST) tests/faults -n $(WORKERS) --dist loadfile -m "not gpu"

lint: $(STAMP) ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

format: $(STAMP) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy
	$(BIN)/mypy
