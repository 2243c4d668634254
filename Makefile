# Everything a person needs: `make help` lists it.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test fast check format bench clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "qanat needs $(PYTHON) 3.11 or newer: install it, or say make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qanat needs Python 3.11 or newer; $(PYTHON) is older"; exit 1; }
	@echo "installing into $(VENV) (the first time only)"
	@test -x $(RUN)python || $(PYTHON) -m venv $(VENV)
	@$(RUN)python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## run the whole tunnel on this machine and send a request through it (ONCE=1: then stop)
	@$(RUN)qanat dev $(if $(ONCE),--once)

fast: $(STAMP) ## the default suite: everything that takes no more than a moment
	@$(RUN)python -m pytest

test: $(STAMP) check ## every test that needs no help from outside
	@$(RUN)python -m pytest -m ''

check: $(STAMP) ## lint, format, types
	@$(RUN)ruff check
	@$(RUN)ruff format --check
	@$(RUN)mypy

format: $(STAMP) ## rewrite the code in the house format
	@$(RUN)ruff format
	@$(RUN)ruff check --fix

clean: ## remove what these commands made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
