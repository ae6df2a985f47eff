"""The difficulty predictor: learns where there is something to learn, says so where there is not, and is text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from planner.errors import InputError, PolicyError
from planner.policy.difficulty import DifficultyPredictor, fit_difficulty, make_folds
from planner.policy.features import extract
from planner.policy.predictor import bucket_edges
from planner.policy.trees import Trees

EDGES = {"hard": [0, 0.1], "medium": [0.1, 0.5], "easy": [0.5, 1.0]}


def sums(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Prompts whose success falls with the number of terms, by a law written here."""
    rng = np.random.default_rng(seed)
    terms = rng.integers(2, 10, count)
    prompts = ["Calculate " + " + ".join(str(x) for x in rng.integers(10, 99, t)) + "." for t in terms]
    return prompts, 1 / (1 + np.exp(1.5 * (terms - 5.5)))


@pytest.fixture(scope="module")
def fitted() -> DifficultyPredictor:
    prompts, p = sums(300)
    return fit_difficulty(prompts, np.random.default_rng(1).binomial(8, p), np.full(300, 8), policy_model="small")


def test_it_learns_a_law_and_is_calibrated(fitted: DifficultyPredictor) -> None:
    prompts, p = sums(400, seed=5)
    predicted = fitted.predict(prompts)
    assert np.corrcoef(predicted, p)[0, 1] > 0.9
    assert abs(predicted.mean() - p.mean()) < 0.05
    assert fitted.fit_["held_out_log_loss"] < 0.7 * fitted.fit_["base_log_loss"]
    share = fitted.distribution(prompts, EDGES)
    assert share.shape == (400, 3)
    assert np.allclose(share.sum(1), 1)
    truth = np.searchsorted([0.1, 0.5], p, side="right")
    assert (share.argmax(1) == truth).mean() > 0.7
    assert fitted.oof_distribution(EDGES).shape == (300, 3)


def test_numpy_trees_equal_lightgbm(fitted: DifficultyPredictor) -> None:
    import lightgbm

    matrix = extract(sums(200, seed=9)[0]).matrix
    booster = lightgbm.Booster(model_str=fitted.model_text)
    assert fitted.trees is not None
    assert np.allclose(fitted.trees.raw(matrix), booster.predict(matrix, raw_score=True), atol=1e-12, rtol=0)
    assert np.array_equal(fitted.trees.raw(matrix)[:1], fitted.trees.raw(matrix[:1]))


def test_it_is_the_same_each_time_and_after_a_round_trip(fitted: DifficultyPredictor, tmp_path: Path) -> None:
    prompts, p = sums(300)
    again = fit_difficulty(prompts, np.random.default_rng(1).binomial(8, p), np.full(300, 8), policy_model="small")
    assert again.model_text == fitted.model_text
    fitted.save(tmp_path)
    loaded = DifficultyPredictor.load(tmp_path)
    assert np.array_equal(loaded.predict(prompts), fitted.predict(prompts))
    assert np.array_equal(loaded.distribution(prompts, EDGES), fitted.distribution(prompts, EDGES))
    assert np.array_equal(loaded.strangeness(prompts), fitted.strangeness(prompts))
    assert (loaded.policy_model, loaded.problems, loaded.base_rate) == ("small", 300, fitted.base_rate)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["calibration.json", "features.json", "model_difficulty.txt"]


def templates(count: int, seed: int = 0) -> tuple[list[str], np.ndarray, list[str]]:
    """Six templates, each with a success rate of its own that no other tells."""
    rng = np.random.default_rng(seed)
    words = ("apples baskets", "trains stations", "gcd integers", "rabbits cages", "equation unknown", "taxes income")
    rates = (0.95, 0.1, 0.8, 0.05, 0.9, 0.3)
    kind = rng.integers(0, 6, count)
    prompts = [f"The {words[k]} of {rng.integers(10, 99)} and {rng.integers(10, 99)}: how many?" for k in kind]
    return prompts, np.clip(np.array(rates)[kind] + rng.normal(0, 0.03, count), 0.01, 0.99), [words[k] for k in kind]


