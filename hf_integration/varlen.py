"""Attention of a whole packed batch in one kernel, on CUDA devices that have it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_integration.packing import offsets

__all__ = ["suits_varlen", "varlen_attention"]

_DTYPES = (torch.float16, torch.bfloat16)
_MAX_HEAD_DIM = 256


def suits_varlen(query: Tensor, num_heads: int) -> bool:
    """Tell whether :func:`varlen_attention` takes such queries, ``[T_q, heads * head_dim]``, here.

    Its kernel is FlashAttention's: half precision, heads of 8 to 256 numbers in steps of 8, compute capability 8.0.
    """
    head_dim = query.shape[-1] // num_heads
    fits = query.is_cuda and query.dtype in _DTYPES and head_dim % 8 == 0 and head_dim <= _MAX_HEAD_DIM
    return fits and _kernel() is not None and _is_capable(query.device)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, query_lengths: Sequence[int], lengths: Sequence[int], num_heads: int
) -> Tensor:
    """Attend within each sample of a packed batch, without dropout.

    Args:
        query: ``[T_q, heads * head_dim]``.
        key: ``[T, heads * head_dim]``.
        value: as ``key``.
        query_lengths: queries of each sample.
        lengths: keys of each sample.
        num_heads: number of heads.

    Returns:
        The context ``[T_q, heads * head_dim]``.
    """
    q, k, v = (part.view(part.shape[0], num_heads, -1) for part in (query, key, value))
    begins = [offsets(counts, query.device) for counts in (query_lengths, lengths)]
    context: Tensor = _kernel()(q, k, v, *begins, max(query_lengths), max(lengths))
    return context.flatten(1)


@functools.cache
def _kernel() -> Any:
    """Return torch's function, or ``None`` in releases without it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # Unsplit, so that a sample's numbers don't depend on the longest one of its batch. Earlier releases never split.
    splits = "num_splits" in inspect.signature(varlen_attn).parameters
    return functools.partial(varlen_attn, num_splits=1) if splits else varlen_attn


@functools.cache
def _is_capable(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)
