"""What names of vLLM mean and what its server is to be started with; a real vLLM is tried in tests/on_vllm."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from planner.errors import CapabilityError, InputError
from planner.models.cards import load_card
from planner.models.pooling_verifier import vllm_arguments, vllm_flags
from planner.models.shipped import load_engine, load_verifier, shipped
from planner.models.vllm_loop import VllmSpec

PRM = shipped("models", "lab/lab-prm")


def test_options_are_ours_or_vllms_own():
    spec = VllmSpec.parse("vllm:some/model?system=Be%20brief.&dtype=float32&max_model_len=512&a=true", ("system",))
    assert spec.model == "some/model"
    assert spec.own == {"system": "Be brief."}
    assert spec.arguments == {"dtype": "float32", "max_model_len": 512, "a": True}


def test_a_digest_changes_with_what_changes_texts_and_with_nothing_else():
    base, other, same = (
        VllmSpec.parse(f"vllm:{PRM}?{options}", ()).digest
        for options in ("dtype=float32", "dtype=bfloat16", "dtype=float32&max_num_seqs=8")
    )
    assert base == same != other


def test_a_two_token_verifiers_server_is_told_tag_and_tokens():
    card = load_card(PRM / "verifier.toml")
    found = vllm_arguments(card, PRM)
    assert found["pooler_config"] == {"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": 5}
    assert found["hf_overrides"] == {
        "architectures": ["LlamaForSequenceClassification"], "method": "from_2_way_softmax",
        "classifier_from_token": ["<->", "<+>"],
    }  # fmt: skip
    flags = vllm_flags(card, PRM)
    assert flags[:2] == ["--runner", "pooling"]
    assert '"step_tag_id": 5' in flags[flags.index("--pooler-config") + 1]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize("load", [load_engine, load_verifier])
def test_without_vllm_the_extra_is_named(load):
    with pytest.raises(CapabilityError, match=r"needs the package vllm.*compute-planner\[vllm\]"):
        load(f"vllm:{PRM}")


def test_a_name_that_is_no_kind_lists_the_kinds():
    with pytest.raises(InputError, match=r"vllm:FOLDER\?card=CARD"):
        load_verifier("unheard-of")
