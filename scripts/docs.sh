#!/bin/sh
# Builds the documentation's site into build/site; a warning is an error. Needs the extra `docs`, and no network.
set -eu
cd "$(dirname "$0")/.."
export NO_MKDOCS_2_WARNING=1 # a notice about a successor, on every build
exec .venv/bin/python -m mkdocs build --strict "$@"
