"""What is timed: BERT as it is run today, and the models made from it, each from token ids to logits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from hf_integration.batching import pad_rows
from hf_integration.measuring import without_full_mask
from mp_models.tasks import Rows

__all__ = ["Answers", "Contender", "bfloat16", "int8"]


@dataclass(frozen=True)
class Answers:
    """What a contender answered, rows in the order of the documents.

    Attributes:
        predicted: int64 ``[N]``.
        flops: float64 ``[N]``, or None for plain models.
        exit_layer: int64 ``[N]``, likewise.
        tokens_kept: int64 ``[N, layers]``, likewise.
    """

    predicted: Tensor
    flops: Tensor | None = None
    exit_layer: Tensor | None = None
    tokens_kept: Tensor | None = None

    def accuracy(self, rows: Rows) -> float:
        """Return the share of ``rows`` that is answered rightly."""
        labels = torch.tensor([row["labels"] for row in rows])
        return float((self.predicted == labels).double().mean())


@dataclass(frozen=True)
class Contender:
    """A model with the way its batches are made.

    Attributes:
        name: for the tables.
        model: called with a batch, returns something with ``logits``.
        pad_to: tokens that batches are padded to; None = to the longest document of the batch.
    """

    name: str
    model: Callable[..., Any]
    pad_to: int | None = None

    def run(self, rows: Rows, batch_size: int) -> Iterator[tuple[list[int], Any]]:
        """Classify ``rows`` in batches of like length, and yield which rows, and the model's output.

        All of this is timed: what it takes is token ids, what it gives is logits.
        """
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield chosen, self.model(**self._batch([rows[row] for row in chosen]))

    def answers(self, rows: Rows, batch_size: int = 32) -> Answers:
        """Classify all of ``rows``."""
        found: dict[str, list[Tensor]] = {}
        order: list[int] = []
        with torch.inference_mode(), tqdm(total=len(rows), desc=self.name, unit="document", leave=False) as progress:
            for chosen, output in self.run(rows, batch_size):
                order += chosen
                progress.update(len(chosen))
                found.setdefault("predicted", []).append(output.logits.argmax(-1))
                for name in ("flops", "exit_layer", "tokens_kept"):
                    if getattr(output, name, None) is not None:
                        found.setdefault(name, []).append(getattr(output, name))
        back = torch.tensor(order).argsort()
        return Answers(**{name: torch.cat(values)[back] for name, values in found.items()})

    def _batch(self, rows: Rows) -> dict[str, Tensor]:
        batch = pad_rows([{name: row[name] for name in row if name != "labels"} for row in rows], pad_token_id=0)
        missing = 0 if self.pad_to is None else self.pad_to - batch["input_ids"].shape[1]
        if missing > 0:
            batch = {name: functional.pad(tensor, (0, missing)) for name, tensor in batch.items()}
        return without_full_mask(batch)


def bfloat16(model: nn.Module) -> nn.Module:
    """Return a copy that computes in bfloat16."""
    return copy.deepcopy(model).to(torch.bfloat16)


def int8(model: nn.Module) -> nn.Module:
    """Return a copy whose linear maps multiply 8-bit integers, scaled anew in each call (torch's dynamic kind).

    Raises:
        ImportError: this torch does not have it any more.
    """
    try:
        quantize: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
    except AttributeError as error:
        raise ImportError(f"torch {torch.__version__} has no quantize_dynamic") from error
    with warnings.catch_warnings():
        # It still is what most people run; its successor is another package.
        warnings.simplefilter("ignore")
        return quantize(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
