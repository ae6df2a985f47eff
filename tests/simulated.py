"""Banks with a known law, as an object with the parts of a Bank that fitting reads (tests only)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

RUN_COLUMNS = [
    "problem_id", "policy_model", "verifier", "strategy", "hyperparameters", "correct", "prompt_tokens", "generated_tokens",
    "scored_tokens", "prefill_flops", "decode_flops", "verifier_flops",
]  # fmt: skip


@dataclass
class FakeBank:
    problems: pd.DataFrame
    samples: pd.DataFrame
    runs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=RUN_COLUMNS))
    manifest: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        return "simulated"


CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 16, "intermediate_size": 256, "vocab_size": 128, "tie_word_embeddings": True, "max_position_embeddings": 512,
}  # fmt: skip


def simulate(
    problems: int = 120,
    n: int = 16,
    *,
    models: dict[str, float] | None = None,
    temperatures: tuple[float, ...] = (0.8,),
    difficulty: int = 0,
    greedy: bool = True,
    scores: bool = True,
    flops: bool = True,
    levels: tuple[float, ...] = (0.9, 0.6, 0.3, 0.03),
    told: bool = True,
    seed: int = 0,
) -> tuple[FakeBank, np.ndarray]:
    """Success probability p of each problem is its class's level plus noise; wrong answers are spread over four. The
    prompt's length tells the class, unless it is not to be `told`.

    A sample of model m is right with p ** (1 / m); scores are p(right) with noise. Returns the bank and p, [problems].
    """
    rng = np.random.default_rng(seed)
    hardness = rng.integers(0, 4, problems)
    p = np.clip(np.array(levels)[hardness] + rng.normal(0, 0.04, problems), 0.005, 0.98)
    rows: list[dict[str, Any]] = []
    for name, strength in (models or {"small": 1.0}).items():
        plan = [(t, n, "score") for t in temperatures] + [(temperatures[0], difficulty, "difficulty")] * bool(
            difficulty
        )
        plan += [(0.0, 1, "score")] * greedy
        for temperature, count, role in plan:
            right = rng.random((problems, count)) < (p ** (1 / strength))[:, None]
            wrong = rng.integers(0, 4, (problems, count))
            tokens = rng.integers(20, 60, (problems, count)) * (1 + told * hardness[:, None])
            level = np.clip(0.3 + 0.4 * right + rng.normal(0, 0.2, right.shape), 0.01, 0.99)
            for i in range(problems):
                for j in range(count):
                    key = "right" if right[i, j] else f"wrong{wrong[i, j]}"
                    rows.append(
                        {
                            "problem_id": f"p{i}",
                            "policy_model": name,
                            "temperature": temperature,
                            "top_p": 1.0,
                            "index": j,
                            "answer_key": key,
                            "correct": bool(right[i, j]),
                            "finished": True,
                            "prompt_tokens": 20,
                            "generated_tokens": int(tokens[i, j]),
                            "verifier": "prm" if scores else None,
                            "scores": [float(level[i, j])] * 2 if scores else None,
                            "verifier_tokens": 20 + int(tokens[i, j]) if scores else None,
                            "role": role,
                        }
                    )
    frame = pd.DataFrame(rows)
    table = pd.DataFrame(
        {
            "problem_id": [f"p{i}" for i in range(problems)],
            "prompt": [
                f"Compute {' + '.join(str(rng.integers(1, 99)) for _ in range(2 + 3 * h * told))}." for h in hardness
            ],
            "group": [f"g{h}" for h in hardness],
        }
    )
    config = CONFIG if flops else None
    manifest = {
        "policy_models": {m: {"fingerprint": m, "config": config} for m in (models or {"small": 1.0})},
        "verifier": {"name": "prm", "fingerprint": "v", "config": config, "incremental": True} if scores else None,
        "task": {"name": "simulated"}, "seeds": {}, "source": "profile", "notes": [], "flags": [],
    }  # fmt: skip
    return FakeBank(problems=table, samples=frame, manifest=manifest), p
