"""Whether completions stand under the problems they answer.

Three looks, each at what a bank has: prompts against completions (a text takes up the numbers and words of the prompt
that it answers), answers across problems (samples of one problem agree with one another and with its gold answer more
than with others'), and labels across runs (a problem that is easy in one file is easy in the other).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from planner.tasks.answers import canonical

__all__ = ["contradictions", "misplaced"]

_WORD = re.compile(r"\d+|[^\W\d_]{2,}")
_MOST_TEXTS = 2000
_FEWEST_PROBLEMS, _FEWEST_TEXTS = 10, 20
_TOLD, _WORDS = 0.15, 3
"""A text that covers less of every prompt (by weight), or shares fewer words with it, tells nothing about whose it is:
a bare answer may be a number of another prompt."""
_OWN_RANK, _LOST_SHARE = 0.75, 0.25
_FEWEST_SHARED = 20


def misplaced(problems: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons to think that completions stand under other problems than their own; [] where nothing speaks for it.

    `problems` by id with `prompt` and `gold`; `samples` with `problem_id`, `text` and `answer_key`.
    """
    by_text = _by_prompts(problems, samples)
    by_answer = _by_answers(problems, samples)
    # Answers alone may be at odds because a model guesses; texts that belong to other prompts have no such excuse.
    return [*by_text, *by_answer] if by_text or len(by_answer) == 2 else []


def _by_prompts(problems: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    words = {name: _words(row["prompt"]) for name, row in problems.items() if row.get("prompt")}
    written = [s for s in samples if s.get("text") and s["problem_id"] in words]
    if len(words) < _FEWEST_PROBLEMS or len(written) < _FEWEST_TEXTS:
        return []
    frequency = Counter(word for own in words.values() for word in own)
    weight = {word: math.log(len(words) / count) for word, count in frequency.items()}
    place = {name: i for i, name in enumerate(words)}
    holders: dict[str, list[int]] = defaultdict(list)
    for name, own in words.items():
        for word in own:
            holders[word].append(place[name])
    whole = np.array([max(sum(weight[w] for w in own), 1e-9) for own in words.values()])
    ranks: dict[str, list[float]] = defaultdict(list)
    for sample in written[:: max(1, math.ceil(len(written) / _MOST_TEXTS))]:
        covered, shared = np.zeros(len(words)), np.zeros(len(words))
        for word in _words(sample["text"]) & weight.keys():
            covered[holders[word]] += weight[word]
            shared[holders[word]] += weight[word] > 0
        covered /= whole
        if covered.max() >= _TOLD and shared[covered.argmax()] >= _WORDS:
            mine = covered[place[sample["problem_id"]]]
            below = (covered < mine).sum() + 0.5 * ((covered == mine).sum() - 1)
            ranks[sample["problem_id"]].append(float(below) / (len(words) - 1))
    texts = sum(len(r) for r in ranks.values())
    if texts < _FEWEST_TEXTS or len(ranks) < _FEWEST_PROBLEMS:
        return []
    means = np.array([np.mean(r) for r in ranks.values()])
    rank, lost = float(means.mean()), float((means < 0.5).mean())
    if rank >= _OWN_RANK and lost <= _LOST_SHARE:
        return []
    return [
        f"{texts} completions take up what their own prompt says more than {rank:.0%} of the other prompts"
        f" (completions in their place: over 95 %, at random 50 %), and for {lost:.0%} of the problems less than half"
    ]


def _by_answers(problems: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        if sample.get("answer_key"):
            votes[sample["problem_id"]][sample["answer_key"]] += 1
    total: Counter[str] = sum(votes.values(), Counter())
    count = total.total()
    several = {name: own for name, own in votes.items() if own.total() > 1}
    golds = {name: canonical(str(problems[name]["gold"])) for name in votes if problems.get(name, {}).get("gold")}
    # Where a few answers serve for all problems (multiple choice), guessing looks the same as misplacing.
    if len(votes) < _FEWEST_PROBLEMS or count < _FEWEST_TEXTS or len(set(golds.values())) < len(votes) / 2:
        return []
    reasons = []
    if len(several) >= _FEWEST_PROBLEMS:
        within = np.array(
            [sum(c * (c - 1) for c in v.values()) / (v.total() * (v.total() - 1)) for v in several.values()]
        )
        across = (sum(c * c for c in total.values()) - sum(c * c for v in votes.values() for c in v.values())) / max(
            count**2 - sum(v.total() ** 2 for v in votes.values()), 1
        )
        margin = 2 * float(within.std(ddof=1)) / math.sqrt(len(within))
        if within.mean() <= across + margin:
            reasons.append(
                f"two samples of one problem agree {within.mean():.1%} of the time, those of different problems"
                f" {across:.1%}"
            )
    if len(golds) >= _FEWEST_PROBLEMS:
        rates = np.array([votes[name][gold] / votes[name].total() for name, gold in golds.items()])
        shares = Counter(golds.values())
        chance = sum(total[gold] / count * n for gold, n in shares.items()) / len(golds)
        if rates.mean() <= chance + 2 * float(rates.std(ddof=1)) / math.sqrt(len(rates)):
            reasons.append(
                f"{rates.mean():.1%} of the samples give their own problem's answer, {chance:.1%} would by chance"
            )
    return reasons


def contradictions(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What samples of the same problems, by file, say against one another: labels and success."""
    labels: dict[tuple[str, str], set[bool]] = defaultdict(set)
    success: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in files}
    for name, rows in files.items():
        for row in rows:
            if row["correct"] is not None:
                success[name][row["problem_id"]].append(row["correct"])
                if row.get("answer_key"):
                    labels[row["problem_id"], row["answer_key"]].add(row["correct"])
    found = []
    if both := sum(len(said) > 1 for said in labels.values()):
        found.append(f"{both} of {len(labels)} answers are labelled right in one place and wrong in another")
    names = list(files)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = sorted(success[first].keys() & success[second].keys())
            a, b = (np.array([np.mean(success[n][p]) for p in shared]) for n in (first, second))
            if len(shared) < _FEWEST_SHARED or not a.std() or not b.std():
                continue
            together = float(np.corrcoef(a, b)[0, 1])
            if together < 2 / math.sqrt(len(shared)):
                found.append(
                    f"success on {len(shared)} shared problems in {first} and in {second} does not go together"
                    f" (correlation {together:.2f}): one of them may stand under other problems"
                )
    return found


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
