"""What an operator decides about a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planner.budget import Budget
from planner.errors import InputError

__all__ = ["LOOPBACK", "Settings"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`max_budget` is the most that one request may ask for; `default_budget` plans requests that name none (without
    it they are sampled plainly). `explore` is the share of decisions drawn at random among the plans that fit.

    `log_prompts` is the only way for a prompt or an answer to get into a log. `allow_mismatch` names engines and
    verifiers that may differ from what the policy was fitted on. A request's head and its body must each have come, and
    what is sent must be read, within the timeouts of their names. Raises InputError for what cannot be used.
    """

    host: str = "127.0.0.1"
    port: int = 8800
    api_key: str | None = None
    max_budget: str = "256x"
    default_budget: str | None = None
    explore: float = 0.0
    decision_log: Path | None = None
    decision_log_bytes: int = 64 * 1024 * 1024
    decision_log_files: int = 5
    log_prompts: bool = False
    allow_mismatch: tuple[str, ...] = ()
    max_body_bytes: int = 512 * 1024
    head_timeout_seconds: float = 10.0
    body_timeout_seconds: float = 20.0
    read_timeout_seconds: float = 60.0
    request_timeout_seconds: float = 600.0
    retry_after_seconds: float = 2.0
    max_in_flight: int = 1024
    max_batch: int = 256
    keep_alive_seconds: float = 15.0

    def __post_init__(self) -> None:
        for budget in (self.max_budget, self.default_budget):
            if budget is not None:
                Budget.parse(budget)
        if not 0 <= self.explore <= 1:
            raise InputError("not a share", field="explore", value=self.explore, expected="a number in [0, 1]")
        if self.host not in LOOPBACK and not self.api_key:
            raise InputError(
                "an open address without a key", field="host", value=self.host, expected=" or ".join(LOOPBACK),
                hint="Set an API key (PLANNER_API_KEY) to listen elsewhere",
            )  # fmt: skip
