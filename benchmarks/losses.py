"""Where the accuracy goes between what a policy does and what could be had, from policies that were fitted.

    python benchmarks/losses.py POLICY... [--json] [--into FILE --section NAME]

Every figure is the nested cross-validation that `planner fit` wrote into the policy's folder (`planner evaluate`). At
each budget, in points of accuracy:

    gain        the policy over the best fixed strategy
    kept        of what the true bucket gains over it, where that is significant, the share that prediction keeps
    within      the share of the policy's runs that the budget paid for
    predictor   what is lost because difficulty is predicted: the policy with the true bucket, less the policy
    selection   what is lost because a bucket is not a problem: the best plan of each problem by its own outcomes, less
                the policy with the true bucket
    unreachable what no plan of this bank could get at this budget: 1 less the best plan of each problem

With --into, the tables replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.policy.folder import read_policy
from planner.policy.held_out import evaluation_of
from planner.policy.plan import amount_text

LEVELS = ("best_of_n", "majority", "adaptive", "cheapest")


def losses(folder: Path) -> dict[str, Any]:
    """The evaluation's figures with the losses of each budget; what a bank cannot tell is None."""
    found = evaluation_of(read_policy(folder))
    rows = []
    for entry in found["budgets"]:
        methods = {n: None if m is None else m["accuracy"] for n, m in entry["methods"].items()}
        oracle, known, mine = (methods[n] for n in ("oracle", "policy_oracle_difficulty", "policy"))
        against = (entry.get("differences") or {}).get("best_fixed") or {}
        oracle_gain = entry.get("oracle_difficulty_gain") or {}
        sure = bool(oracle_gain) and oracle_gain["ci"][0] > 0
        rows.append(
            {
                "budget": entry["budget"], "cost": entry["methods"]["policy"]["cost"], **methods,
                "gain": against.get("difference"), "gain_ci": against.get("ci"),
                "detectable": against.get("detectable"), "oracle_gain": oracle_gain.get("difference"),
                "oracle_gain_ci": oracle_gain.get("ci"),
                "kept": against["difference"] / oracle_gain["difference"] if sure else None,
                "within": entry["methods"]["policy"].get("within_budget"),
                "predictor": None if known is None else known - mine,
                "selection": oracle - (mine if known is None else known), "unreachable": 1 - oracle,
            }
        )  # fmt: skip
    return {
        "policy": found["policy"], "problems": found["problems"], "folds": found["folds"], "unit": found["unit"],
        "budgets": rows, "efficiency_gain": found["efficiency_gain"], "predictor": _predictor(found["predictor"]),
        "drop": found["drop"], "missing": found["missing"],
    }  # fmt: skip


def _predictor(figures: dict[str, Any] | None) -> dict[str, Any] | None:
    names = ("log_loss", "base_log_loss", "log_loss_gain_ci", "spearman", "spearman_ci", "calibration_error",
             "calibration_error_ci")  # fmt: skip
    return None if figures is None else {name: figures.get(name) for name in names}


def markdown(found: dict[str, Any]) -> str:
    """Tables of one policy for a document."""
    lines = [
        f"`{found['policy']}`: {found['problems']} problems, {found['folds']}-fold nested cross-validation.", "",
        "| budget | spent | within it | best fixed | policy | gain (95 %) | true bucket | its gain (95 %) | kept | "
        "own outcomes | predictor loses | selection loses |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in found["budgets"]:
        cells = (
            amount_text(row["budget"], found["unit"]), amount_text(row["cost"], found["unit"]),
            _percent(row["within"]), _share(row["best_fixed"]), _share(row["policy"]),
            _interval(row["gain"], row["gain_ci"]), _share(row["policy_oracle_difficulty"]),
            _interval(row["oracle_gain"], row["oracle_gain_ci"]), _percent(row["kept"]), _share(row["oracle"]),
            _points(row["predictor"]), _points(row["selection"]),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    gains = [(name, e) for name in LEVELS for e in found["efficiency_gain"].get(name) or []]
    if gains:
        lines += [
            "",
            "| against | at its N | accuracy | its compute over the policy's (95 %) |",
            "| --- | --- | --- | --- |",
        ]
        for name, e in gains:
            low, high = e["ci"]
            value = "never reached" if e["value"] is None else f"{e['value']:.2f} ({low:.2f} to {high:.2f})"
            bound = "at least " if e["lower_bound"] and e["value"] is not None else ""
            lines.append(f"| {name.replace('_', ' ')} | {e['n']} | {e['at_accuracy']:.3f} | {bound}{value} |")
    if found["predictor"]:
        p = found["predictor"]
        rank = "unknown" if p["spearman"] is None else f"{p['spearman']:.2f}"
        lines += ["", (
            f"Predictor: log loss {p['log_loss']:.3f} a sample against {p['base_log_loss']:.3f} of the base rate, rank "
            f"correlation {rank}, debiased calibration error {p['calibration_error']:.3f}."
        )]  # fmt: skip
    if found["drop"]:
        lines += ["", (
            f"Chosen on training folds {found['drop']['chosen']:.3f}, held out {found['drop']['held_out']:.3f} (policy "
            "with the true bucket, mean over budgets)."
        )]  # fmt: skip
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _interval(value: float | None, ci: list[float] | None) -> str:
    return "-" if value is None or ci is None else f"{_points(value)} ({_points(ci[0])} to {_points(ci[1])})"


def fill(path: Path, section: str, text: str) -> None:
    """Put `text` between the section's marks. Raises InputError where the document has none."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    document = path.read_text(encoding="utf-8")
    if document.count(begin) != 1 or document.count(end) != 1:
        raise InputError("no such section", where=str(path), field="section", value=section, expected=f"{begin} {end}")
    before, rest = document.split(begin)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", type=Path, metavar="POLICY")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--section", default="laboratory")
    args = parser.parse_args()
    found = [losses(policy) for policy in args.policies]
    if args.json:
        print(json.dumps(found))
        return
    text = "\n\n".join(markdown(each) for each in found)
    if args.into is None:
        print(text)
        return
    fill(args.into, args.section, text)
    print(f"filled {args.section} of {args.into}")


if __name__ == "__main__":
    main()
