"""Tiny random models: hidden 32, so that a forward pass takes a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging as transformers_logging

import hf_integration

TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "num_labels": 3,
}


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> Iterator[None]:
    # Several threads on matrices this small only wait for each other.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _clean_registration() -> Iterator[None]:
    yield
    hf_integration.uninstall()


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Scale random weights up, so that attention is uneven and logits differ between inputs."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name and "keep_thresholds" not in name:
                scale = {"bert.embeddings": 0.7, "internal_classifiers.heads": 0.15}.get(
                    ".".join(name.split(".")[:2]), 0.35
                )
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


@pytest.fixture(scope="session")
def make_bert() -> Callable[..., BertForSequenceClassification]:
    def make(**fields: Any) -> BertForSequenceClassification:
        torch.manual_seed(0)
        return spread(BertForSequenceClassification(BertConfig(**{**TINY, **fields})))

    return make


@pytest.fixture(scope="session")
def make_pyramid() -> Callable[..., Any]:
    """Return a maker of Magic Pyramids whose internal classifiers are random too."""

    def make(*, trained: bool = True, **fields: Any) -> Any:
        torch.manual_seed(0)
        config = hf_integration.MagicPyramidConfig(**{**TINY, **fields})
        model = hf_integration.MagicPyramidForSequenceClassification(config)
        if trained:
            return spread(model)
        spread(model.bert)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    def make(lengths: list[int], seed: int = 0, vocabulary: int = 99) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        longest = max(lengths)
        ids = torch.randint(1, vocabulary, (len(lengths), longest), generator=generator)
        mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
        return {
            "input_ids": ids * mask,
            "attention_mask": mask.long(),
            "token_type_ids": torch.randint(0, 2, ids.shape, generator=generator) * mask,
        }

    return make
