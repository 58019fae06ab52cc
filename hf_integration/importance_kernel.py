"""The importance of the keys of a packed batch as one Triton kernel, from what the attention kernel leaves.

With ``n`` keys in a sample, queries ``q``, keys ``k`` and the log-sum-exp ``L`` of the scores of each query,

    importance[k] = n * mean over heads h and asking queries q of exp(scale * <q, k> - L[h, q]):

the scores are computed again, block by block, and no ``n x n`` numbers are held. One program takes a block of keys
through all heads and queries in order, so that a number does not depend on the rest of the batch.

Imported only behind :func:`hf_integration.kernels.has_triton`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["attention_importance"]

# Smaller for wide heads, whose blocks would not fit into the shared memory of small devices.
_BLOCK, _BLOCK_OF_WIDE_HEADS = 64, 32


def attention_importance(
    query: Tensor, key: Tensor, log_sums: Tensor, offsets: Tensor, longest: int, *, first: bool
) -> Tensor:
    """Return the importance of the keys, float32 ``[T]``, without gradients.

    Args:
        query: ``[T, heads, head_dim]``, half precision, the numbers of a token side by side.
        key: as ``query``.
        log_sums: log-sum-exp of the scaled scores of each query, float32 ``[heads, T]``.
        offsets: where samples begin and end, int32 ``[n + 1]``.
        longest: most tokens of a sample.
        first: the first query of each sample asks alone; otherwise all do.
    """
    tokens, heads, head_dim = key.shape
    importance = torch.empty(tokens, dtype=torch.float32, device=key.device)
    block = _BLOCK if head_dim <= 128 else _BLOCK_OF_WIDE_HEADS
    grid = (len(offsets) - 1, triton.cdiv(longest, block))
    # Triton launches on the current device.
    with torch.cuda.device_of(key):  # type: ignore[no-untyped-call]
        _importance_kernel[grid](
            query,
            key,
            log_sums,
            offsets,
            importance,
            query.stride(0),
            key.stride(0),
            log_sums.stride(0),
            head_dim**-0.5,
            FIRST=first,
            HEADS=heads,
            HEAD_DIM=head_dim,
            WIDTH=max(16, triton.next_power_of_2(head_dim)),
            BLOCK=block,
        )
    return importance


# Not specialised on the number of tokens: it changes in every batch.
@triton.jit(do_not_specialize=["log_sum_stride"])  # type: ignore[untyped-decorator]
def _importance_kernel(
    query: tl.tensor,
    key: tl.tensor,
    log_sums: tl.tensor,
    offsets: tl.tensor,
    importance: tl.tensor,
    query_stride: tl.tensor,
    key_stride: tl.tensor,
    log_sum_stride: tl.tensor,
    scale: tl.tensor,
    FIRST: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    begin = tl.load(offsets + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets + tl.program_id(0) + 1) - begin).to(tl.int32)
    keys = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(1) * BLOCK < length:
        asking = 1 if FIRST else length
        numbers = tl.arange(0, WIDTH)
        total = tl.zeros([BLOCK], tl.float32)
        for head in range(HEADS):
            columns = head * HEAD_DIM + numbers
            k = tl.load(
                key + begin * key_stride + keys[:, None] * key_stride + columns[None, :],
                mask=(keys[:, None] < length) & (numbers[None, :] < HEAD_DIM),
                other=0.0,
            )
            for start in range(0, asking, BLOCK):
                queries = start + tl.arange(0, BLOCK)
                q = tl.load(
                    query + begin * query_stride + queries[None, :] * query_stride + columns[:, None],
                    mask=(queries[None, :] < asking) & (numbers[:, None] < HEAD_DIM),
                    other=0.0,
                )
                # Infinite where there is no query, whose share is exp(-inf) = 0.
                own = tl.load(
                    log_sums + head * log_sum_stride + begin + queries, mask=queries < asking, other=float("inf")
                )
                total += tl.sum(tl.exp(tl.dot(k, q) * scale - own[None, :]), 1)
        # n * (1/n) * sum over queries: where all ask, the length cancels.
        weight = length / HEADS if FIRST else 1.0 / HEADS
        tl.store(importance + begin + keys, total * weight, mask=keys < length)