def test_a_template_that_was_not_profiled_is_believed_less(tmp_path: Path) -> None:
    prompts, p, groups = templates(240)
    right = np.random.default_rng(1).binomial(16, p)
    found = fit_difficulty(prompts, right, np.full(240, 16), groups=groups)
    assert found.far is not None
    assert 0 <= found.far.start < found.far.end
    known, truth, _ = templates(200, seed=9)
    told = found.predict(known)
    assert np.abs(told - truth).mean() < 0.1, "profiled templates are believed as they are"
    near = np.array([found.calibration(found.trees.raw(extract([q]).matrix))[0] for q in known])
    assert np.abs(told - near).max() < 0.02
    # The same sums in words that nothing profiled had.
    strange = [f"Zwölf Fußgänger queren Brücken {i} {i + 7}: wieviele?" for i in range(10, 60)]
    far, sure = found.predict(strange), found.calibration(found.trees.raw(extract(strange).matrix))
    odds = float(np.log(found.base_rate / (1 - found.base_rate)))
    assert np.abs(np.log(far / (1 - far)) - odds).max() < 0.7 * np.abs(np.log(sure / (1 - sure)) - odds).max()
    loaded = DifficultyPredictor.load(found.save(tmp_path))
    assert np.array_equal(loaded.predict(strange + known), found.predict(strange + known))
    one_by_one = [loaded.predict([q])[0] for q in strange[:5] + known[:5]]
    assert np.array_equal(one_by_one, loaded.predict(strange[:5] + known[:5]))
    assert found.oof_apart_ is not None
    assert found.oof_ is not None
    held, apart = (float(np.abs(x - p).mean()) for x in (found.oof_, found.oof_apart_))
    assert held < 0.1 < apart
    document = json.loads((tmp_path / "calibration.json").read_text())
    document["far"]["end"] = document["far"]["start"]
    (tmp_path / "calibration.json").write_text(json.dumps(document))
    with pytest.raises(PolicyError, match="far"):
        DifficultyPredictor.load(tmp_path)
    del document["far"]  # as policies had it before
    (tmp_path / "calibration.json").write_text(json.dumps(document))
    assert DifficultyPredictor.load(tmp_path).far is None


def test_calibration_by_problem_is_not_that_of_templates_left_out() -> None:
    prompts, p, groups = templates(240)
    right = np.random.default_rng(1).binomial(16, p)
    grouped = fit_difficulty(prompts, right, np.full(240, 16), groups=groups)
    alone = fit_difficulty(prompts, right, np.full(240, 16))
    assert grouped.fit_["held_out_log_loss"] == pytest.approx(alone.fit_["held_out_log_loss"])
    assert alone.far is None


def test_embeddings_are_kept_where_they_help_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prompts = [f"question {i}" for i in range(120)]
    vectors, noise = rng.normal(size=(120, 8)), rng.normal(size=(120, 8))
    p = 1 / (1 + np.exp(-2.0 * vectors[:, 0]))
    right = rng.binomial(16, p)
    found = fit_difficulty(prompts, right, np.full(120, 16), embeddings=vectors)
    assert found.embedding is not None
    assert not found.constant
    assert found.oof_ is not None
    assert np.corrcoef(found.oof_, p)[0, 1] > 0.9
    monkeypatch.setattr("planner.models.embedding.embed", lambda asked: vectors[[prompts.index(q) for q in asked]])
    loaded = DifficultyPredictor.load(found.save(tmp_path))
    assert np.corrcoef(loaded.predict(prompts), p)[0, 1] > 0.9
    useless = fit_difficulty(prompts, right, np.full(120, 16), embeddings=noise)
    assert useless.embedding is None or np.abs(useless.embedding.weights).max() < 0.1
    fit_difficulty(prompts, right, np.full(120, 16)).save(tmp_path)
    assert not (tmp_path / "embedding.json").exists()


