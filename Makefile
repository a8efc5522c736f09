# The commands of this repository; `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
VENV_PANDAS2 ?= .venv-pandas2
ARGS ?=

# Variables, because a comma would end an argument of `call`.
TESTED := '.[examples,test]'
PINNED := '.[examples,dev]'
RUN := $(VENV)/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help demo test lint format hooks pins clean
.DELETE_ON_ERROR:

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.12 chooses the Python of a new environment, ARGS="-k tree" adds options to pytest.'

demo: $(VENV)/.demo-stamp ## Run the water network example; it prints where the results are
	$(VENV)/bin/python examples/water_network/water_network.py

test: ## Lint, check types and layers, run all tests
	@$(check_python)
	@$(MAKE) --no-print-directory -j2 $(VENV)/.test-stamp $(VENV_PANDAS2)/.stamp
	@$(MAKE) --no-print-directory lint
	SCYTHE_TEST_PANDAS2_PYTHON="$(CURDIR)/$(VENV_PANDAS2)/bin/python" $(RUN) pytest $(ARGS)

lint: $(VENV)/.test-stamp ## Lint, check types and layers
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.test-stamp ## Format, and fix what ruff can fix
	$(RUN) ruff check --fix-only .
	$(RUN) ruff format .

hooks: $(VENV)/.test-stamp ## Install the git hooks of pre-commit
	@$(call install,$(VENV),constraints.txt,'.[dev]')
	$(RUN) pre_commit install

clean: ## Remove environments, caches and builds; results of runs stay
	rm -rf $(VENV) $(VENV_PANDAS2) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. A stamp is as new as the last install, so nothing is installed again until pyproject.toml or the
# constraints change.

$(VENV)/.demo-stamp: pyproject.toml constraints.txt
	@$(call create,$(VENV))
	@$(call install,$(VENV),constraints.txt,'.[examples]')
	@touch $@

$(VENV)/.test-stamp: pyproject.toml constraints.txt
	@$(call create,$(VENV))
	@$(call install,$(VENV),constraints.txt,$(TESTED))
	@touch $@ $(VENV)/.demo-stamp

$(VENV_PANDAS2)/.stamp: pyproject.toml constraints-pandas2.txt
	@$(call create,$(VENV_PANDAS2))
	@$(call install,$(VENV_PANDAS2),constraints-pandas2.txt,.)
	@touch $@

# $(call create,FOLDER): make a virtual environment, unless a working one is there.
create = $(check_python) && { \
	$(1)/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	echo 'Creating $(1)'; $(PYTHON) -m venv --clear $(1); }; }

# $(call install,FOLDER,CONSTRAINTS,WHAT): install this package there. Pip takes the constraints for the build
# back end from one of the two variables, depending on its version. Its own compilation of bytecode takes as long as
# the rest: ours uses all cores and leaves out what is never imported.
install = echo 'Installing into $(1)' && PIP_CONSTRAINT=$(2) PIP_BUILD_CONSTRAINT=$(2) \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable $(3) && \
	{ $(1)/bin/python -m compileall -qq -j 0 -x '/(tests?|fontTools|mypy)/' $(1)/lib || true; }

check_python = { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	echo "Scythe needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2> /dev/null || echo missing)." >&2; \
	echo 'Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }; }

# Pins. Made with the oldest Python that is supported, so that each version exists for all of them.

UPGRADE ?=
PINS := build/pins

pins: ## Pin what pyproject.toml newly asks for (UPGRADE=1: the newest of everything); needs Python 3.11
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo 'Pin with Python 3.11: make pins PYTHON=python3.11' >&2; exit 1; }
	rm -rf $(PINS) && mkdir -p $(PINS)
	$(if $(UPGRADE),: > $(PINS)/old.txt,cp constraints.txt $(PINS)/old.txt)
	$(if $(UPGRADE),: > $(PINS)/old-pandas2.txt,grep '^pandas==' constraints-pandas2.txt > $(PINS)/old-pandas2.txt)
	$(call freeze,all,-c $(PINS)/old.txt $(PINNED),constraints.txt)
	grep -v '^pandas' constraints.txt >> $(PINS)/old-pandas2.txt
	$(call freeze,pandas2,-c $(PINS)/old-pandas2.txt . 'pandas<3',constraints-pandas2.txt)
	rm -rf $(PINS)

# $(call freeze,NAME,WHAT,FILE): install WHAT and the build back end into a new environment; list its versions.
freeze = $(PYTHON) -m venv $(PINS)/$(1) && \
	$(PINS)/$(1)/bin/python -m pip install --quiet --no-compile $(2) hatchling editables && \
	$(PINS)/$(1)/bin/python -m pip freeze --exclude scythe-engine > $(PINS)/$(3) && mv $(PINS)/$(3) $(3)
