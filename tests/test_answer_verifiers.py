"""Verifiers of whole answers: outcome reward models, judges, rules and tests that are run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scripted import END, SHAPE, ScriptedEngine
from tiny_checkpoints import LLAMA_CHAT, QUESTION, QWEN_CHAT, STEPS, byte_level, plain, save, sizes
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification, Qwen2Config

from planner.core import GenerationRequest, Outcome, Problem, ScoreRequest
from planner.errors import InputError, VerifierError
from planner.models.cards import JudgeCard, OutcomeCard, load_card, read_card, shipped_cards
from planner.models.code_verifier import CodeVerifier, GeneratedTests, KnownTests
from planner.models.contract import VERIFIER_CHECKS
from planner.models.judge import JudgeVerifier
from planner.models.outcome_verifier import OutcomeVerifier
from planner.models.rule_verifier import RuleVerifier
from planner.models.shipped import load_verifier
from planner.runtime.driver import Job, run_flows
from planner.strategies import BeamSearch, BestOfN
from planner.tasks.sandbox import Limits, run_program
from planner.tasks.task import Task, load_task

SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
ANSWER = "\n\n".join(STEPS)


def asks(*answers: tuple[str, ...]) -> list[ScoreRequest]:
    return [ScoreRequest(prompt=QUESTION, steps=steps) for steps in answers]


# --- outcome reward models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    folder: Path
    direct: Callable[[str], tuple[int, float]]
    """(input tokens, score) of an answer, computed as the publisher's code does."""


