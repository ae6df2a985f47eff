#!/bin/sh
# Everything `make test` runs, in the order in which a mistake is cheapest to hear of.
set -eu
BIN=.venv/bin
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

step() { printf '\n== %s\n' "$1"; }

step "ruff";          $BIN/ruff check . && $BIN/ruff format --check .
step "mypy --strict"; $BIN/mypy
step "import-linter"; $BIN/lint-imports
step "pytest";        $BIN/python -m pytest
step "the built wheel, in a clean environment outside the checkout"
sh scripts/test_wheel.sh
