#!/bin/sh
# Builds the wheel, installs its base (no torch) in a new environment outside the checkout, and runs `choose` there.
set -eu
here=$(pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
rm -rf dist
"$here/.venv/bin/python" -m build --wheel --outdir "$away/dist" . >"$away/build.log" 2>&1 || { cat "$away/build.log"; exit 1; }
python3 -m venv "$away/venv"
"$away/venv/bin/python" -m pip install --quiet "$away"/dist/*.whl
cd "$away"
"$away/venv/bin/python" - <<'PY'
import sys, pathlib, planner
assert "site-packages" in planner.__file__, planner.__file__
plan = planner.choose("Find the Greatest Common Divisor (GCD) of these numbers: 84, 36.", "8x")
print(plan.reason)
heavy = {"torch", "transformers", "optuna", "sklearn", "pandas"} & set(sys.modules)
assert not heavy, f"choose imported {heavy}"
PY
"$away/venv/bin/planner" choose "What is 12 + 30 - 7?" --budget 8x --json
size=$(du -k "$away"/dist/*.whl | cut -f1)
echo "wheel: ${size} kB"