def sequence_classifier(folder: Path) -> Family:
    """The true class saves the checkpoint and computes the score."""
    tokenizer = byte_level(3, SPECIAL, bos=SPECIAL[0], adds_bos=True, chat=LLAMA_CHAT)
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(LlamaConfig(**sizes(tokenizer), num_labels=1)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def direct(answer: str) -> tuple[int, float]:
        chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(chat, tokenize=True, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.inference_mode():
            return ids.shape[1], model(input_ids=ids).logits[0][0].sigmoid().item()

    return Family(folder, direct)


def qwen_math_rm(folder: Path) -> Family:
    tokenizer = byte_level(1, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], bos=None, adds_bos=False, chat=QWEN_CHAT)
    torch.manual_seed(5)
    head = {"score.0": nn.Linear(32, 32), "score.2": nn.Linear(32, 1)}
    save(folder, Qwen2Config(**sizes(tokenizer)), tokenizer, head)
    score = nn.Sequential(head["score.0"], nn.ReLU(), head["score.2"])

    def direct(answer: str) -> tuple[int, float]:
        text = (
            "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
            f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        )
        ids = tokenizer.encode(text)
        with torch.inference_mode():
            return len(ids), score(plain(folder, ids)[1])[-1, 0].sigmoid().item()

    return Family(folder, direct)


FAMILIES = {"sequence-classifier": sequence_classifier, "qwen-math-rm": qwen_math_rm}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return request.param, FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def test_every_outcome_card_is_tried_here():
    assert {name for name, card in shipped_cards().items() if card.kind == "outcome"} == set(FAMILIES)


def test_the_scalar_is_that_of_a_direct_computation(family):
    card, tiny = family
    verifier = load_verifier(f"transformers:{tiny.folder}?card={card}")
    assert verifier.info.outcome
    assert not verifier.info.incremental
    answers = [STEPS[:1], STEPS, (*STEPS, "then first three"), STEPS[1:]]
    mine = verifier.score(asks(*answers))
    for steps, result in zip(answers, mine, strict=True):
        tokens, score = tiny.direct("\n\n".join(steps))
        assert result.scores == pytest.approx((score,), abs=1e-5)
        assert result.tokens == result.computed_tokens == tokens
    assert max(r.scores[0] for r in mine) - min(r.scores[0] for r in mine) > 1e-3, "all alike tells nothing"


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
def test_each_outcome_family_holds_the_contract(family, check):
    card, tiny = family
    check(OutcomeVerifier(tiny.folder, card=read_card(card), device="cpu"), QUESTION, STEPS)


def test_a_template_of_ones_own_replaces_the_tokenizers(family, tmp_path: Path):
    card, tiny = family
    head = list(read_card(card).head)
    template = "Q: {question}\nA: {answer}\n"
    (tmp_path / "mine.toml").write_text(f'kind = "outcome"\nhead = {head}\ntemplate = {template!r}\n'.replace("'", '"'))
    verifier = load_verifier(f"transformers:{tiny.folder}?card={tmp_path / 'mine.toml'}")
    (mine,) = verifier.score(asks(STEPS[:1]))
    (theirs,) = load_verifier(f"transformers:{tiny.folder}?card={card}").score(asks(STEPS[:1]))
    assert mine.tokens == verifier.count_tokens(QUESTION, STEPS[:1]) < theirs.tokens
    assert mine.scores != theirs.scores


def test_outcome_inputs_that_cannot_be_are_errors(family, tmp_path: Path):
    card, tiny = family
    verifier = load_verifier(f"transformers:{tiny.folder}?card={card}")
    with pytest.raises(VerifierError, match=r"longer than its 512"):
        verifier.score(asks(("one two three " * 400,)))
    with pytest.raises(InputError, match=r"no such layer.*card of another model"):
        OutcomeVerifier(tiny.folder, card=OutcomeCard(head=("v_head",)), device="cpu")
    with pytest.raises(InputError, match=r"`kind` = 'outcome'.*process"):
        load_card(card)
    for given, words in (
        ({"template": "{question}"}, r"\{question\} and \{answer\}"),
        ({"head": ()}, "no read-out"),
    ):
        with pytest.raises(InputError, match=words):
            OutcomeCard(**given)
    untemplated = byte_level(3, SPECIAL, bos=SPECIAL[0], adds_bos=True, chat=None)
    save(tmp_path, LlamaConfig(**sizes(untemplated)), untemplated, {"score": nn.Linear(32, 1)})
    with pytest.raises(InputError, match=r"no chat template.*`template`"):
        OutcomeVerifier(tmp_path, card=OutcomeCard(), device="cpu")


# --- judges -------------------------------------------------------------------------------------------------------

YES_NO = JudgeCard(
    prompt="{question}|{answer}|Yes or No?", read="probability", positive="Yes", negative="No", max_tokens=4
)
MARK = JudgeCard(prompt="{question}|{answer}", read="number", max_tokens=40, pattern=r"Rating:\s*(-?\d+)", high=10)


def judge(said: dict[str, str] | str, card: JudgeCard, logprob: float | None = math.log(0.8)) -> JudgeVerifier:
    """`said` by the answer that is judged, or always the same."""

    def script(request: GenerationRequest) -> str:
        answer = request.prompt.split("|")[1]
        return (said if isinstance(said, str) else said[answer]) + END

    return JudgeVerifier(ScriptedEngine(script, logprob=None if logprob is None else lambda text: logprob), card)


def test_a_probability_is_read_from_the_first_word():
    said = {"a": "Yes", "b": "No", "c": " yes", "d": "Perhaps", "e": "", "f": "Y"}
    scores = [r.scores for r in judge(said, YES_NO).score(asks(*[(answer,) for answer in said]))]
    assert scores[0] == scores[2] == scores[5] == pytest.approx((0.8,))
    assert scores[1] == pytest.approx((0.2,))
    assert scores[3] == scores[4] == (), "what cannot be read is no score, and not 0"


def test_a_number_is_the_last_that_the_pattern_finds():
    said = {"a": "Rating: 3. No: Rating: 7", "b": "Rating: 0", "c": "fine", "d": "Rating: 11", "e": "Rating: -1"}
    verifier = judge(said, MARK, logprob=None)
    scores = [r.scores for r in verifier.score(asks(*[(answer,) for answer in said]))]
    assert scores == [(0.7,), (0.0,), (), (), ()]
    assert verifier.unread == 3


def test_a_judge_needs_log_probabilities_only_where_its_card_reads_them():
    with pytest.raises(VerifierError, match=r"no log-probabilities.*judge-rubric"):
        judge("Yes", YES_NO, logprob=None).score(asks(("a",)))


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("card", [YES_NO, MARK], ids=["probability", "number"])
def test_a_judge_holds_the_contract(card, check):
    def script(request: GenerationRequest) -> str:
        drawn = random.Random(request.prompt).randint(0, 11)
        return (("Yes" if drawn % 2 else "No") if card is YES_NO else f"Rating: {drawn}") + END

    check(JudgeVerifier(ScriptedEngine(script, logprob=lambda text: -0.3), card), QUESTION, STEPS)


@pytest.mark.parametrize("card", [name for name, card in shipped_cards().items() if card.kind == "judge"])
def test_shipped_judges_ask_and_read(card):
    """The shipped prompts hold question and answer, and a judge that obeys them is read."""
    seen = []

    def script(request: GenerationRequest) -> str:
        seen.append(request.prompt)
        return "No" + END if card == "judge-yes-no" else "The second step is wrong.\nRating: 4" + END

    verifier = JudgeVerifier(ScriptedEngine(script, logprob=lambda text: math.log(0.9)), read_card(card))
    (result,) = verifier.score(asks(STEPS))
    assert result.scores == pytest.approx((0.1 if card == "judge-yes-no" else 0.4,))
    assert QUESTION in seen[0]
    assert ANSWER in seen[0]


def test_a_real_engine_judges():
    """The laboratory's model was never taught to judge: what it says is mostly unreadable, and stays unscored."""
    verifier = load_verifier("judge:judge-yes-no:lab:lab-small")
    (result,) = verifier.score(asks(("1 + 1 = 2",)))
    assert len(result.scores) <= 1
    assert result.tokens == verifier.count_tokens(QUESTION, ("1 + 1 = 2",))
    assert verifier.info.shape is not None


def test_what_a_judge_spends_is_metered_and_unscored_answers_lose():
    """Best-of-n through a judge: the scored answer is chosen over those that the judge could not tell."""
    texts = ["#### 1", "#### 2", "#### 3"]
    engine = ScriptedEngine(lambda request: texts[request.index] + END)
    verifier = judge({"#### 1": "hm", "#### 2": "Rating: 1", "#### 3": "hm"}, MARK)
    problem = Problem(problem_id="p", prompt="q", max_tokens=20)
    (run,) = run_flows([Job(problem, BestOfN(n=3))], {"m": engine}, verifier, default_policy_model="m")
    assert run.answer.answer == "2"
    assert [candidate.scores or None for candidate in run.answer.candidates] == [None, (0.1,), None]
    assert run.usage.scored_tokens == sum(verifier.count_tokens("q", (text,)) for text in texts)
    assert run.cost.verifier_flops > 0


def test_a_judge_leads_a_search():
    engine = ScriptedEngine(lambda r: ["right\n\n", "wrong\n\n"][r.index % 2] if not r.prefix else f"#### 1{END}")
    verifier = judge({"right": "Rating: 9", "wrong": "Rating: 1", "right\n\n#### 1": "Rating: 10"}, MARK)
    problem = Problem(problem_id="p", prompt="q", max_tokens=60)
    (run,) = run_flows([Job(problem, BeamSearch(n=2, expansions=2))], {"m": engine}, verifier, default_policy_model="m")
    assert run.answer.outcome is Outcome.FINISHED
    assert run.answer.text == "right\n\n#### 1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "{question}"}, r"\{question\} and \{answer\}"),
        ({"read": "guess"}, "probability or number"),
        ({"negative": "Yesterday"}, "cannot be told apart"),
        ({"negative": None}, "cannot be told apart"),
        ({"max_tokens": 0}, "1 or more"),
        ({"read": "number", "pattern": "("}, "no regular expression"),
        ({"read": "number", "pattern": "a"}, "0 groups"),
        ({"read": "number", "pattern": "(a)", "high": 0}, "more than 0"),
    ],
)
def test_judges_that_contradict_themselves_are_refused(changes, words):
    whole = {"prompt": "{question}{answer}", "read": "probability", "positive": "Yes", "negative": "No"}
    with pytest.raises(InputError, match=words):
        JudgeCard(**{**whole, **changes})


