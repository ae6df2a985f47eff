"""The planner in a Python program: choose, explain, solve, and share one budget over many prompts.

python examples/plain_python.py
"""

from __future__ import annotations

import planner

PROMPT = "Calculate 58 - 3 * 6."

# Which strategy, within 8 times the cost of a greedy answer? Takes a fraction of a millisecond, generates nothing.
plan = planner.choose(PROMPT, "8x")
print(plan.strategy, dict(plan.hyperparameters), "with", plan.policy_model)
print(plan.explain())

# Choose and run it; what is spent, verifier included, never exceeds the budget.
solution = planner.solve(PROMPT, "8x")
print("answer:", solution.answer, "|", solution.outcome, "|", f"{solution.cost.total_flops:.3g} FLOPs")

# One budget for many prompts: each gets what buys most expected accuracy, and their caps add up to the total.
prompts = [f"Calculate {a} - {a % 7} * 6." for a in range(20, 60)]
plans = planner.choose_many(prompts, total_budget="400x")
for strategy in sorted({p.strategy for p in plans}):
    print(strategy, "for", sum(p.strategy == strategy for p in plans), "prompts")
