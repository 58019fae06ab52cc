"""The part of the demo that turns passages of the documents into vectors for the search side."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from hf_integration.demo_checkpoint import checkpoint_path
from hf_integration.demo_data import load_reuters, split_passages
from mp_plugins import DemoContext, Section

__all__ = ["EmbeddingsPart", "embed"]

_WORDS = 24
_PASSAGES = 8_000
_QUERIES = 200
_BATCH = 64


class EmbeddingsPart:
    """Embeds passages of the training documents, and queries from the test documents, with the plain checkpoint."""

    requires: frozenset[str] = frozenset()
    provides = frozenset({"embeddings", "query_embeddings"})

    def run(self, context: DemoContext) -> Section:
        """Leave ``embeddings`` and ``query_embeddings``, float32 ``[n, 384]``, normalised."""
        torch.set_num_threads(context.num_threads)
        train, test = load_reuters(context.cache_dir)
        passages = split_passages(train.texts, _WORDS, _PASSAGES)
        queries = split_passages([" ".join(text.split()[:_WORDS]) for text in test.texts], _WORDS, _QUERIES)
        path = checkpoint_path()
        tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
        started = time.perf_counter()
        vectors = embed(model, tokenizer, passages + queries)
        seconds = time.perf_counter() - started
        context.artifacts["embeddings"] = vectors[: len(passages)]
        context.artifacts["query_embeddings"] = vectors[len(passages) :]
        data = {"passages": len(passages), "queries": len(queries), "dim": vectors.shape[1], "seconds": seconds}
        return Section(
            title="Text to vectors",
            summary=f"{len(passages)} passages of {_WORDS} words and {len(queries)} queries became vectors of "
            f"{vectors.shape[1]} dimensions in {seconds:.0f} s ({len(vectors) / seconds:.0f} a second).",
            data=data,
        )


def embed(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the normalised mean of the last hidden states of each text, float32 ``[n, hidden_size]``."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode(), tqdm(total=len(texts), desc="embedding passages", unit="text") as progress:
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            vectors[rows] = _mean_pool(model(**batch).last_hidden_state, batch["attention_mask"]).numpy()
            progress.update(len(rows))
    return vectors


def _mean_pool(states: Tensor, attention_mask: Tensor) -> Tensor:
    live = attention_mask[..., None].to(states.dtype)
    return torch.nn.functional.normalize((states * live).sum(1) / live.sum(1), dim=-1)
