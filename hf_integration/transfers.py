"""Tensors on their way from the host to a device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_device"]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor``, of any shape and dtype, on ``device``.

    A CUDA device takes it when its work so far is done, and the host goes on meanwhile: from pinned memory alone, which
    torch keeps until it has been read.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
