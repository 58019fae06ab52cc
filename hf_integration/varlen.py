"""Attention of a whole packed batch in one kernel, on CUDA devices that have it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_integration.kernels import has_triton
from hf_integration.packing import offsets

if TYPE_CHECKING:
    from hf_integration.attention import Importance

__all__ = ["suits_varlen", "varlen_attention"]

_DTYPES = (torch.float16, torch.bfloat16)
_MAX_HEAD_DIM = 256


def suits_varlen(query: Tensor, num_heads: int, importance: Importance | None = None) -> bool:
    """Tell whether :func:`varlen_attention` takes such queries, ``[T_q, heads * head_dim]``, here.

    Its kernel is FlashAttention's: half precision, heads of 8 to 256 numbers in steps of 8, compute capability 8.0.
    The importance takes Triton too.
    """
    head_dim = query.shape[-1] // num_heads
    fits = query.is_cuda and query.dtype in _DTYPES and head_dim % 8 == 0 and head_dim <= _MAX_HEAD_DIM
    if not (fits and _has_kernel() and _is_capable(query.device)):
        return False
    return importance is None or has_triton(query.device)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    lengths: Sequence[int],
    num_heads: int,
    *,
    begins: tuple[Tensor, Tensor] | None = None,
    importance: Importance | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend within each sample of a packed batch, without dropout.

    Args:
        query: ``[T_q, heads * head_dim]``.
        key: ``[T, heads * head_dim]``.
        value: as ``key``.
        query_lengths: queries of each sample.
        lengths: keys of each sample.
        num_heads: number of heads.
        begins: offsets of the queries and of the keys, int32 ``[n + 1]`` each, where they are at hand.
        importance: also return that of the keys; needs as many queries as keys.

    Returns:
        The context ``[T_q, heads * head_dim]`` and the importance, float32 ``[T]``, or ``None``.
    """
    q, k, v = (part.view(part.shape[0], num_heads, -1) for part in (query, key, value))
    if begins is None:
        begins = offsets(query_lengths, query.device), offsets(lengths, query.device)
    context, log_sums = _flash(q, k, v, *begins, max(query_lengths), max(lengths))
    if importance is None:
        return context.flatten(1), None
    from hf_integration.importance_kernel import attention_importance

    found = attention_importance(q, k, log_sums, begins[1], max(lengths), first=importance == "first")
    return context.flatten(1), found


def _flash(
    q: Tensor, k: Tensor, v: Tensor, query_begins: Tensor, key_begins: Tensor, most_queries: int, most_keys: int
) -> tuple[Tensor, Tensor]:
    """Return the context ``[T_q, heads, head_dim]`` and the log-sum-exp of the scores, float32 ``[heads, T_q]``.

    That is what ``varlen_attn`` calls: the operator that it is wrapped in costs the host several times as much.
    """
    context, log_sums, *_ = torch.ops.aten._flash_attention_forward.default(
        q, k, v, query_begins, key_begins, most_queries, most_keys, 0.0, False, False, **_unsplit()
    )
    return context, log_sums


@functools.cache
def _has_kernel() -> bool:
    """Tell whether this torch offers such attention: its releases before do not give the log-sum-exp in that shape."""
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None


@functools.cache
def _unsplit() -> dict[str, int]:
    # So that a sample's numbers don't depend on the longest one of its batch. Earlier releases never split.
    arguments = torch.ops.aten._flash_attention_forward.default._schema.arguments
    return {"num_splits": 1} if any(argument.name == "num_splits" for argument in arguments) else {}


@functools.cache
def _is_capable(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)