# --- rules --------------------------------------------------------------------------------------------------------


def polite(prompt: str, answer: str) -> float | None:
    return None if "?" in answer else float("please" in answer)


def test_the_tasks_own_checker_is_a_verifier():
    task = load_task("lab", count=2)
    verifier = RuleVerifier.of_task(task)
    first = task.problems[0]
    requests = [
        ScoreRequest(prompt=first.prompt, steps=steps)
        for steps in (("1", f"#### {first.gold}"), ("#### -12345",), ("1 + 1 = 2",))
    ]
    results = verifier.score(requests)
    assert [r.scores for r in results] == [(1.0,), (0.0,), ()], "a partial answer has no score yet"
    assert all(r.tokens == r.computed_tokens == 0 for r in results)
    with pytest.raises(VerifierError, match=r"no gold answer for the prompt 'unknown'"):
        verifier.score([ScoreRequest(prompt="unknown", steps=("#### 1",))])
    other = RuleVerifier.of_task(load_task("lab", count=3))
    assert other.info.fingerprint != verifier.info.fingerprint


def test_a_rule_costs_nothing_and_a_budget_holds_with_it():
    engine = ScriptedEngine(lambda request: f"#### {request.index}{END}")
    task = Task(
        name="t",
        problems=(Problem(problem_id="p", prompt="q", gold="2", max_tokens=20),),
        check=lambda answer, gold: answer == gold,
    )
    job = Job(task.problems[0], BestOfN(n=4), budget_flops=SHAPE.flops_2nd(2000.0))
    (run,) = run_flows([job], {"m": engine}, RuleVerifier.of_task(task), default_policy_model="m")
    assert run.answer.answer == "2"
    assert run.cost.verifier_flops == 0.0
    assert run.cost.total_flops > 0


