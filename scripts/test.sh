#!/bin/sh
# Everything `make test` runs, in the order in which a mistake is cheapest to hear of.
set -eu
BIN=.venv/bin
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

step() { printf '\n== %s\n' "$1"; }

step "ruff";          $BIN/ruff check . && $BIN/ruff format --check .
step "mypy --strict"; $BIN/mypy
step "import-linter"; $BIN/lint-imports
step "chromium, for the report's page"
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true
fi
command -v chromium || echo "none: the browser tests will be skipped (Debian: apt-get install chromium)"
step "pytest";        $BIN/python -m pytest
step "the built wheel, in a clean environment outside the checkout"
sh scripts/test_wheel.sh
step "a real vLLM: contracts, searches, profiles, and equality with transformers"
made=0
sh scripts/vllm_env.sh || made=$?
case $made in
  0) .venv-vllm/bin/python -m pytest tests/on_vllm ;;
  3) echo "skipped: vLLM cannot be installed here" ;;
  *) exit "$made" ;;
esac
