"""One colour and one name for each strategy and method, in every figure, table and terminal.

Hues follow Okabe and Ito (2008), which stay apart under the common colour blindnesses; lightness is moved for each
background until lines keep a contrast of at least 3:1. Strategies that share a hue differ by dash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "METHODS",
    "STYLES",
    "Style",
    "css",
    "label_name",
    "method_name",
    "plan_detail",
    "plan_name",
    "strategy_name",
    "style_key",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Colour on a light and on a dark background, and an SVG dash pattern ("" is solid)."""

    name: str
    light: str
    dark: str
    dash: str = ""


STYLES: dict[str, Style] = {
    "greedy": Style(name="Greedy", light="#a1447f", dark="#dd92bb"),
    "majority": Style(name="Majority vote", light="#0068a8", dark="#4ba3e0"),
    "adaptive_majority": Style(name="Adaptive majority", light="#2b8fc9", dark="#8bd0f5", dash="7 3"),
    "arbitrated_majority": Style(name="Arbitrated majority", light="#4a4fb5", dark="#a3a9f7"),
    "best_of_n": Style(name="Best-of-N", light="#cb5500", dark="#f5813a"),
    "weighted_vote": Style(name="Weighted vote", light="#cb5500", dark="#f5813a", dash="2 3"),
    "odds_vote": Style(name="Vote by odds", light="#93291e", dark="#f0958a"),
    "adaptive_best_of_n": Style(name="Adaptive best-of-N", light="#cb5500", dark="#f5813a", dash="7 3"),
    "beam_search": Style(name="Beam search", light="#00805d", dark="#21bd90"),
    "lookahead": Style(name="Lookahead", light="#00805d", dark="#21bd90", dash="7 3"),
    "dvts": Style(name="DVTS", light="#a87500", dark="#f0b429"),
    "rebase": Style(name="REBASE", light="#a87500", dark="#f0b429", dash="7 3"),
    "particle_filtering": Style(name="Particle filtering", light="#a87500", dark="#f0b429", dash="2 3"),
    "revision": Style(name="Revision", light="#a1447f", dark="#dd92bb", dash="7 3"),
    "confidence_vote": Style(name="Confidence vote", light="#0068a8", dark="#4ba3e0", dash="2 3"),
    "cascade": Style(name="Cascade", light="#7a5c3e", dark="#c9a784"),
    "policy": Style(name="Fitted policy", light="#14171c", dark="#ffffff"),
    "policy_oracle_difficulty": Style(name="Policy, true difficulty", light="#14171c", dark="#ffffff", dash="2 4"),
    "best_fixed": Style(name="Best fixed strategy", light="#6a7280", dark="#a4adba", dash="8 4"),
    "second_policy": Style(name="Second policy", light="#7148b5", dark="#b79cf2"),
    "second_best_fixed": Style(name="Second policy's best fixed", light="#8d6cc7", dark="#9c84d6", dash="8 4"),
    "oracle": Style(name="Per-problem oracle", light="#7c8592", dark="#858f9d", dash="1 4"),
    "other": Style(name="Other", light="#6a7280", dark="#a4adba"),
}

METHODS: dict[str, str] = {
    "policy": "policy",
    "best_fixed": "best_fixed",
    "majority": "majority",
    "adaptive": "adaptive_majority",
    "best_of_n": "best_of_n",
    "policy_oracle_difficulty": "policy_oracle_difficulty",
    "oracle": "oracle",
}
"""The evaluation's methods in reading order, each with the style it is drawn in."""


def style_key(strategy: str) -> str:
    """The style of a strategy or method; one that is not known here is drawn as "other"."""
    key = METHODS.get(strategy, strategy)
    return key if key in STYLES else "other"


def strategy_name(strategy: str) -> str:
    key = style_key(strategy)
    return strategy.replace("_", " ").capitalize() if key == "other" else STYLES[key].name


def method_name(method: str) -> str:
    return strategy_name(method)


def plan_name(plan: Mapping[str, Any]) -> str:
    """A plan in two words: `Best-of-16`, `Majority × 32`, `Greedy`."""
    strategy = str(plan.get("strategy", ""))
    fields = plan.get("hyperparameters") or {}
    n = fields.get("n", fields.get("max_n"))
    if n is None:
        return strategy_name(strategy)
    if n == 1 and strategy in {"majority", "best_of_n", "adaptive_majority", "arbitrated_majority", "odds_vote"}:
        return "One sample"
    if strategy == "best_of_n":
        return f"Best-of-{n}"
    short = {"majority": "Majority", "adaptive_majority": "Adaptive", "arbitrated_majority": "Arbitrated"}
    name = short.get(strategy, strategy_name(strategy))
    sign = "×" if "n" in fields else "≤"
    return f"{name} {sign}\N{NO-BREAK SPACE}{n}"


def plan_detail(plan: Mapping[str, Any], *, model: bool = True) -> str:
    """The rest of the plan: `last/max, T 0.8, expansions 4, small-model`."""
    fields = dict(plan.get("hyperparameters") or {})
    parts: list[str] = []
    if fields.get("aggregation") is not None:
        parts.append(f"{fields['aggregation']} score")
    if fields.get("selection") is not None:
        parts.append(
            {"max": "highest wins", "vote": "weighted vote"}.get(str(fields["selection"]), str(fields["selection"]))
        )
    for name, text in (
        ("temperature", "T"),
        ("top_p", "top-p"),
        ("expansions", "expansions"),
        ("threshold", "threshold"),
    ):
        value = fields.get(name)
        if value is not None and not (name == "top_p" and value == 1):
            parts.append(f"{text} {value:g}" if isinstance(value, int | float) else f"{text} {value}")
    shown = {
        "n",
        "max_n",
        "aggregation",
        "selection",
        "temperature",
        "top_p",
        "expansions",
        "threshold",
        "policy_model",
    }
    parts += [f"{k.replace('_', ' ')} {v}" for k, v in sorted(fields.items()) if k not in shown and v is not None]
    if model and plan.get("policy_model"):
        parts.append(str(plan["policy_model"]))
    return ", ".join(parts)


def label_name(label: str, *, detail: bool = True) -> str:
    """A text in which each `strategy(n=16, temperature=0.8) model` is said as in the tables; `detail` False keeps
    only the plan's short name and the model."""

    def said(match: re.Match[str]) -> str:
        if match[1] not in STYLES:
            return match[0]
        fields: dict[str, Any] = dict(pair.split("=", 1) for pair in match[2].split(", ") if "=" in pair)
        plan = {"strategy": match[1], "hyperparameters": {k: _number(v) for k, v in fields.items()}}
        text = ", ".join(filter(None, (plan_name(plan), plan_detail(plan) if detail else "")))
        return f"{text}, " if match[3] else text

    return re.sub(r"\b(\w+)\(([^()]*)\)( (?=[^\s(]))?", said, label)


def _number(text: str) -> Any:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text if text != "None" else None


def css() -> str:
    """Style sheet: `.k-majority { --c: … }` for both backgrounds."""
    light = "".join(f".k-{key}{{--c:{style.light};--d:{style.dash or 'none'}}}" for key, style in STYLES.items())
    dark = "".join(f".k-{key}{{--c:{style.dark}}}" for key, style in STYLES.items())
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"
