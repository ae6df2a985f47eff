"""A user's own functions, named as `module:function` or `path/file.py:function`. A checker: (answer, gold) -> bool."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from planner.errors import InputError
from planner.tasks.answers import Checker

__all__ = ["load_checker", "load_function"]

_FORM = "`module:function` or `path/to/file.py:function`"


def load_checker(spec: str) -> Checker:
    """The checker that `spec` names. Raises as `load_function`."""
    return cast(Checker, load_function(spec, field="checker"))


def load_function(spec: str, *, field: str) -> Any:
    """Import the function that `spec` names. Running its module is what the user asked for by naming it.

    Raises InputError (about `field`) where there is no such file, module or function; whatever the module itself raises
    passes.
    """
    place, mark, name = spec.rpartition(":")
    if not mark or not place or not name.isidentifier():
        raise InputError("not a function's place", field=field, value=spec, expected=_FORM)
    module = _from_file(Path(place), spec, field) if place.endswith(".py") else _from_name(place, spec, field)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{place} has no function {name!r}", field=field, value=spec)
    return function


def _from_name(place: str, spec: str, field: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(place)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InputError("no such module", field=field, value=spec, expected=_FORM)
    return importlib.import_module(place)


def _from_file(path: Path, spec: str, field: str) -> ModuleType:
    if not path.is_file():
        raise InputError("no such file", field=field, value=spec, expected=_FORM)
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
