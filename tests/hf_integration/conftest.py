"""Tiny random models: hidden 32, so that a forward pass takes a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

import hf_integration
from mp_plugins import load_registry

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


TINY_BY_FAMILY: dict[str, dict[str, Any]] = {
    "bert": TINY,
    "ernie": {**TINY, "use_task_id": True},
    # Positions start behind the padding id, 1.
    "roberta": {**TINY, "max_position_embeddings": 42},
    "xlm-roberta": {**TINY, "max_position_embeddings": 42},
    "camembert": {**TINY, "max_position_embeddings": 42},
    # Two layers, each of which runs twice.
    "albert": {**TINY, "embedding_size": 16, "num_hidden_groups": 2},
    "electra": {**TINY, "embedding_size": 16},
    "mpnet": {**TINY, "max_position_embeddings": 42},
    "deberta-v2": {
        **TINY,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 2,
    },
    # Windows of 3 tokens to either side in two layers of three.
    "modernbert": {
        **TINY,
        "intermediate_size": 20,
        "local_attention": 6,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "distilbert": {
        "vocab_size": 99,
        "dim": 32,
        "n_layers": 4,
        "n_heads": 4,
        "hidden_dim": 37,
        "max_position_embeddings": 40,
        "num_labels": 3,
    },
}


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Scale random weights up, so that attention is uneven and logits differ between inputs."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower() and "keep_thresholds" not in name:
                scale = 0.7 if ".embeddings." in name else 0.15 if name.startswith("internal_classifiers") else 0.35
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def write_tokenizer(folder: Path, words: list[str], **options: Any) -> Any:
    """Save a tokenizer of whole words in ``folder``, in the form that every release of transformers reads."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - not a password
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture(scope="session")
def save_tokenizer() -> Callable[..., Any]:
    return write_tokenizer


def count_flops_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[int, Any]:
    """Return what torch counts of one pass, and its output.

    Left out are the angles of ModernBERT: a matrix product until 5.0, and products of numbers after.
    """
    # The counter stumbles over parameters that are passed to a module.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        output = model(**batch)
    for parameter in trained:
        parameter.requires_grad_(True)
    by_module = counter.get_flop_counts()
    angles = {
        name: sum(found.values())
        for name, found in by_module.items()
        if name.rpartition(".")[2] in ("rotary_emb", "ModernBertRotaryEmbedding")
    }
    return counter.get_total_flops() - sum(angles.values()), output


@pytest.fixture(scope="session")
def count_flops() -> Callable[..., tuple[int, Any]]:
    return count_flops_of


@pytest.fixture(scope="session")
def make_bert() -> Callable[..., BertForSequenceClassification]:
    def make(**fields: Any) -> BertForSequenceClassification:
        torch.manual_seed(0)
        return spread(BertForSequenceClassification(BertConfig(**{**TINY, **fields})))

    return make


@pytest.fixture(scope="session", params=sorted(TINY_BY_FAMILY))
def family(request: pytest.FixtureRequest) -> Any:
    return load_registry("model_families")[request.param]


@pytest.fixture(scope="session")
def make_plain() -> Callable[..., Any]:
    """Return a maker of tiny plain models of a family, by the kind of their class."""

    def make(family: Any, kind: str = "ForSequenceClassification", **fields: Any) -> Any:
        torch.manual_seed(0)
        config = family.plain_class("Config")(**{**TINY_BY_FAMILY[family.model_type], **fields})
        return spread(family.plain_class(kind)(config))

    return make


@pytest.fixture(scope="session")
def make_inputs(make_batch: Callable[..., dict[str, torch.Tensor]]) -> Callable[..., dict[str, torch.Tensor]]:
    """Return a maker of batches with every input that a family takes, padded as its tokenizers do."""

    def make(family: Any, lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
        batch = make_batch(lengths, seed)
        mask, ids = batch["attention_mask"], batch.pop("input_ids")
        padding = family.plain_class("Config")(**TINY_BY_FAMILY[family.model_type]).pad_token_id
        # 2 and above: no word looks like padding.
        inputs = {"input_ids": torch.where(mask == 1, ids.clamp_min(2), padding), "attention_mask": mask}
        if family.model_type == "ernie":
            inputs["task_type_ids"] = batch["token_type_ids"] + mask
        return inputs | ({"token_type_ids": batch["token_type_ids"]} if family.token_inputs else {})

    return make


@pytest.fixture(scope="session")
def make_pyramid() -> Callable[..., Any]:
    """Return a maker of Magic Pyramids whose internal and lexical classifiers are random too."""

    def make(*, trained: bool = True, **fields: Any) -> Any:
        torch.manual_seed(0)
        config = hf_integration.MagicPyramidConfig(**{**TINY, **fields})
        model = hf_integration.MagicPyramidForSequenceClassification(config)
        if trained:
            spread(model)
            if model.lexical_classifier is not None:
                # Small beside the internal classifiers, because what is the same at every exit lets all leave at one.
                model.lexical_classifier.table.normal_().mul_(0.3)
                for head in model.internal_classifiers.heads:
                    head.weight.data.mul_(2)
            return model
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
