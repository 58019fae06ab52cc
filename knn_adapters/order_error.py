"""How much codes disturb the order of neighbours: the measure that clip ranges are picked by.

Recall on a sample would say it, but counts neighbours: of two ranges it takes thousands of queries to tell the better.
The errors of the scores behind that count tell more. An error that all candidates of a query have in common changes
no order, so what counts is how far the errors of its nearest neighbours lie apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.clips import Clip
from knn_adapters.recall import exact_neighbours

__all__ = ["OrderTrial"]

_QUERIES, _ROWS = 512, 4096
_NEIGHBOURS = 50  # the candidates that contend for the first places
_FEWEST_ROWS = 10  # of so few vectors the range is not clipped

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OrderTrial:
    """Queries ``(q, d)``, vectors ``(n, d)``, and the exact scores ``(q, k)`` of each query's nearest among these."""

    base: _Floats
    queries: _Floats
    neighbours: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    metric: str

    @classmethod
    def of_sample(cls, sample: _Floats, metric: str) -> OrderTrial | None:
        """Split ``sample`` ``(n, d)`` into queries and vectors; None if it is too small to tell clips apart."""
        n_queries = min(_QUERIES, len(sample) // 4)
        queries, base = sample[:n_queries], np.ascontiguousarray(sample[n_queries : n_queries + _ROWS])
        if n_queries < 1 or len(base) <= _FEWEST_ROWS:
            return None
        neighbours = exact_neighbours(base, queries, _NEIGHBOURS, metric)
        return cls(base, queries, neighbours, _scores(base, queries, neighbours, metric), metric)

    def error(self, clip: Clip, feedback: npt.NDArray[np.uint16] | None) -> float:
        """Return how far, on average, the error of a neighbour's score is from the mean of its query's."""
        scale, offset = clip.affine()
        codes = _core.encode(self.base, scale, offset, clip.bits, feedback)
        decoded = _core.decode(codes, scale, offset, clip.bits)
        errors = _scores(decoded, self.queries, self.neighbours, self.metric) - self.scores
        return float(np.abs(errors - errors.mean(axis=1, keepdims=True)).mean())


def _scores(base: _Floats, queries: _Floats, neighbours: npt.NDArray[np.int64], metric: str) -> npt.NDArray[np.float64]:
    """Return ``<q, x>``, or for ``"l2"`` ``<q, x> - |x|^2 / 2``, which orders as the distance does."""
    products = (queries @ base.T).astype(np.float64)
    if metric == "l2":
        products -= np.einsum("ij,ij->i", base, base, dtype=np.float64) / 2
    return np.take_along_axis(products, neighbours, axis=1)
