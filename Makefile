# `make demo` and `make test` are all a fresh machine needs; both install what they use into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The CPU build; a wider range would fetch gigabytes of CUDA packages.
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint docs bench clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed   ## make .venv with what demo and tests need

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: install    ## the whole job on the laboratory: profile, fit, report, choose
	$(BIN)/planner demo

test: install    ## lint, types, imports, tests, the built wheel in a clean environment
	sh scripts/test.sh

test-slow: install ## long checks (property tests at full size)
	$(BIN)/python -m pytest -m slow

lint: install    ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install    ## the documentation's site, into build/site
	sh scripts/docs.sh

bench: install   ## benchmarks that need nothing else, as ratios within one run (the others say what they need)
	for f in choose engine search replay; do echo "== $$f"; $(BIN)/python benchmarks/$$f.py || exit 1; done

clean:           ## remove the environment and caches, keep runs/
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
