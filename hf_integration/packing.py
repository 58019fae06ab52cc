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

from hf_integration.kernels import has_triton
from mp_plugins import argument_error

__all__ = [
    "Packing",
    "offsets",
    "pack_all",
    "pad",
    "segment_max",
    "segment_mean",
    "segment_pool",
    "select_samples",
    "select_tokens",
    "unpad",
]


@dataclass(frozen=True)
class Packing:
    """Which rows of a packed tensor belong to which sample.

    Attributes:
        lengths: live tokens of each sample, all positive, on the host because kernels are called sample by sample.
        sample_ids: int64 ``[n]``, the rows of these samples in the batch that the caller passed.
    """

    lengths: tuple[int, ...]
    sample_ids: Tensor

    @classmethod
    def between(cls, cu_seqlens: Tensor, sample_ids: Tensor) -> Packing:
        """Return the packing of samples that begin and end there, int32 ``[n + 1]``."""
        length_tensor = cu_seqlens.diff().long()
        packing = cls(tuple(length_tensor.tolist()), sample_ids)
        # They are where the packed tensors are: not to be sent there again.
        packing.__dict__.update(cu_seqlens=cu_seqlens, length_tensor=length_tensor)
        return packing

    @property
    def device(self) -> torch.device:
        """Where the packed tensors live."""
        return self.sample_ids.device

    @cached_property
    def length_tensor(self) -> Tensor:
        """The lengths as int64 ``[n]``."""
        return torch.tensor(self.lengths, dtype=torch.int64, device=self.device)

    @cached_property
    def host_lengths(self) -> Tensor:
        """The lengths as int64 ``[n]`` on the host."""
        return self.length_tensor if self.device.type == "cpu" else torch.tensor(self.lengths, dtype=torch.int64)

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
        # Told how many there are, a device need not be waited for.
        return torch.repeat_interleave(self.length_tensor, output_size=sum(self.lengths))


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


def pack_all(live: Tensor) -> Packing:
    """Return the packing in which every position of a padded batch, bool ``[batch, seq]``, has a row.

    For graphs of fixed shape: it knows its lengths, all ``seq``, as tensors alone.
    """
    samples = torch.arange(live.shape[0], device=live.device)
    packing = Packing((), samples)
    packing.__dict__.update(
        length_tensor=torch.full_like(samples, live.shape[1]),
        first_tokens=samples * live.shape[1],
        segment_ids=samples[:, None].expand(live.shape).flatten(),
    )
    return packing


def select_tokens(packing: Packing, keep: Tensor) -> tuple[Tensor, Packing]:
    """Drop tokens where ``keep`` (bool ``[T]``) is false. Returns the rows that stay and their packing."""
    counts = torch.zeros(keep.shape[0] + 1, dtype=torch.int32, device=keep.device)
    torch.cumsum(keep, 0, dtype=torch.int32, out=counts[1:])
    return keep.nonzero().flatten(), Packing.between(counts.index_select(0, packing.cu_seqlens), packing.sample_ids)


def select_samples(packing: Packing, stay: Sequence[bool]) -> tuple[Tensor, Tensor, Packing]:
    """Drop whole samples, where ``stay`` is false.

    Returns:
        The places of those that stay among the samples, int64 ``[m]``, their rows, int64 ``[T]``, and their packing.
    """
    staying = [place for place, stays in enumerate(stay) if stays]
    places = torch.tensor(staying, dtype=torch.int64, device=packing.device)
    fewer = Packing(tuple(packing.lengths[place] for place in staying), packing.sample_ids.index_select(0, places))
    # Added to where they stand now: found without waiting for a device to count them.
    gaps = packing.first_tokens.index_select(0, places) - fewer.first_tokens
    rows = torch.arange(sum(fewer.lengths), device=packing.device) + gaps.index_select(0, fewer.segment_ids)
    return places, rows, fewer


def segment_pool(states: Tensor, packing: Packing) -> Tensor:
    """Return first row, mean and maximum of each sample side by side, ``[n, 3 * features]`` of ``[T, features]``."""
    if not states.requires_grad and has_triton(states.device):
        from hf_integration.pooling_kernel import pool_packed

        return pool_packed(states.contiguous(), packing.cu_seqlens)
    if states.device.type != "cpu":
        first = states.index_select(0, packing.first_tokens)
        return torch.cat((first, segment_mean(states, packing), segment_max(states, packing)), dim=1)
    samples = torch.split(states, list(packing.lengths))
    parts = [part for sample in samples for part in (sample[0], sample.mean(0), sample.amax(0))]
    return torch.cat(parts).view(len(samples), -1)


def segment_mean(states: Tensor, packing: Packing) -> Tensor:
    """Return the mean over the tokens of each sample, ``[n, ...]`` of ``[T, ...]``."""
    if states.device.type != "cpu":
        # In float32, because it adds in the dtype of the states.
        mean = torch.segment_reduce(states.float(), "mean", lengths=packing.length_tensor, unsafe=True)
        return mean.to(states.dtype)
    # A loop over views: on a CPU segment_reduce measured 6 times slower for 32 samples of mixed length.
    return torch.stack([sample.mean(0) for sample in torch.split(states, list(packing.lengths))])


def segment_max(states: Tensor, packing: Packing) -> Tensor:
    """Return the maximum over the tokens of each sample, ``[n, ...]`` of ``[T, ...]``."""
    if states.device.type != "cpu":
        return torch.segment_reduce(states, "max", lengths=packing.length_tensor, unsafe=True)
    return torch.stack([sample.amax(0) for sample in torch.split(states, list(packing.lengths))])