def test_noise_is_not_learned() -> None:
    """100 problems whose success has nothing to do with the prompt: no worse than the base rate by more than noise."""
    prompts, _ = sums(100, seed=3)
    p = np.random.default_rng(4).beta(0.7, 0.7, 100)
    found = fit_difficulty(prompts, p * 44, np.full(100, 44))
    assert found.predict(prompts).std() < 0.15
    assert found.fit_.get("held_out_log_loss", 0) < found.fit_["base_log_loss"] + 0.02


def test_without_prompts_it_is_the_base_rate_and_says_so(tmp_path: Path) -> None:
    found = fit_difficulty([None] * 50, np.arange(50) % 5, np.full(50, 4))
    assert found.constant
    assert found.note is not None
    assert "no prompts" in found.note
    loaded = DifficultyPredictor.load(found.save(tmp_path))
    assert np.allclose(loaded.predict(["a", "b"]), 0.5)
    assert loaded.distribution(["a"], EDGES).shape == (1, 3)
    assert np.isnan(loaded.strangeness(["a"])).all()


def test_unknown_is_left_out_and_bad_input_refused() -> None:
    prompts, p = sums(60)
    trials = np.full(60, 8)
    trials[:10] = 0
    found = fit_difficulty(prompts, np.round(p * 8) * (trials > 0), trials)
    assert found.oof_ is not None
    assert np.isnan(found.oof_[:10]).all()
    assert not np.isnan(found.oof_[10:]).any()
    assert found.problems == 50
    with pytest.raises(InputError, match="between 0 and trials"):
        fit_difficulty(prompts, np.full(60, 9), np.full(60, 8))
    with pytest.raises(InputError, match="do not match"):
        fit_difficulty(prompts, np.zeros(3), np.full(60, 8))
    with pytest.raises(InputError, match="measured"):
        fit_difficulty(prompts, np.zeros(60), np.zeros(60))


def test_folds_never_cut_a_group() -> None:
    groups = [f"g{i % 7}" for i in range(100)]
    fold = make_folds(100, 5, seed=0, groups=groups)
    assert all(len({int(f) for f, g in zip(fold, groups, strict=True) if g == name}) == 1 for name in set(groups))
    assert set(fold.tolist()) == set(range(5))
    assert set(make_folds(10, 5, seed=0, groups=["one"] * 10).tolist()) == set(range(5))


def test_what_is_unlike_the_profiled_is_recognised(fitted: DifficultyPredictor) -> None:
    same = fitted.strangeness(sums(100, seed=8)[0])
    assert (same > 1).mean() <= 0.02
    strange = ["写一首关于春天的诗，不少于一百字", "Tell me who won the election and why", "Calculate " + "9" * 400]
    assert (fitted.strangeness(strange) > 1).all()


@pytest.mark.parametrize("file", ["calibration.json", "features.json", "model_difficulty.txt"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damage_is_named(fitted: DifficultyPredictor, tmp_path: Path, file: str, damage: str) -> None:
    path = fitted.save(tmp_path) / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text()[: len(path.read_text()) // 2] if damage == "cut" else "")
    with pytest.raises(PolicyError, match=file.replace(".", r"\.")):
        DifficultyPredictor.load(tmp_path)


def test_another_version_is_refused(fitted: DifficultyPredictor, tmp_path: Path) -> None:
    path = fitted.save(tmp_path) / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(PolicyError, match="schema"):
        DifficultyPredictor.load(tmp_path)


def test_trees_with_a_cycle_are_refused(fitted: DifficultyPredictor) -> None:
    lines = fitted.model_text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("left_child="))
    lines[at] = "left_child=" + " ".join("0" for _ in lines[at].split("=")[1].split())
    with pytest.raises(PolicyError, match="cycle"):
        Trees.from_text("\n".join(lines))


@pytest.mark.parametrize("edges", [{}, {"a": [0, 0.5]}, {"a": [0, 0.5], "b": [0.6, 1]}, {"a": [0.5, 1], "b": [0, 0.5]}])
def test_edges_must_cover_the_unit_interval(edges: dict[str, list[float]]) -> None:
    with pytest.raises(InputError, match="adjoin"):
        bucket_edges(edges)
