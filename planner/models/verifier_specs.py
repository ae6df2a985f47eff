"""Which verifier a name stands for where it is no model's own: judges, rules, tests; and a folder's by its card.

judge:CARD:ENGINE               the engine is asked by a judge's card (`planner verifiers` lists them)
rule:MODULE:FUNCTION            a function (prompt, answer) -> score in [0, 1], or None; also rule:FILE.py:FUNCTION
tests:run_code=yes:FILE         runs an answer's code against the tests in a file of problems
tests-by:run_code=yes:ENGINE    as before, against tests that the engine writes
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.models.cards import JudgeCard, OutcomeCard, read_card

if TYPE_CHECKING:
    from planner.models.protocols import Engine, Verifier

__all__ = ["SPECIAL", "open_folder", "special_verifier"]

SPECIAL = ("judge", "rule", "tests", "tests-by")
"""Kinds of names that `special_verifier` knows."""


def special_verifier(spec: str, load_engine: Callable[[str], Engine]) -> Verifier:
    """The verifier that `spec` names. Raises InputError where it cannot be read, and what `load_engine` raises."""
    kind, _, rest = spec.partition(":")
    if kind == "rule":
        from planner.models.rule_verifier import RuleVerifier

        return RuleVerifier.named(rest)
    option, _, target = rest.partition(":")
    if not target:
        forms = {"judge": "judge:CARD:ENGINE", "tests": "tests:run_code=yes:FILE"}
        expected = forms.get(kind, "tests-by:run_code=yes:ENGINE")
        raise InputError("cannot be read", field="verifier", value=spec, expected=expected)
    if kind == "judge":
        from planner.models.judge import JudgeVerifier

        card = read_card(option)
        if not isinstance(card, JudgeCard):
            raise InputError("not a judge's card", field="verifier", value=spec, expected="a card of kind judge")
        return JudgeVerifier(load_engine(target), card)
    from planner.models.code_verifier import CodeVerifier, GeneratedTests, KnownTests

    run_code = option == "run_code=yes"
    if kind == "tests":
        return CodeVerifier(KnownTests.from_file(target), run_code=run_code, name=spec)
    return CodeVerifier(GeneratedTests(load_engine(target)), run_code=run_code, name=spec)


def open_folder(folder: Path, card_name: str | None) -> Verifier:
    """The verifier of a local checkpoint, by a card: a shipped one's name or a file; None: the folder's verifier.toml.

    Raises InputError for a card that does not fit.
    """
    card = read_card(card_name if card_name is not None else folder / "verifier.toml")
    if isinstance(card, JudgeCard):
        raise InputError(
            "a judge's card reads no checkpoint's head", where=str(folder), field="card", value=card_name,
            expected=f"judge:{card_name or 'CARD'}:transformers:{folder}",
        )  # fmt: skip
    if isinstance(card, OutcomeCard):
        from planner.models.outcome_verifier import OutcomeVerifier

        return OutcomeVerifier(folder, card=card)
    from planner.models.transformers_verifier import TransformersVerifier

    return TransformersVerifier(folder, card=card)
