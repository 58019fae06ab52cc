"""Whether kernels of our own run on a device."""

from __future__ import annotations

import functools

import torch

__all__ = ["has_triton"]


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Tell whether Triton works on ``device``: it comes with torch's CUDA builds alone, and needs a C compiler."""
    if device.type != "cuda":
        return False
    try:
        from hf_integration.pooling_kernel import pool_packed

        pool_packed(torch.zeros(1, 16, device=device), torch.tensor([0, 1], dtype=torch.int32, device=device))
    # Whatever is missing, there is a slower way.
    except Exception:
        return False
    return True
