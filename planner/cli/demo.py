"""`planner demo`: profile, fit, report and choose on the laboratory, as a newcomer would."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

from planner.cli.output import console, human_count, human_seconds, progress_bar

__all__ = ["run_demo"]


def run_demo(output: Path, *, quiet: bool = False, console: Console = console) -> dict[str, Any]:
    """Run the whole job under `output`: `bank/`, `policy/`, `report.html`. What is there already is kept.

    Returns where they are, what was generated now and in how many seconds, and the plans of two prompts.
    """
    from planner.api import load
    from planner.models.shipped import shipped
    from planner.policy.fit import fit, is_current
    from planner.profiling.run import profile
    from planner.report import write_report
    from planner.report.terminal import show
    from planner.tasks.lab import worked_problems

    started = time.monotonic()
    bank, policy, report = output / "bank", output / "policy", output / "report.html"

    console.rule("[bold]1. profile[/]: small language models answer problems under several strategies")
    with progress_bar("profile", quiet=quiet) as advance:
        measured = profile(shipped("recipes", "lab-demo.toml"), bank, progress=advance)
    console.print(
        f"{human_count(measured.generated_tokens)} tokens generated in {human_seconds(measured.seconds)}"
        if measured.generated_tokens
        else "everything was already in the bank, nothing was generated"
    )

    console.rule("[bold]2. fit[/]: the best strategy for each difficulty and budget, judged on held-out problems")
    if is_current(policy, bank):
        console.print("the policy was already fitted to this bank")
    else:
        with progress_bar("fit", quiet=quiet) as advance:
            fit(bank, policy, progress=advance)
    show(policy, console)

    console.rule("[bold]3. report[/]")
    write_report(policy, report)
    console.print(f"written to [bold]{report}[/]")

    console.rule("[bold]4. choose[/]: two held-out prompts, the same budget")
    planner, plans = load(policy), []
    for prompt, budget in _two_prompts(planner, [p.question for p in worked_problems("held_out", 60)]):
        plan = planner.choose(prompt, budget)
        plans.append({"prompt": prompt, **plan.to_dict()})
        chances = ", ".join(f"{bucket} {share:.0%}" for bucket, share in plan.difficulty.items())
        told = f"difficulty: {chances}; cost {plan.cost_scale:.1f} times a typical prompt's"
        console.print(Panel(f"{prompt}\n[dim]{told}[/]\n{plan.reason}", title=f"budget {budget}"))

    console.print(
        f"\nDone in {human_seconds(time.monotonic() - started)}. Bank [bold]{bank}[/], policy [bold]{policy}[/], "
        f"report [bold]{report}[/] (open it in a browser).\nTry next:\n"
        f'  planner choose "Calculate 58 - 3 * 6." --budget 8x --explain --policy {policy}\n'
        f'  planner solve "Calculate 58 - 3 * 6." --budget 8x --policy {policy}\n'
        f"  planner import YOUR_SAMPLES.jsonl -o runs/mine && planner fit runs/mine -o runs/mine-policy",
        markup=True,
    )
    return {
        "bank": str(bank),
        "policy": str(policy),
        "report": str(report),
        "generated_tokens": measured.generated_tokens,
        "seconds": time.monotonic() - started,
        "plans": plans,
    }


def _two_prompts(planner: object, prompts: list[str]) -> list[tuple[str, str]]:
    """The prompts that look easiest and hardest to the predictor, at the first budget where their plans differ."""
    by_ease = sorted(prompts, key=lambda prompt: planner.choose(prompt, "8x").difficulty["easy"])  # type: ignore[attr-defined]
    hardest, easiest = by_ease[0], by_ease[-1]
    for budget in ("4x", "8x", "16x", "32x", "64x"):
        plans = [planner.choose(prompt, budget) for prompt in (easiest, hardest)]  # type: ignore[attr-defined]
        if plans[0].spec != plans[1].spec:
            return [(easiest, budget), (hardest, budget)]
    return [(easiest, "8x"), (hardest, "8x")]
