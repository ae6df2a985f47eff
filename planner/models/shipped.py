"""Where shipped artefacts lie, and which engine or verifier a name stands for.

A name is `lab:NAME` (a model of the laboratory), `transformers:FOLDER` (a local checkpoint), `vllm:FOLDER_OR_NAME?...`
(vLLM in this process) or a server's address: for an engine an OpenAI-compatible one, `http://HOST/v1?model=NAME&...`
(planner.models.openai_options), for a verifier vLLM's pooling (planner.models.pooling_verifier).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote

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
    if spec.startswith("vllm:"):
        return _vllm_engine(spec)

    name, _, system = spec.partition("?system=")

    def make(folder: Path) -> Engine:
        from planner.models.transformers_engine import TransformersEngine

        return TransformersEngine(folder, system=unquote(system) or None)

    return _load(name, "engine", make)


def load_verifier(spec: str) -> Verifier:
    """The verifier that `spec` names; `transformers:FOLDER?card=CARD` reads the folder's model by a published card
    (`planner verifiers` lists them) or by a TOML file, instead of the verifier.toml in it. Judges, rules and tests are
    named as planner.models.verifier_specs says, vLLM's pooling as planner.models.pooling_verifier.

    Raises InputError where there is no such, CapabilityError where a package is missing or vLLM does not pool it,
    EngineError or VerifierError where vLLM cannot be reached or does not serve it.
    """
    from planner.models.verifier_specs import SPECIAL, open_folder, special_verifier

    if spec.partition(":")[0] in SPECIAL:
        return special_verifier(spec, load_engine)
    if spec.startswith(("http://", "https://", "vllm:")):
        return _pooling_verifier(spec)
    name, _, card = spec.partition("?card=")

    def make(folder: Path) -> Verifier:
        return open_folder(folder, card or None)

    return _load(name, "verifier", make)


def _expected(field: str) -> str:
    more = "?card=CARD" if field == "verifier" else ""
    return f"lab:NAME, transformers:FOLDER{more}, vllm:FOLDER{more} or http://HOST/v1?..."


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


def _pooling_verifier(spec: str) -> Verifier:
    try:
        from planner.models.pooling_verifier import open_pooling

        return open_pooling(spec)
    except ModuleNotFoundError as error:
        raise _missing(error, spec, "vllm" if spec.startswith("vllm:") else "openai,local", "verifier") from error


def _vllm_engine(spec: str) -> Engine:
    try:
        from planner.models.vllm_engine import VllmEngine

        return VllmEngine(spec)
    except ModuleNotFoundError as error:
        raise _missing(error, spec, "vllm") from error


def _missing(error: ModuleNotFoundError, spec: str, extra: str = "local", field: str = "engine") -> Any:
    return CapabilityError(
        f"needs the package {error.name}", field=field, value=spec, hint=f"pip install 'compute-planner[{extra}]'"
    )
