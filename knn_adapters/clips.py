"""Clip ranges that a quantizer may have: the candidates that calibration tries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Clip", "clip_candidates", "whole_number_clip"]

_UNIFORM_VALUES = 1_000_000  # values that the uniform quantiles are taken from
_OUTLYING = 0.0005  # share of values at each end that mean and sigma leave out: one of them could make sigma anything
# By bits: fewer codes are worth more clipping.
_QUANTILES = {8: (0.9999, 0.999), 4: (0.9999, 0.999, 0.99)}
_SIGMAS = {8: (2.75, 3.0, 3.5, 4.0, 5.0), 4: (1.75, 2.0, 2.5, 2.75, 3.0, 3.5, 4.0)}

_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """A clip range: ``low`` and ``high`` are ``(d,)`` ``float64``, ``name`` says how they were found.

    ``span`` is the number of steps that the residual level covers, 0 without one.
    """

    name: str
    low: _Doubles
    high: _Doubles
    bits: int = 8
    span: float = 0.0

    def cut_off(self, extremes: Clip) -> float:
        """Return the sum of squares of what this range leaves out of that of ``extremes``."""
        below, above = self.low - extremes.low, extremes.high - self.high
        return float(np.sum(np.maximum(below, 0.0) ** 2) + np.sum(np.maximum(above, 0.0) ** 2))

    def affine(self) -> tuple[_Floats, _Floats]:
        """Return ``(scale, offset)``, each ``(d,)``, of the codes 0..255 or 0..15 that cover the range.

        Codes round to the nearest step, so the outermost codes lie on the range's ends.
        """
        return ((self.high - self.low) / (2**self.bits - 1)).astype(np.float32), self.low.astype(np.float32)


def whole_number_clip(vectors: _Floats, bits: int) -> Clip | None:
    """Return the clip whose step is 1 if all values are whole numbers that the codes hold: lossless.

    Byte features such as SIFT are stored as they are instead of being stretched to their range.
    """
    if np.any(vectors[0] != np.rint(vectors[0])):
        return None
    low, high, largest = float(vectors.min()), float(vectors.max()), 2**bits - 1
    if high - low > largest or np.any(vectors != np.rint(vectors)):
        return None
    ends = np.full(vectors.shape[1], low), np.full(vectors.shape[1], low + largest)
    return Clip("whole numbers", *ends, bits)


def clip_candidates(vectors: _Floats, sample: _Floats, bits: int) -> Iterator[Clip]:
    """Yield every candidate, per dimension and uniform; extremes come from all vectors, the rest from ``sample``.

    The first leaves nothing out.
    """
    low, high = vectors.min(axis=0)[:, np.newaxis], vectors.max(axis=0)[:, np.newaxis]
    dim = vectors.shape[1]
    by_dimension = np.sort(np.ascontiguousarray(sample.T), axis=1)
    together = np.sort(sample.reshape(1, -1)[:, :: _stride(sample.size, dim)], axis=1)
    for kind, values, extremes in (
        ("per dimension", by_dimension, (low, high)),
        ("uniform", together, (low.min(axis=0, keepdims=True), high.max(axis=0, keepdims=True))),
    ):
        for name, start, end in _ranges(values, *extremes, bits):
            yield Clip(f"{name}, {kind}", np.broadcast_to(start, (dim,)), np.broadcast_to(end, (dim,)), bits)


def _stride(size: int, dim: int) -> int:
    """Return the distance of the values that stand for all ``size``; it meets every one of the ``dim`` columns."""
    stride = max(1, size // _UNIFORM_VALUES)
    while math.gcd(stride, dim) > 1:
        stride += 1
    return stride


def _ranges(values: _Floats, low: _Floats, high: _Floats, bits: int) -> Iterator[tuple[str, _Doubles, _Doubles]]:
    """Yield ``(name, low, high)``, each ``(g,)``, for g groups of sorted ``values`` ``(g, v)`` and their extremes."""
    lowest, highest = low[:, 0].astype(np.float64), high[:, 0].astype(np.float64)
    yield "min-max", lowest, highest
    for quantile in _QUANTILES[bits]:
        tail = int(np.rint((1.0 - quantile) * (values.shape[1] - 1)))
        yield f"quantile {quantile}", values[:, tail].astype(np.float64), values[:, -1 - tail].astype(np.float64)
    outlying = int(_OUTLYING * values.shape[1])
    usual = values[:, outlying : values.shape[1] - outlying]
    mean, sigma = usual.mean(axis=1, dtype=np.float64), usual.std(axis=1, dtype=np.float64)
    for factor in _SIGMAS[bits]:
        # A range never reaches beyond the data: the steps there would be lost.
        start, end = np.maximum(lowest, mean - factor * sigma), np.minimum(highest, mean + factor * sigma)
        yield f"mean +- {factor:g} sigma", start, end
