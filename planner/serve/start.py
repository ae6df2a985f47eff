"""Loading what a server needs, holding it against the policy, and running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from planner.api import Planner, default_planner, load
from planner.errors import CapabilityError
from planner.models import wrapped
from planner.models.cost import ModelShape
from planner.models.protocols import Engine, EngineInfo, Verifier, VerifierInfo
from planner.models.shipped import load_verifier
from planner.policy.equipment import named_engines
from planner.serve.app import create_app
from planner.serve.gateway import Gateway
from planner.serve.guard import guarded
from planner.serve.settings import Settings

__all__ = ["check_match", "make_gateway", "make_server", "priced", "serve"]


def make_gateway(policy: Path | None, engines: Sequence[str], verifier: str | None, settings: Settings) -> Gateway:
    """Load policy, engines (`NAME=SPEC` or `SPEC`; none: the laboratory's) and verifier, and hold them against it.

    Raises CapabilityError where one is not what the policy was fitted on, InputError for what cannot be loaded.
    """
    planner = load(policy) if policy is not None else default_planner()
    if not engines:
        loaded, default_verifier, _ = planner.equip(None, load_verifier(verifier) if verifier else None)
        used = default_verifier
    else:
        loaded, used = named_engines(planner.document["plans"], engines), load_verifier(verifier) if verifier else None
    check_match(planner, loaded, used, settings.allow_mismatch)
    return Gateway(planner, priced(planner, loaded), used, settings)


def priced(planner: Planner, engines: Mapping[str, Engine]) -> dict[str, Engine]:
    """Engines with a known shape: a server does not tell its model's config, the policy may have it.

    Raises CapabilityError where neither knows: a budget could not be held.
    """
    found: dict[str, Engine] = {}
    for name, engine in engines.items():
        if engine.info.shape is not None:
            found[name] = engine
            continue
        config = ((planner.document.get("policy_models") or {}).get(name) or {}).get("config")
        if not config:
            raise CapabilityError(
                "a budget cannot be held without the model's config", field="engine", value=engine.info.name,
                hint="Give its config.json, as in http://HOST/v1?config=FOLDER/config.json",
            )  # fmt: skip
        found[name] = wrapped.priced(engine, ModelShape.from_dict(config))
    return found


def check_match(
    planner: Planner, engines: Mapping[str, Engine], verifier: Verifier | None, allow: Sequence[str]
) -> None:
    """Hold the engines' and the verifier's names and fingerprints against the policy's.

    A policy holds for the models it was fitted on. Where it has no fingerprint (imported samples) the names are held
    against each other. Raises CapabilityError for a difference, unless `allow` has the engine's or verifier's name.
    """
    prints = planner.document.get("fingerprints") or {}
    models = planner.document.get("policy_models") or {}
    for name, engine in engines.items():
        recorded = (prints.get("policy_models") or {}).get(name) or (models.get(name) or {}).get("fingerprint")
        _hold("engine", name, recorded, engine.info, allow)
    if verifier is not None:
        known = planner.document.get("verifier") or {}
        named = next((str(p["verifier"]) for p in planner.document["plans"] if p["verifier"]), None)
        if named is not None:
            _hold("verifier", named, prints.get("verifier") or known.get("fingerprint"), verifier.info, allow)


def _hold(what: str, name: str, recorded: str | None, info: EngineInfo | VerifierInfo, allow: Sequence[str]) -> None:
    same = info.fingerprint == recorded if recorded else info.name == name
    if same or info.name in allow or name in allow:
        return
    raise CapabilityError(
        f"the policy was fitted on another {what}",
        field=what,
        value=info.name,
        expected=f"{name} with fingerprint {recorded}" if recorded else name,
        hint=f"Profile and fit this one, or allow the difference with --allow-mismatch {info.name}",
    )


def make_server(gateway: Gateway) -> uvicorn.Server:
    """A uvicorn server of the gateway; no access log, since request lines are counted in the metrics."""
    settings = gateway.settings
    config = uvicorn.Config(
        create_app(gateway),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        lifespan="on",
        http=guarded(settings),
        ws="none",
        timeout_graceful_shutdown=10,
        # Longer than clients keep an unused connection (httpx: 5 s, and so the openai client): they let go first, and
        # no request meets a connection that is just being closed.
        timeout_keep_alive=60,
    )
    return uvicorn.Server(config)


def serve(gateway: Gateway) -> None:
    """Answer requests until interrupted."""
    # uvicorn raises the interrupt again once it has shut down.
    with suppress(KeyboardInterrupt):
        make_server(gateway).run()
