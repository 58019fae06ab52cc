"""Measuring a classifier: accuracy, work and time, on length-sorted batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

__all__ = ["Answers", "Batch", "answer", "interleaved_seconds", "make_batches", "spread", "without_full_mask"]

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Answers:
    """What a model answered to a list of batches, rows in the order of the batches.

    Attributes:
        predicted: int64 ``[N]``.
        labels: int64 ``[N]``.
        exit_layer: int64 ``[N]``, or ``None`` for plain BERT.
        tokens_kept: int64 ``[N, layers]``, or ``None`` for plain BERT.
        flops: float32 ``[N]``, or ``None`` for plain BERT.
    """

    predicted: Tensor
    labels: Tensor
    exit_layer: Tensor | None
    tokens_kept: Tensor | None
    flops: Tensor | None

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return float((self.predicted == self.labels).double().mean())


def make_batches(rows: Sequence[dict[str, Any]], collate: Any, batch_size: int) -> list[Batch]:
    """Return padded batches of rows of like length, shortest first."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    return [dict(collate(ordered[start : start + batch_size])) for start in range(0, len(ordered), batch_size)]


def without_full_mask(batch: Batch) -> Batch:
    """Return ``batch`` without an attention mask that hides nothing: plain models then take their fastest kernel."""
    if not bool(batch["attention_mask"].all()):
        return batch
    return {name: value for name, value in batch.items() if name != "attention_mask"}


def spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return ``count`` rows, evenly spread over ``rows`` by length, so that their mean length is that of all."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    if count >= len(ordered):
        return ordered
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]


def answer(model: Any, batches: Sequence[Batch], description: str) -> Answers:
    """Run ``model`` over all batches."""
    columns: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for batch in tqdm(batches, desc=description, unit="batch"):
            output = model(**_inputs(batch))
            found = {"predicted": output.logits.argmax(-1), "labels": batch["labels"]}
            found |= {name: output[name] for name in ("exit_layer", "tokens_kept", "flops") if name in output}
            for name, value in found.items():
                columns.setdefault(name, []).append(value)
    joined = {name: torch.cat(values) for name, values in columns.items()}
    return Answers(
        predicted=joined["predicted"],
        labels=joined["labels"],
        exit_layer=joined.get("exit_layer"),
        tokens_kept=joined.get("tokens_kept"),
        flops=joined.get("flops"),
    )


def interleaved_seconds(
    models: dict[str, Any], batches: Sequence[Batch], *, rounds: int, description: str
) -> dict[str, float]:
    """Return the median over ``rounds`` of the seconds that each model takes for all batches, the models in turn.

    One batch of each model runs before the clock starts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode(), tqdm(total=rounds * len(models), desc=description, unit="run") as progress:
        for model in models.values():
            model(**_inputs(batches[-1]))
        for _ in range(rounds):
            for name, model in models.items():
                started = time.perf_counter()
                for batch in batches:
                    model(**_inputs(batch))
                seconds[name].append(time.perf_counter() - started)
                progress.update()
    return {name: statistics.median(values) for name, values in seconds.items()}


def _inputs(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "labels"}
