"""The laboratory's models: training resumes exactly, cards are held to fresh measurements, checkpoints load anywhere."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("reasoning_gym")

import torch
from typer.testing import CliRunner

from planner.cli.lab import app
from planner.errors import InputError
from planner.models.cost import ModelShape
from planner.models.lab import data, train_policy, train_prm
from planner.models.lab.card import compare_with_cards, read_card, write_card, write_measured
from planner.models.lab.corrupt import corrupt
from planner.models.lab.crossovers import crossovers
from planner.models.lab.deepen import judge_on
from planner.models.lab.evaluate import evaluate_laboratory
from planner.models.lab.grow import grow
from planner.models.lab.judge import step_scores
from planner.models.lab.measure import (
    auc,
    auc_pooled,
    auc_within,
    aucs_within,
    curves,
    policy_figures,
    solve_rates,
    standard_error,
)
from planner.models.lab.mistakes import KINDS, first_mistake, verifier_mistakes
from planner.models.lab.progress import Limit, Position
from planner.models.lab.recipe import RECIPES, VERIFIERS, PolicyRecipe, PolicyStage, Stage, VerifierRecipe, recipe_of
from planner.models.lab.shapes import SHAPES, load_model, new_model
from planner.models.lab.steps import Attempt, encode_attempts
from planner.models.lab.tokenizer import MINUS, PLUS, STEP, load_tokenizer, prompt_text
from planner.models.lab.train import VERIFIER_TOML, train_laboratory
from planner.models.shipped import shipped
from planner.profiling.importers import import_bank
from planner.tasks.lab import FAMILIES, WorkedProblem, worked_problems

MODELS = (*SHAPES, *VERIFIERS)
VERIFIER = "lab-prm"
LAB = shipped("models", "lab")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Training


class Killed(Exception):
    """Stands for a kill between two chunks."""


def _killed_at(chunk: int, function: Any, place: int) -> Any:
    """`function`, until its `place`-th argument asks for that chunk."""

    def until(*args: Any, **kwargs: Any) -> Any:
        if args[place] == chunk:
            raise Killed
        return function(*args, **kwargs)

    return until


def _weights(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["position"]["chunk"] >= 3
    return state


def _assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("chunk", "step", "tokens"):
        assert one["position"][key] == other["position"][key]
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name
    for number, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, other["optimizer"]["state"][number][name])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(LAB / "lab-small")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setattr(data, "CHUNK", 48)
    # Learning the same merges again for every run would take most of these tests' time.
    monkeypatch.setattr(train_policy, "lab_tokenizer", lambda: tokenizer)


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_policy_run_ends_like_an_uninterrupted_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = Limit(tokens=14_000)
    lines: list[str] = []
    whole = train_policy.train_policy(
        "lab-small", tmp_path / "whole", limit, checkpoint_minutes=0.0, tell=lambda _, line: lines.append(line)
    )
    assert lines
    assert "lab-small 100.0%" in lines[-1]
    with monkeypatch.context() as patch:
        patch.setattr(train_policy, "chunk_of_problems", _killed_at(2, train_policy.chunk_of_problems, 1))
        with pytest.raises(Killed):
            train_policy.train_policy("lab-small", tmp_path / "halves", limit, checkpoint_minutes=0.0)
    assert torch.load(tmp_path / "halves/lab-small/checkpoint.pt", weights_only=True)["position"]["chunk"] == 2
    again = train_policy.train_policy("lab-small", tmp_path / "halves", limit, checkpoint_minutes=0.0)
    assert (again.step, again.tokens) == (whole.step, whole.tokens)
    _assert_same(_weights(tmp_path / "whole/lab-small"), _weights(tmp_path / "halves/lab-small"))


def test_a_killed_verifier_run_ends_like_an_uninterrupted_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policies = {"lab-small": LAB / "lab-small"}

    def run(runs: Path) -> Position:
        return train_prm.train_prm(
            LAB / "lab-small", policies, runs, Limit(tokens=9_000), name="lab-prm", learning_rate=6e-4,
            sampled=4, corrupted=10, checkpoint_minutes=0.0,
        )  # fmt: skip

    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(train_prm, "round_of_attempts", _killed_at(2, train_prm.round_of_attempts, 3))
        with pytest.raises(Killed):
            run(tmp_path / "halves")
    run(tmp_path / "halves")
    _assert_same(_weights(tmp_path / "whole/lab-prm"), _weights(tmp_path / "halves/lab-prm"))


@pytest.mark.usefixtures("small_chunks")
def test_the_whole_laboratory_is_trained_from_its_recipes(tmp_path: Path) -> None:
    recipes = (
        PolicyRecipe(name="lab-small", stages=(PolicyStage(limit=Limit(tokens=5_000), revised=0.5),)),
        VerifierRecipe(
            name="lab-prm",
            start="lab-small",
            writers=("lab-small",),
            stages=(
                Stage(limit=Limit(tokens=3_000), sampled=4, corrupted=24),
                Stage(limit=Limit(tokens=6_000), sampled=8, corrupted=8),
            ),
            learning_rate=6e-4,
        ),
    )
    seen: list[tuple[int, int, str]] = []
    models = train_laboratory(tmp_path, scale=0.5, recipes=recipes, progress=lambda *told: seen.append(told))
    done = [place for place, _, _ in seen]
    assert done == sorted(done)
    assert {line.split(" ")[0] for _, _, line in seen} == {"lab-small", "lab-prm"}
    for recipe in recipes:
        card = read_card(models / recipe.name)
        assert card["training"]["tokens"] >= (2_500 if recipe.name == "lab-small" else 3_000)
        assert card["measured"] is None
        assert (models / recipe.name / "model.safetensors").exists()
    assert card["recipe"]["stages"][1] == {"tokens": 3_000, "sampled_problems": 8, "corrupted_problems": 8}
    assert (models / "lab-prm/verifier.toml").read_text() == VERIFIER_TOML
    # Started again after the end, it trains nothing and keeps what was written into the cards.
    before = (tmp_path / "lab-prm/checkpoint.pt").read_bytes()
    write_card(models / "lab-prm", {**card, "measured": {"problems": 1}})
    train_laboratory(tmp_path, scale=0.5, recipes=recipes)
    assert (tmp_path / "lab-prm/checkpoint.pt").read_bytes() == before
    assert read_card(models / "lab-prm")["measured"] == {"problems": 1}


def test_a_grown_model_computes_what_the_smaller_one_does() -> None:
    torch.manual_seed(0)
    small, large = new_model(SHAPES["lab-medium"]), new_model(SHAPES["lab-large"])
    with torch.no_grad():
        for weight in small.parameters():
            weight += 0.05 * torch.randn_like(weight)
    grow(small, large)
    ids = torch.randint(0, 512, (3, 40))
    with torch.inference_mode():
        torch.testing.assert_close(large(ids).logits, small(ids).logits, atol=1e-4, rtol=1e-4)
    loss = large(ids, labels=ids).loss
    loss.backward()
    # Both copies of a unit would learn the same, were they read alike.
    gradient = large.model.layers[0].mlp.gate_proj.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[:384], gradient[384:], rtol=0.1)


def test_a_judge_begins_with_the_attempt_s_likelihood() -> None:
    torch.manual_seed(0)
    folder = LAB / "lab-medium"
    policy, tokenizer = load_model(folder), load_tokenizer(folder)
    solved = [Attempt(p, p.steps) for p in worked_problems("profile", 140)]
    encoded = [one.ids for one in encode_attempts(tokenizer, solved)]
    newline = tokenizer.encode("\n")[0]
    judge = judge_on(policy, newline, encoded)
    seen: list[torch.Tensor] = []
    judge.model.layers[policy.config.num_hidden_layers].register_forward_pre_hook(
        lambda _layer, given, named: seen.append((*given, *named.values())[0]), with_kwargs=True
    )
    policy.model.norm.register_forward_pre_hook(lambda _norm, given: seen.append(given[0]))
    ids = torch.tensor([encoded[3]])
    with torch.inference_mode():
        judge.model(ids)
        policy.model(ids.where(ids != STEP, newline))
        kept = tuple(seen)  # the norm below adds to `seen`
        expected = [policy.lm_head(policy.model.norm(h[..., : policy.config.hidden_size])).softmax(-1) for h in kept]
    # What the policy model expects stands under the new layers, but for what waits beside it.
    torch.testing.assert_close(expected[0], expected[1], atol=0.03, rtol=0)
    # Untrained, it prefers what the policy model finds likely.
    rng = random.Random(0)
    pairs = [(one, other) for one in solved if (other := corrupt(one.problem, rng)) is not None]
    right, wrong = (step_scores(judge, tokenizer, side) for side in zip(*pairs, strict=True))
    preferred = np.mean([np.mean(a) > np.mean(b) for a, b in zip(right, wrong, strict=True)])
    assert preferred > 0.6


def test_training_a_verifier_leaves_the_policy_model_below_as_it_is(tmp_path: Path) -> None:
    run = {"learning_rate": 1e-3, "sampled": 4, "corrupted": 10}
    train_prm.train_prm(
        LAB / "lab-small", {"lab-small": LAB / "lab-small"}, tmp_path, Limit(tokens=4_000), name="lab-prm", **run
    )
    policy, judge = load_model(LAB / "lab-small"), load_model(tmp_path / "lab-prm/export")
    for own, below in zip(policy.model.layers, judge.model.layers, strict=False):
        rows, columns = own.mlp.gate_proj.weight.shape
        torch.testing.assert_close(below.mlp.gate_proj.weight[:rows, :columns], own.mlp.gate_proj.weight)
        assert (below.mlp.down_proj.weight[columns:] == 0).all()
    assert not torch.equal(judge.lm_head.weight[PLUS], judge.lm_head.weight[MINUS])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_run_cannot_be_scaled_to_nothing(scale: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scale"):
        train_laboratory(tmp_path, scale=scale)


# Shipped checkpoints


def test_recipes_make_what_is_shipped() -> None:
    assert [recipe.name for recipe in RECIPES] == list(MODELS)
    assert recipe_of("lab-huge") is None
    for recipe in RECIPES:
        card = read_card(LAB / recipe.name)
        assert card["name"] == recipe.name
        assert card["seed"] == recipe.seed
        assert {key: card["recipe"][key] for key in recipe.to_dict()} == recipe.to_dict()
        assert card["known_mistakes"]
    for verifier in VERIFIERS:
        assert (LAB / verifier / "verifier.toml").read_text() == VERIFIER_TOML


@pytest.mark.parametrize("name", MODELS)
def test_shipped_checkpoints_load_with_the_auto_classes(name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(LAB / name, local_files_only=True)
    auto = AutoTokenizer.from_pretrained(LAB / name, local_files_only=True)
    shape = ModelShape.from_config(json.loads((LAB / name / "config.json").read_text()))
    assert model.num_parameters() == shape.parameters == read_card(LAB / name)["parameters"]
    assert len(auto) == shape.vocabulary
    assert auto.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    for problem in worked_problems("held_out", 12):
        messages = [{"role": "user", "content": problem.question}]
        text = auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == prompt_text(problem.question)
        assert auto(text)["input_ids"] == load_tokenizer(LAB / name)(text)["input_ids"]
        whole = [*messages, {"role": "assistant", "content": problem.solution}]
        assert auto.apply_chat_template(whole, tokenize=False) == f"{text}{problem.solution}{auto.eos_token}"
        assert auto.decode(auto(problem.solution)["input_ids"]) == problem.solution


def test_a_shipped_policy_model_answers_through_generate() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(LAB / "lab-medium", local_files_only=True)
    auto = AutoTokenizer.from_pretrained(LAB / "lab-medium", local_files_only=True)
    prompt = auto(prompt_text("Calculate 5 + 3."), return_tensors="pt", return_token_type_ids=False)
    model.generation_config.temperature = None
    out = model.generate(**prompt, do_sample=False, max_new_tokens=32)
    text = auto.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == "5 + 3 = 8\n#### 8"


# Measuring


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keep")


@pytest.fixture(scope="module")
def measured(keep: Path) -> dict[str, Any]:
    stages: list[tuple[int, int, str]] = []
    result = evaluate_laboratory(problems=36, samples=4, seed=1, keep=keep, progress=lambda *told: stages.append(told))
    assert [done for done, _, _ in stages] == list(range(10))
    assert {total for _, total, _ in stages} == {9}
    return result


def test_an_interrupted_measurement_goes_on(measured: dict[str, Any], keep: Path, tmp_path: Path) -> None:
    for file in keep.iterdir():
        shutil.copy(file, tmp_path)
    (cut,) = tmp_path.glob("lab-prm-of-lab-small-*.json")
    whole = cut.read_text()
    cut.write_text(whole[: len(whole) // 2])
    (gone,) = tmp_path.glob("lab-prm-of-lab-medium-*.json")
    gone.unlink()
    (drawn,) = tmp_path.glob("lab-large-*.json")
    drawn.write_text(json.dumps([[["#### none"]] * 4] * 36))
    again = evaluate_laboratory(problems=36, samples=4, seed=1, keep=tmp_path)
    assert cut.read_text() == whole
    assert gone.exists()
    assert again["policies"][:2] == measured["policies"][:2]
    assert again["policies"][2]["pass_at_1"] == 0


def test_a_measurement_s_samples_become_a_bank(measured: dict[str, Any], keep: Path, tmp_path: Path) -> None:
    evaluate_laboratory(problems=36, samples=4, seed=1, keep=keep, record=tmp_path)
    folders = {folder.name for folder in tmp_path.iterdir()}
    assert folders == set(VERIFIERS)
    files = sorted((tmp_path / "lab-prm").iterdir())
    configs = {name: shipped("models", f"lab/{name}/config.json") for name in SHAPES}
    bank = import_bank(
        files, tmp_path / "bank", config=configs, verifier_config=shipped("models", "lab/lab-prm/config.json")
    ).bank
    rates = bank.samples.groupby("policy_model")["correct"].mean()
    assert {f["name"]: f["pass_at_1"] for f in measured["policies"]} == pytest.approx(rates.to_dict())
    scored = bank.samples[bank.samples["scores"].notna()]
    assert (scored["verifier_tokens"] > scored["generated_tokens"] + scored["prompt_tokens"]).all()
    assert bank.manifest["verifier"]["parameters"] > bank.manifest["policy_models"]["lab-small"]["parameters"]


def test_a_verifier_that_loves_one_wrong_answer_makes_best_of_n_fall() -> None:
    answers = [["1"] * 6 + ["2", "3"]] * 40
    right = [[answer == "1" for answer in row] for row in answers]
    scores = {"last": [[0.5, 0.6, 0.5, 0.4, 0.5, 0.5, 0.9, 0.95]] * 40}
    found = curves(solve_rates(answers, right, scores, [1, 2, 4, 8]), [1, 2, 4, 8])
    assert found["accuracy"]["best:last"][-1] == 0
    assert found["accuracy"]["majority"][-1] == 1
    assert found["accuracy"]["weighted:last"][-1] == 1
    assert [gain["mean"] for gain in found["gain_over_majority"]["best:last"]][-1] == -1
    assert len(found["gain_over_majority"]["best:last"]) == 4
    fall = found["falls"]["best:last"]
    assert fall["best_n"] == 1
    assert fall["low"] < -found["accuracy"]["best:last"][0] < fall["high"] < -0.7


@pytest.fixture
def own_cards(measured: dict[str, Any], tmp_path: Path) -> Path:
    """Models with cards that hold just these figures."""
    for name in MODELS:
        shutil.copytree(LAB / name, tmp_path / name, ignore=shutil.ignore_patterns("card.json"))
    assert [path.parent.name for path in write_measured(measured, tmp_path)] == list(MODELS)
    return tmp_path


def test_figures_have_the_promised_schema(measured: dict[str, Any]) -> None:
    document = json.loads(json.dumps(measured, allow_nan=False))
    for policy in document["policies"]:
        assert 0 < policy["pass_at_1"] < 1
        assert set(policy["buckets"]) == {"easy", "medium", "hard"}
        assert sum(policy["buckets"].values()) == pytest.approx(1)
        assert sum(m["share_of_wrong_answers"] for m in policy["mistakes"]) == pytest.approx(1)
    assert [p["name"] for p in document["policies"]] == list(SHAPES)
    assert [p["parameters"] for p in document["policies"]] == [311_872, 918_656, 5_246_208]
    assert [v["name"] for v in document["verifiers"]] == list(VERIFIERS)
    for verifier in document["verifiers"]:
        for figure in ("auc_within_problem", "auc_pooled"):
            assert set(verifier[figure]) == set(SHAPES)
            assert set(verifier["standard_errors"][figure]) == set(SHAPES)
    for figure in ("pass_at_1", "families", "buckets"):
        assert figure in document["policies"][0]["standard_errors"]


def test_shipped_cards_hold_on_other_problems(measured: dict[str, Any]) -> None:
    assert read_card(LAB / "lab-small")["measured"]["seed"] != measured["seed"]
    assert compare_with_cards(measured, LAB) == []


def test_a_true_card_passes_and_every_falsified_figure_is_named(measured: dict[str, Any], own_cards: Path) -> None:
    assert compare_with_cards(measured, own_cards) == []
    for name, path in (
        ("lab-small", ("pass_at_1",)),
        ("lab-medium", ("buckets", "hard")),
        ("lab-medium", ("families", "gcd")),
        (VERIFIER, ("auc_within_problem", "lab-small")),
    ):
        true = read_card(own_cards / name)
        card = json.loads(json.dumps(true))
        _at(card["measured"], path[:-1])[path[-1]] += 0.01  # its own list of problems says otherwise
        write_card(own_cards / name, card)
        (wrong,) = compare_with_cards(measured, own_cards)
        assert (wrong.model, wrong.figure, wrong.standard_errors) == (name, ".".join(path), None)
        assert "own list" in str(wrong)
        write_card(own_cards / name, true)
    write_card(own_cards / "lab-small", {**read_card(own_cards / "lab-small"), "parameters": 311_873})
    (wrong,) = compare_with_cards(measured, own_cards)
    assert (wrong.model, wrong.figure, wrong.expected) == ("lab-small", "parameters", 311_872)


def test_three_standard_errors_are_the_limit(measured: dict[str, Any], own_cards: Path) -> None:
    card = read_card(own_cards / VERIFIER)
    verifier = next(one for one in measured["verifiers"] if one["name"] == VERIFIER)
    true, error = verifier["auc_pooled"]["lab-medium"], verifier["standard_errors"]["auc_pooled"]["lab-medium"]

    def found(errors_off: float, **settings: int) -> list[str]:
        pooled = {**card["measured"]["auc_pooled"], "lab-medium": true + errors_off * error}
        write_card(own_cards / VERIFIER, {**card, "measured": {**card["measured"], "auc_pooled": pooled, **settings}})
        return [f"{one.figure} {one.standard_errors:.1f}" for one in compare_with_cards(measured, own_cards)]

    assert found(2.9) == found(-2.9) == []
    assert found(3.1) == found(-3.1) == ["auc_pooled.lab-medium 3.1"]
    assert found(3.1, seed=2) == []  # another 36 problems differ by more
    assert found(4.4, seed=2) == ["auc_pooled.lab-medium 3.1"]


def _at(document: Any, path: Sequence[str]) -> Any:
    for key in path:
        document = document[key]
    return document


def test_a_card_of_other_results_fails_and_only_common_problems_count(
    measured: dict[str, Any], own_cards: Path
) -> None:
    def with_results(right: list[int], **settings: int) -> list[str]:
        """Figures found off on a card that says consistently that these were the right answers."""
        other = policy_figures(right, 4, [FAMILIES[i % len(FAMILIES)] for i in range(len(right))])
        other = {**measured["policies"][0], **other, "right_by_problem": right}
        write_measured(
            {**measured, "problems": len(right), **settings, "policies": [other], "verifiers": []}, own_cards
        )
        return [one.figure for one in compare_with_cards({**measured, "verifiers": []}, own_cards)]

    true = measured["policies"][0]["right_by_problem"]
    assert with_results(true) == []
    error = measured["policies"][0]["standard_errors"]["pass_at_1"]
    for spoiled in range(len(true) + 1):
        right = [0] * spoiled + true[spoiled:]
        off = sum(true[:spoiled]) / 4 / len(true) > 3 * error
        assert ("pass_at_1" in with_results(right)) is off
    assert off
    # Ninety other problems that were all too hard, or all easy, say nothing about these thirty-six.
    assert with_results([*true, *[0] * 90]) == with_results([*true, *[4] * 90]) == []
    assert with_results(true[:12]) == []
    # Of independent problems the number counts, and so do both sets' errors.
    assert with_results([*[0] * 90, *true], seed=2) != []


def test_unusable_cards_say_what_is_wrong(measured: dict[str, Any], own_cards: Path) -> None:
    folder = own_cards / "lab-medium"
    card = read_card(folder)
    for changed, message in (
        ({**card, "measured": None}, "not measured yet"),
        ({**card, "measured": {**card["measured"], "pass_at_1": None}}, "pass_at_1"),
        ({**card, "measured": {**card["measured"], "pass_at_1": float("nan")}}, "pass_at_1"),
        ({**card, "measured": {**card["measured"], "temperature": 0.5}}, "temperature"),
        ({**card, "measured": {**card["measured"], "split": "train"}}, "held_out"),
        ({**card, "measured": {**card["measured"], "problems": 0}}, "problems"),
        ({**card, "measured": {**card["measured"], "problems": 35}}, "right_by_problem"),
        ({**card, "measured": {**card["measured"], "right_by_problem": "1 2 x"}}, "right_by_problem"),
    ):
        write_card(folder, changed)
        with pytest.raises(InputError, match=message) as caught:
            compare_with_cards(measured, own_cards)
        assert "lab-medium" in str(caught.value)
    (folder / "card.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        compare_with_cards(measured, own_cards)
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match="--write-cards"):
        compare_with_cards(measured, own_cards)


def test_the_command_fails_on_a_falsified_card_and_never_reads_it_to_measure(own_cards: Path) -> None:
    small = read_card(own_cards / "lab-small")
    small["measured"]["seed"] = 1
    small["measured"]["pass_at_1"] = 0.0
    small["parameters"] = 1
    write_card(own_cards / "lab-small", small)
    options = ["evaluate", "--folder", str(own_cards), "--problems", "18", "--samples", "2", "--seed", "1"]
    done = CliRunner().invoke(app, [*options, "--json"])
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout)
    assert document["policies"][0]["parameters"] == 311_872
    assert document["policies"][0]["pass_at_1"] > 0.1
    assert {one["figure"] for one in document["disagreements"]} == {"parameters", "pass_at_1"}
    assert "lab-small: `pass_at_1`" in done.stderr
    written = CliRunner().invoke(app, [*options, "--write-cards", "--quiet"])
    assert written.exit_code == 0, written.output
    assert "Pass@1" in written.stdout
    assert read_card(own_cards / "lab-small")["parameters"] == 311_872
    assert read_card(own_cards / "lab-small")["measured"]["problems"] == 18


def test_measuring_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="samples"):
        evaluate_laboratory(samples=0)
    with pytest.raises(InputError, match="lab-small"):
        evaluate_laboratory(tmp_path, problems=1, samples=1)


def test_auc_and_its_errors() -> None:
    assert auc([2, 1], [1, 0]) == pytest.approx(3.5 / 4)
    rng = np.random.default_rng(0)
    # 60 problems with a common shift each: answers to one problem are not independent.
    shifts = rng.normal(0, 1, 60)
    right = [[bool(ok) for ok in rng.random(8) < 0.5] for _ in shifts]
    scores = [[float(shift + mark + rng.normal()) for mark in row] for shift, row in zip(shifts, right, strict=True)]
    value, error = auc_pooled(scores, right)
    flat = [(s, ok) for row, marks in zip(scores, right, strict=True) for s, ok in zip(row, marks, strict=True)]
    assert value == pytest.approx(auc([s for s, ok in flat if ok], [s for s, ok in flat if not ok]))
    draws = []
    for _ in range(400):
        picks = rng.integers(0, 60, 60)
        draws.append(auc_pooled([scores[i] for i in picks], [right[i] for i in picks])[0])
    assert error == pytest.approx(np.std(draws), rel=0.15)
    mean, within_error, problems = auc_within(aucs_within(scores, right))
    assert mean is not None
    assert value is not None
    assert within_error is not None
    assert problems == sum(any(row) and not all(row) for row in right)
    assert mean > value  # the shifts only disturb between problems
    assert auc_within(aucs_within([[0.1, 0.2]], [[True, True]])) == (None, None, 0)
    assert auc_pooled([[0.1, 0.2]], [[True, True]]) == (None, None)
    assert standard_error([1.0] * 10) > 0
    values = rng.random(1000)
    assert standard_error(values) == pytest.approx(values.std() / 1000**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (("2 + 3 = 6", "6 - 1 = 5", "#### 5"), "arithmetic"),
        (("7 / 2 = 3", "#### 3"), "arithmetic"),
        (("2 - 3 = -1", "-1 - 1 = -2", "#### -2"), "wrong line"),
        (("cow: 3 * 4 = 12", "#### 12"), "wrong line"),
        (("12 - 2 * 5 = 2", "#### 2"), "wrong line"),
        (("2 + 3 = 5", "#### 5"), "early answer"),
        (("2 + 3 = 5", "5 - 1 = 4", "#### 5"), "wrong answer line"),
        (("2 + 3 = 5",), "no answer"),
        ((), "no answer"),
        (("2 + 3 = 5", "5 -"), "unreadable"),
    ],
)
def test_first_mistakes_are_told_apart(steps: tuple[str, ...], kind: str) -> None:
    assert kind in KINDS
    assert first_mistake(Attempt(_SUM, steps)) == kind


_SUM = WorkedProblem(
    problem_id="sum",
    family="chain_sum",
    question="State the final answer to the following arithmetic problem: 2 + 3 - 1 =",
    steps=("2 + 3 = 5", "5 - 1 = 4", "#### 4"),
    answer="4",
)


def test_a_verifiers_mistakes_are_counted() -> None:
    right, wrong = Attempt(_SUM, _SUM.steps), Attempt(_SUM, ("2 + 3 = 5", "5 - 1 = 3", "#### 3"))
    groups = [[right, wrong], [right, wrong], [right, right], [wrong, wrong]]
    scores = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]
    accepted, refused, misled = verifier_mistakes(groups, scores)
    assert accepted["share_of_wrong_answers"] == 0.5
    assert accepted["example"]["score"] == 0.7
    assert refused["share_of_right_answers"] == 0.5
    assert misled["share_of_problems"] == 0.5
    assert verifier_mistakes([[right]], [[0.9]]) == [{**refused, "share_of_right_answers": 0.0}]


def test_crossovers_are_found_where_they_are() -> None:
    rng = np.random.default_rng(0)
    bucket = ["easy"] * 40 + ["hard"] * 40 + ["medium"] * 19
    ahead = np.concatenate((np.full(40, 0.2), np.full(40, -0.1), np.full(19, -0.5)))
    base = rng.uniform(0.4, 0.6, 99)
    solved = {
        "a": {"vote": base + ahead, "search": base, "again": base + rng.normal(0, 0.3, 99)},
        "b": {"vote": base - 0.1, "search": base, "again": base},
    }
    found = crossovers(solved, {"a": bucket, "b": bucket})
    (one,) = [f for f in found["between_buckets"] if (f["first"], f["second"]) == ("vote", "search")]
    assert (one["policy"], one["better"]["in"], one["worse"]["in"]) == ("a", "easy", "hard")  # medium has too few
    assert one["better"]["mean"] == pytest.approx(0.2)
    assert not [f for f in found["between_policies"] if f["first"] == "search"]
    solved["a"]["vote"] = base + 0.1
    (one,) = crossovers(solved, {"a": bucket, "b": bucket})["between_policies"][:1]
    assert (one["first"], one["better"]["in"], one["worse"]["in"]) == ("vote", "a", "b")
