"""Exact neighbours in ``float32`` and recall, in numpy: the measure that quantized search is held against."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["exact_neighbours", "normalised", "recall_at_k"]

_SAFE_SQUARES = (1e-20, 1e30)
_BLOCK_BYTES = 1 << 26  # similarities that are held at once


def normalised(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the rows of ``vectors`` ``(n, d)`` at length 1; zero rows stay zero."""
    if len(vectors) == 1:
        # A single query is worth a shortcut, unless float32 squares may have vanished or overflowed.
        with np.errstate(over="ignore"):
            square = float(vectors[0].dot(vectors[0]))
        if _SAFE_SQUARES[0] < square < _SAFE_SQUARES[1]:
            return vectors / np.float32(math.sqrt(square))
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)).astype(np.float32)
    lengths[lengths == 0.0] = 1.0
    return np.ascontiguousarray(vectors / lengths[:, np.newaxis])


def exact_neighbours(
    vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int, metric: str
) -> npt.NDArray[np.int64]:
    """Return the positions of the k nearest ``vectors`` ``(n, d)`` of each query ``(q, d)``, ``(q, min(k, n))``.

    Args:
        vectors: what is searched.
        queries: finite vectors of the same dimension.
        k: number of neighbours, at least 1.
        metric: ``"l2"`` (smallest squared Euclidean distance), ``"ip"`` (largest inner product) or ``"cosine"``.
    """
    if metric == "cosine":
        vectors, queries = normalised(vectors), normalised(queries)
    k = min(k, len(vectors))
    # |q - x|^2 = |q|^2 - 2 (<q, x> - |x|^2 / 2): the first term is the same for all x.
    half_norms = np.einsum("ij,ij->i", vectors, vectors) / 2 if metric == "l2" else np.float32(0.0)
    block = max(1, _BLOCK_BYTES // (4 * len(vectors)))
    found = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), block):
        similarity = queries[start : start + block] @ vectors.T - half_norms
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1, kind="stable")
        found[start : start + block] = np.take_along_axis(best, order, axis=1)
    return found


def recall_at_k(found: npt.NDArray[np.int64], true: npt.NDArray[np.int64], k: int) -> float:
    """Return the share of the first k ``true`` ids that is among the first k ``found``, both ``(q, >= k)``.

    Missing results are negative ids, which match nothing.
    """
    hits = (found[:, :k, np.newaxis] == true[:, np.newaxis, :k]).any(axis=1)
    return float(hits.mean()) if hits.size else 0.0