def test_a_rule_of_ones_own():
    verifier = load_verifier(f"rule:{__file__}:polite")
    assert [r.scores for r in verifier.score(asks(("please",), ("go",), ("what?",)))] == [(1.0,), (0.0,), ()]
    with pytest.raises(VerifierError, match=r"a score of 7.*\[0, 1\]"):
        RuleVerifier(lambda prompt, answer: 7, name="seven", fingerprint="7").score(asks(("a",)))
    with pytest.raises(InputError, match=r"`verifier`.*has no function 'nothing'"):
        load_verifier(f"rule:{__file__}:nothing")


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
def test_a_rule_holds_the_contract(check):
    check(RuleVerifier(polite, name="polite", fingerprint="1"), QUESTION, STEPS)


# --- tests that are run -------------------------------------------------------------------------------------------

QUICK = Limits(seconds=10.0, memory_bytes=256 << 20)


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("assert 1 + 1 == 2", "passed"),
        ("assert 1 + 1 == 3", "failed"),
        ("syntax error", "failed"),
        ("import sys; sys.exit(0)", "failed"),
        ("import os; os._exit(0)", "failed"),
        ("x = 'a' * (1 << 29)", "failed"),
        ("open('big', 'w').write('a' * (1 << 22))", "failed"),
        ("import os; assert not [n for n in os.environ if 'KEY' in n]; assert os.listdir('.') == []", "passed"),
        ("assert input() == ''", "failed"),
        ("assert __name__ == '__main__'", "passed"),
        ("print('a' * (1 << 24))", "passed"),
    ],
)
def test_programs_run_within_limits(source, verdict, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "sk-1")
    assert run_program(source, QUICK) == verdict


