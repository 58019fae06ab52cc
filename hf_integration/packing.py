"""Packed batches: the live tokens of all samples in one ``[T, ...]`` tensor, without padding.

The vocabulary is that of variable-length attention: ``cu_seqlens`` are the offsets of the samples, ``unpad`` and
``pad`` go from the padded to the packed form and back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mp_plugins import argument_error

__all__ = ["Packing", "offsets", "pad", "segment_max", "segment_mean", "select_samples", "select_tokens", "unpad"]


@dataclass(frozen=True)
class Packing:
    """Which rows of a packed tensor belong to which sample.

    Attributes:
        lengths: live tokens of each sample, all positive, on the host because kernels are called sample by sample.
        sample_ids: int64 ``[n]``, the rows of these samples in the batch that the caller passed.
    """

    lengths: tuple[int, ...]
    sample_ids: Tensor

    @property
    def device(self) -> torch.device:
        """Where the packed tensors live."""
        return self.sample_ids.device

    @cached_property
    def length_tensor(self) -> Tensor:
        """The lengths as int64 ``[n]``."""
        return torch.tensor(self.lengths, dtype=torch.int64, device=self.device)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """Offsets of the samples, int32 ``[n + 1]``; sample ``i`` is rows ``cu_seqlens[i] : cu_seqlens[i + 1]``."""
        return offsets(self.lengths, self.device)

    @cached_property
    def first_tokens(self) -> Tensor:
        """Row of the first token of each sample, [CLS], int64 ``[n]``."""
        return self.cu_seqlens[:-1].long()

    @cached_property
    def segment_ids(self) -> Tensor:
        """Sample of each row, counted within this packing, int64 ``[T]``."""
        return torch.repeat_interleave(self.length_tensor)


def offsets(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return where samples of these lengths begin, and the end, int32 ``[n + 1]``."""
    # Added up on the host, where the lengths are: one tensor instead of four.
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def unpad(attention_mask: Tensor) -> tuple[Tensor | slice, Packing]:
    """Find the live tokens of a padded batch.

    Args:
        attention_mask: ``[batch, seq]``, non-zero = live.

    Returns:
        Rows of the live tokens in the flattened batch, int64 ``[T]`` or, where nothing is padded, the slice of all;
        and their packing.

    Raises:
        mp_plugins.ArgumentError: the mask is not two-dimensional, or a sample has no live token.
    """
    if attention_mask.dim() != 2:
        raise argument_error(
            "attention_mask", "must have the shape [batch, seq]", tuple(attention_mask.shape), "pass the padding mask"
        )
    live = attention_mask != 0
    lengths: list[int] = live.sum(1).tolist()
    if 0 in lengths or not lengths:
        empty = [sample for sample, length in enumerate(lengths) if length == 0]
        raise argument_error(
            "attention_mask",
            "must leave at least one token to every sample",
            f"none in the samples {empty}" if empty else f"the shape {tuple(live.shape)}",
            "drop empty texts, or keep their special tokens",
        )
    packing = Packing(tuple(lengths), torch.arange(len(lengths), device=live.device))
    if sum(lengths) == live.numel():
        return slice(None), packing
    return live.flatten().nonzero().flatten(), packing


def pad(packed: Tensor, live: Tensor) -> Tensor:
    """Put packed values ``[T, ...]`` where ``live`` (bool ``[batch, seq]``) is true, and zeros elsewhere."""
    padded = packed.new_zeros((*live.shape, *packed.shape[1:]))
    # masked_scatter would not broadcast over features; index_put keeps the gradient to `packed`.
    return padded.index_put(live.nonzero(as_tuple=True), packed)


def select_tokens(packing: Packing, keep: Tensor) -> tuple[Tensor, Packing]:
    """Drop tokens where ``keep`` (bool ``[T]``) is false. Returns the rows that stay and their packing."""
    counts = torch.zeros(keep.shape[0] + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(keep, 0, out=counts[1:])
    lengths = counts[packing.cu_seqlens.long()].diff()
    return keep.nonzero().flatten(), Packing(tuple(lengths.tolist()), packing.sample_ids)


def select_samples(packing: Packing, stay: Tensor) -> tuple[Tensor, Packing]:
    """Drop whole samples: ``stay`` is bool ``[n]``. Returns the rows of those that stay and their packing."""
    rows = stay[packing.segment_ids].nonzero().flatten()
    lengths = tuple(length for length, stays in zip(packing.lengths, stay.tolist(), strict=True) if stays)
    return rows, Packing(lengths, packing.sample_ids[stay])


def segment_mean(states: Tensor, packing: Packing) -> Tensor:
    """Return the mean over the tokens of each sample, ``[n, ...]`` of ``[T, ...]``."""
    if states.device.type != "cpu":
        return torch.segment_reduce(states, "mean", lengths=packing.length_tensor, unsafe=True)
    # A loop over views: on a CPU segment_reduce measured 6 times slower for 32 samples of mixed length.
    return torch.stack([sample.mean(0) for sample in torch.split(states, list(packing.lengths))])


def segment_max(states: Tensor, packing: Packing) -> Tensor:
    """Return the maximum over the tokens of each sample, ``[n, ...]`` of ``[T, ...]``."""
    if states.device.type != "cpu":
        return torch.segment_reduce(states, "max", lengths=packing.length_tensor, unsafe=True)
    return torch.stack([sample.amax(0) for sample in torch.split(states, list(packing.lengths))])
