"""Where shipped artefacts lie, and which engine or verifier a name stands for.

A name is `lab:NAME` (a model of the laboratory) or `transformers:FOLDER` (a local checkpoint); an engine may also be
the address of an OpenAI-compatible server, `http://HOST/v1?model=NAME&...` (planner.models.openai_options).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from planner.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from planner.models.protocols import Engine, Verifier

__all__ = ["lab_engine", "lab_verifier", "load_engine", "load_verifier", "shipped"]

_PACKAGE = Path(__file__).resolve().parents[1]
_HOMES = {"models": "models", "recipes": "profiling/recipes"}

T = TypeVar("T")


def shipped(kind: Literal["models", "recipes"], name: str) -> Path:
    """Path of a shipped file or folder: in the installed package's data, else in the checkout.

    Raises InputError where it is in neither.
    """
    home = _HOMES[kind]
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        path = root / home / name
        if path.exists():
            return path
    beside = [(root / home / name).parent for root in (_PACKAGE / "_data", _PACKAGE.parent)]
    there = sorted({path.name for folder in beside for path in folder.glob("*")})
    raise InputError("not shipped", where=home, field=kind, value=name, expected=" or ".join(there) or None)


def lab_engine(name: str) -> Engine:
    """A policy model of the laboratory. Raises InputError for an unknown name, CapabilityError without torch."""
    return load_engine(f"lab:{name}")


def lab_verifier(name: str) -> Verifier:
    """A verifier of the laboratory. Raises as `lab_engine`."""
    return load_verifier(f"lab:{name}")


def load_engine(spec: str) -> Engine:
    """The engine that `spec` names. An address is reached and probed.

    Raises:
        InputError: there is no such, or an option that cannot be used.
        CapabilityError: a package that it needs is missing, or the server serves no endpoint for it.
        EngineError: the server cannot be reached.
    """
    if spec.startswith(("http://", "https://")):
        return _openai_engine(spec)

    def make(folder: Path) -> Engine:
        from planner.models.transformers_engine import TransformersEngine

        return TransformersEngine(folder)

    return _load(spec, "engine", make)


def load_verifier(spec: str) -> Verifier:
    """The verifier that `spec` names; `transformers:FOLDER?card=CARD` reads the folder's model by a published card
    (`planner verifiers` lists them) or by a TOML file, instead of the verifier.toml in it.

    Raises InputError where there is no such, CapabilityError without torch.
    """
    name, _, card = spec.partition("?card=")

    def make(folder: Path) -> Verifier:
        from planner.models.cards import load_card
        from planner.models.transformers_verifier import TransformersVerifier

        return TransformersVerifier(folder, card=load_card(card) if card else None)

    return _load(name, "verifier", make)


def _expected(field: str) -> str:
    more = " or http://HOST/v1?model=NAME" if field == "engine" else " or transformers:FOLDER?card=CARD"
    return f"lab:NAME or transformers:FOLDER{more}"


def _load(spec: str, field: str, make: Callable[[Path], T]) -> T:
    kind, _, name = spec.partition(":")
    if kind not in ("lab", "transformers") or not name:
        raise InputError("unknown", field=field, value=spec, expected=_expected(field))
    folder = shipped("models", f"lab/{name}") if kind == "lab" else Path(name)
    try:
        return make(folder)
    except ModuleNotFoundError as error:
        raise _missing(error, spec) from error


def _openai_engine(spec: str) -> Engine:
    from planner.models.openai_options import OpenAIOptions

    options = OpenAIOptions.from_spec(spec)
    try:
        from planner.models.openai_engine import OpenAIEngine
    except ModuleNotFoundError as error:
        raise _missing(error, spec, "openai") from error
    return OpenAIEngine(options)


def _missing(error: ModuleNotFoundError, spec: str, extra: str = "local") -> Any:
    return CapabilityError(
        f"needs the package {error.name}", field="engine", value=spec, hint=f"pip install 'compute-planner[{extra}]'"
    )