def test_what_runs_on_is_ended_with_all_that_it_started(tmp_path: Path):
    mark = tmp_path / "child"
    source = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(mark)!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    assert run_program(source, Limits(seconds=10)) == "timed out"
    state = Path(f"/proc/{mark.read_text()}/stat")
    # One that nobody has waited for yet is a zombie: it has ended.
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"


CODE = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
TESTS = KnownTests({QUESTION: ("assert add(1, 2) == 3", "assert add(1, 2) == 4", "assert add(-1, 1) == 0")})


def test_the_score_is_the_share_of_tests_that_the_last_block_passes():
    verifier = CodeVerifier(TESTS, run_code=True, limits=QUICK)
    broken = "```python\ndef add(a, b):\n    raise ValueError\n```"
    results = verifier.score(asks((CODE,), (broken,), (broken, CODE), ("no code",)))
    assert [r.scores for r in results] == [pytest.approx((2 / 3,)), (0.0,), pytest.approx((2 / 3,)), ()]
    with pytest.raises(VerifierError, match="no tests for the prompt 'else'"):
        verifier.score([ScoreRequest(prompt="else", steps=(CODE,))])


def test_running_code_has_to_be_asked_for(tmp_path: Path):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"text": "Add.", "test_list": ["assert add(1, 2) == 3"]}\n')
    with pytest.raises(InputError, match=r"runs code that a model wrote.*run_code=yes"):
        load_verifier(f"tests:run_code=no:{file}")
    verifier = load_verifier(f"tests:run_code=yes:{file}")
    assert verifier.score([ScoreRequest(prompt="Add.", steps=(CODE,))])[0].scores == (1.0,)
    file.write_text('{"text": "Add.", "tests": []}\n')
    with pytest.raises(InputError, match=r"line 1.*`tests`.*no tests"):
        load_verifier(f"tests:run_code=yes:{file}")
    with pytest.raises(InputError, match="tests:run_code=yes:FILE"):
        load_verifier("tests:run_code=yes")


def test_tests_that_a_model_writes_are_charged_once_a_prompt():
    written = "```python\nassert add(1, 2) == 3\nassert add(2, 2) == 5\nprint('x')\n```"
    engine = ScriptedEngine(lambda request: written + END if "tests" in request.prompt else CODE + END)
    verifier = CodeVerifier(GeneratedTests(engine, max_tokens=100), run_code=True, limits=QUICK)
    first, again = verifier.score(asks((CODE,), (CODE, "more")))
    assert first.scores == again.scores == (0.5,)
    assert (first.new_tokens, again.new_tokens) == (verifier.count_tokens(QUESTION, ()), 0)
    assert len(engine.batches) == 1
    problem = Problem(problem_id="p", prompt=QUESTION, max_tokens=100)
    (run,) = run_flows([Job(problem, BestOfN(n=3))], {"m": engine}, verifier, default_policy_model="m")
    assert run.usage.scored_tokens == verifier.count_tokens(QUESTION, ())
    silent = CodeVerifier(GeneratedTests(ScriptedEngine(lambda r: "none" + END)), run_code=True)
    assert silent.score(asks((CODE,)))[0].scores == (), "no tests are no failed tests"


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
def test_run_tests_hold_the_contract(check):
    prompts = [QUESTION, *(f"{QUESTION} {word}" for word in ("a", "b c d"))]
    known = KnownTests(dict.fromkeys(prompts, ("assert add(1, 2) == 3",)))
    check(CodeVerifier(known, run_code=True, limits=QUICK), QUESTION, (CODE, "more"))


def test_names_that_are_none_are_told_their_form():
    for spec, words in (
        ("judge:judge-yes-no", "judge:CARD:ENGINE"),
        ("judge:rlhflow:lab:lab-small", "a card of kind judge"),
        ("judge:nobody:lab:lab-small", "no such card"),
        ("lab:lab-prm?card=judge-yes-no", "judge:judge-yes-no:transformers:"),
        ("tests-by:lab", "tests-by:run_code=yes:ENGINE"),
    ):
        with pytest.raises(InputError, match=words):
            load_verifier(spec)
