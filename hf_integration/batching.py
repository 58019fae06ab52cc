"""Batches out of what users pass: one batch, a loader, or tokenised rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mp_plugins import argument_error

__all__ = ["as_batches", "pad_rows"]

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "task_type_ids", "position_ids")


def as_batches(
    data: Any,
    *,
    argument: str,
    pad_token_id: int | None,
    batch_size: int,
    data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
) -> Iterable[Mapping[str, Any]]:
    """Return batches that a model takes.

    Args:
        data: one batch (a mapping of tensors, such as a tokenizer returns), a
            :class:`torch.utils.data.DataLoader` of whole batches, or tokenised rows.
        argument: what the caller's user knows ``data`` by, for messages.
        pad_token_id: of the model; ``None`` = 0.
        batch_size: for rows.
        data_collator: makes a batch of a list of rows; :func:`pad_rows` by default.

    Raises:
        mp_plugins.ArgumentError: there are no rows, or the batch size is below 1; untokenised rows raise when read.
    """
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Mapping) and isinstance(data.get("input_ids"), Tensor):
        return [data]
    if batch_size < 1:
        raise argument_error("batch_size", "must be at least 1", batch_size, "leave it out for the default")
    if hasattr(data, "__len__") and len(data) == 0:
        raise argument_error(argument, "must hold at least one sample", "none", "pass held-out data with labels")

    def collate(rows: list[Any]) -> Mapping[str, Any]:
        if not isinstance(rows[0], Mapping) or "input_ids" not in rows[0]:
            raise argument_error(
                argument, "must have tokenised rows with `input_ids`", rows[0], "run the tokenizer over the texts"
            )
        return pad_rows(rows, pad_token_id=pad_token_id or 0)

    return DataLoader(data, batch_size=batch_size, collate_fn=data_collator or collate)


def pad_rows(rows: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Return the batch of tokenised rows, padded to the longest.

    Args:
        rows: each with ``input_ids`` and ``labels`` (or ``label``); other columns than the model's are left out.
        pad_token_id: fills ``input_ids``; the rest is filled with 0.

    Returns:
        int64 ``[batch, longest]`` each, ``labels`` as they are; the attention mask tells the padding.
    """
    tensors = [{name: torch.as_tensor(row[name]) for name in _INPUTS if name in row} for row in rows]
    for row in tensors:
        row.setdefault("attention_mask", torch.ones_like(row["input_ids"]))
    batch = {
        name: torch.nn.utils.rnn.pad_sequence(
            [row[name] for row in tensors], batch_first=True, padding_value=pad_token_id if name == "input_ids" else 0
        )
        for name in tensors[0]
    }
    name = "labels" if "labels" in rows[0] else "label"
    if name in rows[0]:
        batch["labels"] = torch.as_tensor([row[name] for row in rows])
    return batch
