"""What the report answers at one budget: what to do, what it buys, how sure that is, what more budget would buy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.report.document import BudgetView, Cell, Table
from planner.report.figures import budget_bars
from planner.report.numbers import budget_label, cost, interval, known, multiple, percent, points, span
from planner.report.palette import METHODS, label_name, method_name, plan_detail, plan_name, strategy_name, style_key
from planner.report.source import Source

__all__ = ["budget_views", "verdict"]

_COMPARED = ("best_fixed", "majority", "adaptive", "best_of_n", "policy_oracle_difficulty", "oracle")


def verdict(low: Any, high: Any) -> tuple[str, str]:
    """(word, tone) of a paired difference's interval."""
    a, b = known(low), known(high)
    if a is None or b is None:
        return "no interval", "muted"
    if a > 0:
        return "better", "good"
    if b < 0:
        return "worse", "bad"
    return "no difference shown", "muted"


def _ci(entry: Mapping[str, Any] | None) -> tuple[float, float] | None:
    pair = (entry or {}).get("ci") or [None, None]
    low, high = known(pair[0]), known(pair[1])
    return None if low is None or high is None else (low, high)


def _plan(source: Source, index: Any) -> Mapping[str, Any] | None:
    return source.plans[index] if isinstance(index, int) and 0 <= index < len(source.plans) else None


def _action(
    source: Source, bucket: str, cell: Mapping[str, Any], best_fixed: Mapping[str, Any] | None
) -> dict[str, Any]:
    plan = _plan(source, cell.get("plan")) or {}
    second = _plan(source, cell.get("runner_up"))
    note = ""
    if cell.get("fallback"):
        note = "No plan was significantly better here than the one that is best over all problems, so it is that one."
    elif second is not None and known(cell.get("gap")) is not None:
        rival = plan_name(second)
        if rival == plan_name(plan):
            rival += f" ({plan_detail(second, model=source.several_models)})"
        gap, p = known(cell.get("gap")) or 0.0, known(cell.get("gap_p"))
        prices = [known(((p.get("cost") or {}).get(bucket) or {}).get("total")) for p in (plan, second)]
        by = f"{points(abs(gap), sign=False)} points"
        if round(1000 * gap) == 0:
            note = f"Level with {rival}"
        elif gap < 0 and None not in prices and (prices[0] or 0.0) < (prices[1] or 0.0):
            note = f"Cheaper than {rival}, which is {by} higher"
        else:
            note = f"{by} {'above' if gap > 0 else 'below'} {rival}"
        note += "." if p is None else " (p\u00a0<\u00a00.001)." if p < 0.001 else f" (p\u00a0=\u00a0{p:.2g})."
    if not plan:
        note = "Nothing profiled fits this budget here."
    return {
        "bucket": bucket,
        "share": source.shares.get(bucket),
        "plan": plan_name(plan) if plan else "Nothing fits",
        "policy_model": str(plan["policy_model"]) if source.several_models and plan.get("policy_model") else None,
        "detail": plan_detail(plan, model=source.several_models),
        "key": style_key(str(plan.get("strategy", ""))),
        "accuracy": known(cell.get("accuracy")),
        "low": known(cell.get("low")),
        "high": known(cell.get("high")),
        "cost": known(cell.get("cost")),
        "cost_text": cost(cell.get("cost"), source.unit),
        "fallback": bool(cell.get("fallback")),
        "is_best_fixed": best_fixed is not None and plan is best_fixed,
        "runner_up": _rival(source, plan, second) if second else None,
        "gap": known(cell.get("gap")),
        "note": note,
    }


