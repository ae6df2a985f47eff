"""A small model with search against a larger one's single answer: allowances, accounts, and what cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulated import CONFIG, simulate
from typer.testing import CliRunner

from planner.cli.app import application
from planner.errors import InputError
from planner.models.cost import ModelShape
from planner.policy.accounts import PriceList, compare_accounts, read_prices
from planner.policy.sizes import allowance
from planner.profiling.importers import import_bank

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl.gz"
LARGE = {**CONFIG, "hidden_size": 256, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 1024}
N_SMALL, N_LARGE = (ModelShape.from_config(c).parameters for c in (CONFIG, LARGE))
PRICES = PriceList(models={"small": (1.0, 2.0), "large": (10.0, 20.0)}, verifiers={"prm": 0.5})


@pytest.fixture(scope="module")
def two():
    bank, _ = simulate(80, 16, models={"small": 1.0, "large": 2.5}, difficulty=8)
    bank.manifest["policy_models"]["large"]["config"] = LARGE
    return bank


def test_allowance_is_what_the_papers_plot() -> None:
    assert [round(allowance(14, r), 1) for r in (0.16, 0.79, 22)] == [257.8, 63.4, 15.8]


def test_each_account_prices_the_single_answers_and_allows_by_r(two) -> None:
    found = compare_accounts(two, prices=PRICES, ratios=(0.5, 8.0), folds=3)
    small, large = (next(m for m in found["models"] if m["name"] == name) for name in ("small", "large"))
    greedy = two.samples[two.samples["temperature"] == 0.0]
    for model, size, price in ((small, N_SMALL, (1.0, 2.0)), (large, N_LARGE, (10.0, 20.0))):
        tokens = greedy.loc[greedy["policy_model"] == model["name"], "generated_tokens"].mean()
        assert model["single_answer"]["2nd"] == pytest.approx(2 * size * (20 + tokens))
        assert model["single_answer"]["usd"] == pytest.approx((20 * price[0] + tokens * price[1]) / 1e6)
        assert model["single_answer"]["architecture"] > 0
    times = N_LARGE / N_SMALL
    for account in ("architecture", "2nd", "usd"):
        single = large["single_answer"][account] / small["single_answer"][account]
        rows = [row for row in found["rows"] if row["account"] == account]
        assert {row["r"] for row in rows} == ({None} if account == "usd" else {0.5, 8.0, None})
        for row in rows:
            assert row["allowed"] == pytest.approx(single if row["r"] is None else times + 3 * (times - 1) / row["r"])
            low, high = row["ci"]
            assert low <= row["difference"] <= high
            assert row["difference"] == pytest.approx(row["small_accuracy"] - row["large_accuracy"])
        every = [row for row in rows if row["bucket"] == "all"]
        assert all(row["spent"] <= row["allowed"] for row in every if row["verifier"] == "left out")
        assert {row["verifier"] for row in rows} == {"counted", "left out"}


def test_what_the_verifier_costs_is_lost_to_the_samples(two) -> None:
    """A dear verifier: counted, nothing that asks it is affordable; left out, it is free."""
    dear = PriceList(models=PRICES.models, verifiers={"prm": 500.0})
    rows = compare_accounts(two, prices=dear, folds=3)["rows"]
    every = {row["verifier"]: row for row in rows if row["account"] == "usd" and row["bucket"] == "all"}
    asking = ("best_of_n", "odds_vote", "arbitrated_majority")
    assert not every["counted"]["plan"].startswith(asking)
    assert every["left out"]["plan"].startswith(asking)
    assert every["left out"]["small_accuracy"] > every["counted"]["small_accuracy"]


def test_an_unknown_price_is_no_row_and_says_so(two) -> None:
    found = compare_accounts(two, prices=PriceList(models=PRICES.models), folds=3)
    usd = [row for row in found["rows"] if row["account"] == "usd"]
    assert {row["verifier"] for row in usd} == {"left out"}
    assert "unknown" in found["missing"]["usd, verifier counted"]
    with pytest.raises(InputError, match="large"):
        compare_accounts(two, prices=PriceList(models={"small": (1.0, 1.0)}))


def test_sizes_that_nobody_knows_are_asked_for() -> None:
    bank, _ = simulate(30, 4, models={"small": 1.0, "large": 2.5}, flops=False)
    with pytest.raises(InputError, match="--parameters"):
        compare_accounts(bank)
    found = compare_accounts(bank, parameters={"small": 1e9, "large": 8e9}, folds=3)
    assert {row["account"] for row in found["rows"]} == {"2nd"}
    assert found["missing"]["architecture"]
    one, _ = simulate(10, 4)
    with pytest.raises(InputError, match="one policy model"):
        compare_accounts(one)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "models"),
        ("[models.a]\ninput = 1\n", "models.a.output"),
        ("[models.a]\ninput = 1\noutput = -2\n", "models.a.output"),
        ("[models.a]\ninput = 1\noutput = 2\n[verifier.v]\ninput = 1\n", "verifier"),
        ("models = {", "price list"),
    ],
)
def test_a_price_list_names_what_is_wrong(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=field):
        read_prices(path)


@pytest.mark.skipif(not GSM8K.exists(), reason="../shared/data/gsm8k is not here")
def test_gsm8k_small_model_with_verifier_against_large_one(tmp_path: Path) -> None:
    """6B reranked by its verifier beats 175B's single answer where a model is asked rarely, and is too dear where it is
    asked often."""
    cells = {"6b_finetuning": 1, "6b_verification": 100, "175b_finetuning": 29, "175b_verification": 2900}
    import_bank([GSM8K], tmp_path / "bank", costs=cells)
    sizes = [f"--parameters={name}={name.split('b_')[0]}e9" for name in cells]
    arguments = ["compare", str(tmp_path / "bank"), *sizes]
    made = CliRunner().invoke(application(), [*arguments, "--json"])
    rows = {row["r"]: row for row in json.loads(made.stdout)["rows"]}
    assert [rows[r]["small_accuracy"] for r in (0.16, 0.79, 22.0, None)] == pytest.approx(
        [0.390, 0.390, 0.217, 0.217], abs=1e-3
    )
    assert [row["large_accuracy"] for row in rows.values()] == pytest.approx([0.347] * 4, abs=1e-3)
    assert rows[0.79]["ci"][0] > 0 > rows[22.0]["ci"][1]
    printed = CliRunner().invoke(application(), arguments).stdout
    assert "at R = 0.79: 6b_finetuning with search is better (+4.3 points" in printed
    assert "at R = 22: 175b_finetuning is better (-13.0 points" in printed
    wrong = CliRunner().invoke(application(), [*arguments[:2], "--parameters=6b"])
    assert isinstance(wrong.exception, InputError)
