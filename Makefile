# Everything a person needs: `make help` lists it. What is installed is stamped: a second run downloads nothing.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/
PIP := $(RUN)python -m pip install --quiet --disable-pip-version-check
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
COMPILED := $(CURDIR)/.compiled
COMPILING := HATCH_BUILD_HOOK_ENABLE_CUSTOM=true
ENVIRONMENTS := $(patsubst tests/environments/%.txt,.venv-%/.installed,$(wildcard tests/environments/*.txt))

# Tests start the program dozens of times: compile it once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test fast compiled check format docs bench fuzz wheel lock sbom prepare clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(RUNTIME) ## run the whole tunnel on this machine and send a request through it (ONCE=1: then stop)
	@$(RUN)qanat dev $(if $(ONCE),--once)

fast: $(DEV) ## the default suite: everything that takes no more than a moment
	@$(RUN)python -m pytest -n 3 --dist loadfile

test: check prepare compiled ## everything: the checks, then every test, the slow ones too
	@$(RUN)python -m pytest -n 3 --dist loadfile -m ''

compiled: $(COMPILED)/.built ## the tests of the byte path, as it is when it is compiled
	@PYTHONPATH="$(COMPILED)" $(RUN)python -m pytest -n 3 --dist loadfile -o pythonpath=. \
	  tests/test_compiled.py tests/test_log.py tests/client tests/connector tests/edge tests/net tests/proxy tests/tunnel tests/wire

check: $(DEV) ## lint, format, types, architecture, docs
	@$(RUN)ruff check
	@$(RUN)ruff format --check
	@$(RUN)mypy
	@$(RUN)python -m pytest -q tests/test_architecture.py tests/test_requirements.py tests/docs

format: $(DEV) ## rewrite the code in the house format
	@$(RUN)ruff format
	@$(RUN)ruff check --fix

docs: $(DEV) ## write what the reference pages take from the code
	@$(RUN)python -m tests.docs.generate

bench: $(DEV) $(COMPILED)/.built ## measure side by side with others on this machine (QUICK=1: two minutes; PROFILE=1: flame graphs)
	@PYTHONPATH="$(COMPILED)" $(RUN)python -m bench $(if $(QUICK),--quick) $(if $(PROFILE),--profile)

fuzz: $(DEV) ## feed the codecs garbage for a while (SECONDS=60)
	@$(RUN)python -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS))

wheel: $(DEV) ## build a wheel for this machine into dist/, its byte path compiled
	@tests/prepare.sh compiler
	@$(COMPILING) $(RUN)python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

LOCK := $(RUN)uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: $(DEV) ## pin every dependency of the images anew, with hashes
	@$(LOCK) pyproject.toml -o deploy/locks/customer.txt
	@$(LOCK) pyproject.toml --extra server -c deploy/locks/customer.txt -o deploy/locks/operator.txt
	@printf '%s\n' hatchling 'mypy[mypyc]' setuptools | $(LOCK) - -o deploy/locks/build.txt

sbom: $(DEV) ## write a bill of materials of each image into dist/
	@mkdir -p dist
	@for image in customer operator; do \
	  $(RUN)cyclonedx-py requirements deploy/locks/$$image.txt --output-reproducible -o dist/sbom-$$image.json; \
	done

prepare: $(DEV) $(ENVIRONMENTS) ## install what the tests want beside Python packages: Debian and npm packages, older SDKs
	@tests/prepare.sh

clean: ## remove what these commands made
	@rm -rf $(VENV) .venv-* $(COMPILED) dist tests/npm/node_modules .mypy_cache .ruff_cache .hypothesis

# What a run of the product needs, without the tools of its development.
$(RUNTIME): pyproject.toml | $(RUN)python
	@echo "installing qanat into $(VENV) (the first time only)"
	@$(PIP) -e '.[server]'
	@touch $@

$(DEV): pyproject.toml | $(RUN)python
	@echo "installing qanat and its development tools into $(VENV) (the first time only)"
	@$(PIP) -e '.[dev]'
	@touch $(RUNTIME) $@

$(RUN)python:
	@command -v $(PYTHON) >/dev/null \
	  || { echo "qanat needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "qanat needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/prepare.sh venv
	@$(PYTHON) -m venv $(VENV)

# The product as its images hold it. Where nothing can be compiled, it is the plain one, and says so.
$(COMPILED)/.built: hatch_build.py pyproject.toml $(shell find src -name '*.py') | $(DEV)
	@rm -rf $(COMPILED)
	@if tests/prepare.sh compiler; then \
	  echo "compiling the byte path into $(COMPILED)" && $(COMPILING) $(PIP) --no-deps --target $(COMPILED) .; \
	else $(PIP) --no-deps --target $(COMPILED) .; fi
	@touch $@

# Other versions of packages, for tests that run a program in them.
.venv-%/.installed: tests/environments/%.txt | $(RUN)python
	@echo "installing .venv-$* (the first time only)"
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	@if .venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<; then touch $@; \
	else rm -rf .venv-$*; echo "pip could not install $<: tests that need it are skipped"; fi