def _rival(source: Source, plan: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The runner-up's name, with its policy model where that is another one's."""
    other = source.several_models and second.get("policy_model") != plan.get("policy_model")
    return f"{plan_name(second)}, {second['policy_model']}" if other else plan_name(second)


def _headline(label: str, actions: Sequence[Mapping[str, Any]]) -> str:
    """What to do in one sentence, buckets with the same plan together."""
    groups: dict[str, list[str]] = {}
    for a in actions:
        model = a["policy_model"]
        groups.setdefault(f"{a['plan']} with {model}" if model else a["plan"], []).append(a["bucket"])
    if len(groups) == 1:
        return f"At {label}: {next(iter(groups))} for prompts of every difficulty."
    parts = [f"{plan} for {' and '.join(names)}" for plan, names in groups.items()]
    return f"At {label}: {', '.join(parts)} prompts."


def _versus(evaluated: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    differences = evaluated.get("differences") or {}
    for method in _COMPARED[:4]:
        entry = differences.get(method)
        if not entry or known(entry.get("difference")) is None:
            continue
        low, high = _ci(entry) or (None, None)
        word, tone = verdict(low, high)
        rows.append(
            {
                "method": method,
                "name": method_name(method),
                "key": style_key(method),
                "difference": known(entry["difference"]),
                "low": low,
                "high": high,
                "detectable": known(entry.get("detectable")),
                "verdict": word,
                "tone": tone,
                "text": f"{interval(entry['difference'], low, high)} points",
            }
        )
    return rows


def _strategies(source: Source, index: int, row: Mapping[str, Any]) -> Table:
    """Bucket x strategy: each strategy's best plan whose cost for 95 % of problems fits the budget."""
    budget = float(row["budget"])
    names = list(dict.fromkeys(str(p["strategy"]) for p in source.plans))
    rows = []
    for name in names:
        cells = [Cell(text=strategy_name(name), key=style_key(name))]
        for bucket in source.buckets:
            chosen = (row["cells"].get(bucket) or {}).get("plan")
            best: Cell | None = None
            for i, plan in enumerate(source.plans):
                price, level = (
                    (plan.get("cost") or {}).get(bucket) or {},
                    (plan.get("accuracy") or {}).get(bucket) or {},
                )
                value, needed = known(level.get("value")), known(price.get("p95")) or known(price.get("total"))
                if plan["strategy"] != name or value is None or needed is None:
                    continue
                if (needed > budget and i != chosen) or not (
                    best is None or i == chosen or value > (best.value or 0.0)
                ):
                    continue
                detail = f"{plan_name(plan)} · {span(level.get('low'), level.get('high'))}"
                best = Cell(text=percent(value), value=value, note=detail, tone="chosen" if i == chosen else "")
                if i == chosen:
                    break
            cells.append(best or Cell(text="none fits", tone="muted"))
        rows.append(tuple(cells))
    return Table(
        table_id=f"strategies-{index}",
        title="Every strategy at this budget",
        says=f"The best plan of each strategy that fits the budget{_typical(source)}, by difficulty, with 95% "
        "interval; the policy's choice is framed. The table was chosen from these numbers; the comparison below is "
        "held out.",
        columns=("Strategy", *(b.capitalize() for b in source.buckets)),
        rows=tuple(rows),
        at=index,
    )


def _typical(source: Source) -> str:
    """Where costs are foretold, what the table is about."""
    found = (source.evaluation.get("difficulty") or {}).get("cost")
    return " of a prompt whose answers cost what is typical" if found else ""


def _comparison(source: Source, index: int, label: str, evaluated: Mapping[str, Any]) -> Table:
    rows = []
    for method in METHODS:
        entry = (evaluated.get("methods") or {}).get(method)
        if not entry:
            continue
        low, high = _ci(entry) or (None, None)
        difference = (evaluated.get("differences") or {}).get(method) or {}
        d_low, d_high = _ci(difference) or (None, None)
        word, tone = verdict(d_low, d_high) if difference else ("", "")
        rows.append(
            (
                Cell(text=method_name(method), key=style_key(method), note=label_name(str(entry.get("plan") or ""))),
                Cell(text=percent(entry.get("accuracy")), value=known(entry.get("accuracy")), note=span(low, high)),
                Cell(text=cost(entry.get("cost"), source.unit), value=known(entry.get("cost"))),
                Cell(
                    text=points(difference.get("difference")) if difference else "",
                    value=known(difference.get("difference")),
                    note=f"{points(d_low)} to {points(d_high)}" if difference else "",
                    tone=tone,
                ),
                Cell(text=word, tone=tone),
                Cell(
                    text=points(difference.get("detectable"), sign=False) if difference else "",
                    value=known(difference.get("detectable")),
                ),
            )
        )
    return Table(
        table_id=f"comparison-{index}",
        title=f"At {label}",
        says="Held-out accuracy, mean cost for one prompt, and policy minus method on the same problems.",
        columns=("Method", "Accuracy", "Mean cost", "Policy minus method", "Verdict", "Detectable"),
        rows=tuple(rows),
        at=index,
    )


def _sure(source: Source, versus: list[dict[str, Any]], evaluated: Mapping[str, Any] | None) -> str:
    problems = source.evaluation.get("problems")
    if not versus:
        return "This policy folder holds no held-out evaluation at this budget: what the policy buys is unknown."
    shown = [v for v in versus if v["tone"] in {"good", "bad"}]
    text = f"On {problems} held-out problems, {len(shown)} of {len(versus)} differences have a 95% interval that "
    text += "excludes zero."
    fixed = next((v for v in versus if v["method"] == "best_fixed"), None)
    if fixed is not None and fixed["detectable"] == 0:
        text += " The policy gave every problem what the best fixed strategy gives it, so they cannot differ here."
    told = [v for v in (fixed, *versus) if v is not None and v["detectable"]]
    if told:
        text += (
            f" The smallest difference from {told[0]['name'].lower()} that this many problems could show is "
            f"{points(told[0]['detectable'], sign=False)} points; anything smaller may be real and stay unseen."
        )
    pair = [(evaluated or {}).get("methods", {}).get(m) or {} for m in ("policy", "best_fixed")]
    prices, within = ([known(m.get(name)) for m in pair] for name in ("cost", "within_budget"))
    if prices[0] is not None and prices[1] is not None:
        mine, other = (cost(p, source.unit) for p in prices)
        own, its = (f", within the budget in {percent(w)} of runs" if w is not None else "" for w in within)
        text += f" The policy spends {mine} on average{own}; the best fixed strategy {other}{its}."
    return text


def _doubling(source: Source, budget: float, evaluated: Mapping[str, Any] | None) -> str:
    if evaluated is None:
        return ""
    larger = [e for e in source.evaluation["budgets"] if (known(e.get("budget")) or 0.0) >= 1.99 * budget]
    if not larger:
        return "No budget of at least twice this one was evaluated."
    step = min(larger, key=lambda e: float(e["budget"]))
    times = float(step["budget"]) / budget
    now = known(((evaluated.get("methods") or {}).get("policy") or {}).get("accuracy"))
    then = known(((step.get("methods") or {}).get("policy") or {}).get("accuracy"))
    if now is None or then is None:
        return ""
    word = "Doubling the budget" if abs(times - 2) < 0.05 else f"{multiple(times)} this budget"
    moved = (
        "changes nothing"
        if round(1000 * (then - now)) == 0
        else f"{'adds' if then > now else 'loses'} {points(abs(then - now), sign=False)} points"
    )
    pair, price = _ci(step["methods"]["policy"]), cost(step["methods"]["policy"].get("cost"), source.unit)
    after = percent(then) + (f", interval {span(*pair)}" if pair else "")
    return f"{word} {moved} on held-out problems ({percent(now)} to {after}), and the mean cost becomes {price}."


def budget_views(source: Source) -> tuple[BudgetView, ...]:
    """One view for each budget of the policy's table, in rising order."""
    views = []
    for index, row in enumerate(sorted(source.policy["table"], key=lambda r: float(r["budget"]))):
        budget, times = float(row["budget"]), known(row.get("multiple"))
        label = budget_label(budget, times, source.unit, source.reference)
        evaluated = source.evaluated(budget)
        actions = [
            _action(source, b, row["cells"].get(b) or {}, _plan(source, row.get("best_fixed"))) for b in source.buckets
        ]
        versus = _versus(evaluated) if evaluated else []
        weights = source.shares
        expected = None
        if weights and all(a["accuracy"] is not None for a in actions if weights.get(a["bucket"])):
            expected = sum(weights[a["bucket"]] * a["accuracy"] for a in actions if weights.get(a["bucket"]))
        mine = ((evaluated or {}).get("methods") or {}).get("policy")
        bars, cost_says = budget_bars(source, budget, evaluated)
        views.append(
            BudgetView(
                index=index,
                budget=budget,
                multiple=times,
                label=label,
                headline=_headline(label, actions),
                expected_accuracy=expected,
                held_out_accuracy=known((mine or {}).get("accuracy")),
                held_out_interval=_ci(mine),
                actions=tuple(actions),
                versus=tuple(versus),
                sure=_sure(source, versus, evaluated),
                doubling=_doubling(source, budget, evaluated),
                strategies=_strategies(source, index, row),
                comparison=_comparison(source, index, label, evaluated) if evaluated else None,
                cost_bars=bars,
                cost_says=cost_says,
            )
        )
    return tuple(views)
