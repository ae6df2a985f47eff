"""Does a prompt have an answer that could be checked or voted on? A heuristic on its wording."""

from __future__ import annotations

from planner.policy.characters import MAX_CHARACTERS

__all__ = ["OPEN_ENDED", "looks_open_ended"]

OPEN_ENDED = (
    *("write a", "write an", "write me", "essay", "poem", "story", "summar", "translate", "rewrite", "paraphrase"),
    *("brainstorm", "describe", "explain", "discuss", "your opinion", "advice", "recommend", "draft", "compose"),
    *("tell me about", "email", "letter to", "写一", "作文", "翻译", "总结", "介绍", "谈谈", "描述", "解释"),
)
_CHECKABLE = ("how many", "how much", "find ", "compute", "calculate", "evaluate", "solve", "determine", "\\boxed", "$")
_CHECKABLE_CJK = ("多少", "几", "求", "计算", "解方程")


def looks_open_ended(prompt: str) -> bool:
    """Whether a prompt seems to have no answer that could be checked or voted on (a heuristic on its wording)."""
    text = prompt[:MAX_CHARACTERS].lower()
    if not any(cue in text for cue in OPEN_ENDED):
        return False
    numbers = sum(c.isdigit() for c in text)
    return numbers < 3 and not any(cue in text for cue in (*_CHECKABLE, *_CHECKABLE_CJK))
