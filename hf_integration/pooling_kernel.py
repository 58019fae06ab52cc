"""First row, mean and maximum of the samples of a packed batch as one Triton kernel.

One program takes some features of a sample through all its rows, and adds in float32 whatever the states are, so that a
number does not depend on the rest of the batch.

Imported only behind :func:`hf_integration.kernels.has_triton`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["pool_packed"]

_ROWS, _COLUMNS = 32, 64


def pool_packed(states: Tensor, offsets: Tensor) -> Tensor:
    """Return first row, mean and maximum of each sample side by side, ``[n, 3 * features]``, without gradients.

    Args:
        states: ``[T, features]``, the numbers of a row side by side.
        offsets: where samples begin and end, int32 ``[n + 1]``.
    """
    samples, features = len(offsets) - 1, states.shape[1]
    pooled = states.new_empty(samples, 3 * features)
    # Triton launches on the current device.
    with torch.cuda.device_of(states):  # type: ignore[no-untyped-call]
        _pooling_kernel[samples, triton.cdiv(features, _COLUMNS)](
            states, offsets, pooled, states.stride(0), FEATURES=features, ROWS=_ROWS, COLUMNS=_COLUMNS
        )
    return pooled


@triton.jit  # type: ignore[untyped-decorator]
def _pooling_kernel(
    states: tl.tensor,
    offsets: tl.tensor,
    pooled: tl.tensor,
    stride: tl.tensor,
    FEATURES: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
) -> None:
    begin = tl.load(offsets + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets + tl.program_id(0) + 1) - begin).to(tl.int32)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    largest = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    for start in range(0, length, ROWS):
        rows = start + tl.arange(0, ROWS)
        live = (rows[:, None] < length) & (columns[None, :] < FEATURES)
        numbers = tl.load(states + begin * stride + rows[:, None] * stride + columns[None, :], mask=live, other=0.0).to(
            tl.float32
        )
        total += numbers
        largest = tl.maximum(largest, tl.where(live, numbers, float("-inf")))
    first = tl.load(states + begin * stride + columns, mask=columns < FEATURES)
    target = pooled + tl.program_id(0).to(tl.int64) * 3 * FEATURES + columns
    tl.store(target, first, mask=columns < FEATURES)
    tl.store(target + FEATURES, tl.sum(total, 0) / length, mask=columns < FEATURES)
    tl.store(target + 2 * FEATURES, tl.max(largest, 0), mask=columns < FEATURES)
