"""What the server counts, for Prometheus. Each application has a registry of its own."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from planner.core import Cost, Outcome
from planner.policy.plan import Plan

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters by what an operator asks: how many, which plans, how much compute, how long."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("planner_requests", "Requests by path and status.", ("path", "status"), registry=r)
        self.plans = Counter(
            "planner_plans", "Plans by strategy and likeliest bucket.", ("strategy", "bucket"), registry=r
        )
        self.flops = Counter("planner_flops", "FLOPs spent, by part.", ("part",), registry=r)
        self.saved = Gauge(
            "planner_flops_saved",
            "FLOPs that the best fixed strategy was expected to take, less what was spent.",
            registry=r,
        )
        self.outcomes = Counter("planner_outcomes", "Answers by outcome.", ("outcome",), registry=r)
        self.budget_hits = Counter("planner_budget_hits", "Runs that their budget ended.", registry=r)
        self.cancelled = Counter("planner_cancelled", "Requests whose client went away.", registry=r)
        self.seconds = Histogram("planner_request_seconds", "Latency by path.", ("path",), buckets=_SECONDS, registry=r)
        self.in_flight = Gauge("planner_in_flight", "Requests being answered.", registry=r)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def planned(self, plan: Plan) -> None:
        difficulty = plan.difficulty
        self.plans.labels(plan.strategy, max(difficulty, key=difficulty.__getitem__)).inc()

    def answered(self, outcome: Outcome, cost: Cost, fixed_flops: float | None) -> None:
        """`fixed_flops`: what the best fixed strategy was expected to cost; None where nothing was planned."""
        self.outcomes.labels(str(outcome)).inc()
        if outcome is Outcome.OUT_OF_BUDGET:
            self.budget_hits.inc()
        parts = {
            "policy": cost.prefill_flops + cost.decode_flops,
            "verifier": cost.verifier_flops,
            "probe": cost.probe_flops,
        }
        for part, flops in parts.items():
            if math.isfinite(flops):
                self.flops.labels(part).inc(flops)
        if fixed_flops is not None and math.isfinite(cost.total_flops):
            self.saved.inc(fixed_flops - cost.total_flops)
