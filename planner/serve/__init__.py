"""An OpenAI-compatible endpoint that plans every request and keeps its budget.

    planner serve --policy P --engine http://127.0.0.1:8000      # then point an OpenAI client at it

`create_app` makes the Starlette application from a loaded policy and its engines; `planner.serve.start` runs it.
"""

from __future__ import annotations

from planner.serve.app import create_app
from planner.serve.gateway import Gateway
from planner.serve.settings import Settings

__all__ = ["Gateway", "Settings", "create_app"]
