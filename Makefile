# Everything runs in .venv, which is made when a target first needs it. `make help` lists the targets.

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
OPENED := /lab/tree/notebooks/your_network.ipynb
PYTEST := pytest --nbval --numprocesses=2
# Content decides whether .venv is up to date, never times: copies of what it was made from lie inside it, with the
# folder's own path, because scripts in a virtual environment name it. They are written last.
MADE_FROM := { pwd -P; cat requirements.lock; }
LOCK_STAMP := $(VENV)/made-from-lock
PROJECT_STAMP := $(VENV)/made-from-pyproject
# Lies there while pip works. If it is still there afterwards, a set-up broke off and nothing in .venv can be trusted.
UNFINISHED := $(VENV)/unfinished

.DEFAULT_GOAL := help
.PHONY: help book lab test test-all coverage pdf bench quick lint format lock address clean setup environment python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

book: setup ## execute the notebooks that are stale, then compile the report into _build/html
	$(BIN)/mnist-lib run
	$(BIN)/mnist-lib book

lab: setup ## open copies of the notebooks in JupyterLab: lab/ is yours, and what you change there is kept
	@mkdir -p lab/notebooks lab/book && cp book/*.md lab/book
	@for page in notebooks/*.ipynb; do test -e "lab/$$page" || cp "$$page" lab/notebooks; done
	env -u JUPYTER_PATH $(BIN)/jupyter-lab --notebook-dir=lab --LabApp.default_url=$(OPENED) $(LAB)

test: setup ## run all tests but the slow ones
	$(BIN)/python -m $(PYTEST)

test-all: setup ## run all tests, the slow ones too
	$(BIN)/python -m $(PYTEST) -m "slow or not slow"

coverage: setup ## run the tests of `make test`; which lines and branches of the library do they reach?
	rm -rf _build/coverage && mkdir -p _build/coverage
	$(BIN)/coverage run -m $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

pdf: setup ## the whole book as one PDF, printed by Chromium; the book in _build/html then offers it
	$(BIN)/mnist-lib run
	$(BIN)/mnist-lib pdf

bench: setup ## measure again what the pages say about speed (half an hour, on a machine that does nothing else)
	$(BIN)/python benchmarks/commands.py
	$(BIN)/python benchmarks/step_variants.py
	$(BIN)/python benchmarks/without_bfloat16.py
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/fastest_recipe.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/bit_identity.py

quick: setup ## the whole report live on the embedded digits, into _build/quick (minutes, no download)
	$(BIN)/mnist-lib quick
	$(BIN)/mnist-lib book --quick

lint: setup ## check the code and the notebooks with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## format the code and the notebooks with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: python ## bring requirements.lock in line with pyproject.toml (UPGRADE=--upgrade: newest versions)
	$(PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip --disable-pip-version-check install uv
	_build/lock/bin/uv pip compile --universal --all-extras --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --quiet $(UPGRADE) pyproject.toml --output-file requirements.lock

address: setup ## copy the repository's address from pyproject.toml to the files that spell it out
	$(BIN)/python -m mnist_lib.site.address

clean: ## delete what was built (.venv stays; delete it to set up anew)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

setup: ## make or update .venv; the other targets do this themselves
	@test ! -e $(UNFINISHED) && test -x $(BIN)/python && $(MADE_FROM) | cmp -s - $(LOCK_STAMP) 2>/dev/null \
		|| $(MAKE) --no-print-directory environment
	@cmp -s pyproject.toml $(PROJECT_STAMP) 2>/dev/null || { \
		$(PIP) install --no-deps --no-build-isolation --editable . && cp pyproject.toml $(PROJECT_STAMP); }

# A finished .venv is updated in place; one that broke off, was moved or lost its Python is made anew.
environment: python
	@if test -e $(UNFINISHED) || ! test -x $(BIN)/python \
		|| { test -e $(LOCK_STAMP) && test "$$(head -n 1 $(LOCK_STAMP))" != "$$(pwd -P)"; }; then \
		echo "Setting up $(VENV): a few minutes, once."; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV); \
	fi
	@touch $(UNFINISHED)
	$(PIP) install --require-hashes --requirement requirements.lock
	@$(MADE_FROM) > $(LOCK_STAMP) && rm $(UNFINISHED)

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
