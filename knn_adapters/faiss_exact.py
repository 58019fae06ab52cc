"""The vectors of an index that holds too few to train a quantizer, searched as the searchers of the core are."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import check_finite
from knn_adapters.exact_vectors import ExactVectors

__all__ = ["ExactRows"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class ExactRows(ExactVectors):
    """:class:`ExactVectors` without deletion marks: rows are taken out and put in another order as FAISS does."""

    @classmethod
    def of(cls, vectors: _Floats, metric: str) -> ExactRows:
        """Return the rows ``vectors`` ``(n, d)``, copied."""
        made = cls(vectors.shape[1], metric)
        made.append(vectors)
        return made

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    def take(self, rows: _Ids) -> None:
        """Hold ``rows`` alone, in their order."""
        kept = self.vectors(rows)
        self.count = 0
        self.append(kept)

    def range_search(
        self, queries: _Floats, radius: float, *, num_threads: int = 0, id_filter: Any = None
    ) -> tuple[npt.NDArray[np.uint64], _Floats, _Ids]:
        """Return ``(lims, distances, ids)`` of all vectors nearer than ``radius``, as the searchers of the core do.

        Args:
            queries: ``(q, d)``.
            radius: squared distance, or inner product.
            num_threads: without meaning here.
            id_filter: see ``_core.IdFilter``.
        """
        check_finite("queries", queries)
        held, allowed = self.vectors(np.arange(self.count)), self._allowed(id_filter)
        lims, distances, ids = np.zeros(len(queries) + 1, np.uint64), [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for row, query in enumerate(queries):
            if self.metric == "l2":
                difference = held - query
                values = np.einsum("ij,ij->i", difference, difference)
                inside = np.flatnonzero(allowed & (values < radius))
            else:
                values = held @ query
                inside = np.flatnonzero(allowed & (values > radius))
            lims[row + 1] = lims[row] + np.uint64(len(inside))
            distances.append(values[inside])
            ids.append(inside)
        return lims, np.concatenate(distances), np.concatenate(ids)

    def _allowed(self, id_filter: Any) -> npt.NDArray[np.bool_]:
        everything = np.arange(self.count)
        if isinstance(id_filter, range):
            return np.asarray((everything >= id_filter.start) & (everything < id_filter.stop))
        if isinstance(id_filter, np.ndarray) and id_filter.dtype == np.uint8:
            bits = np.unpackbits(id_filter, bitorder="little")[: self.count].astype(np.bool_)
            return super()._allowed(bits)
        if isinstance(id_filter, np.ndarray) and id_filter.dtype != np.bool_:
            return np.isin(everything, id_filter)
        return super()._allowed(id_filter)
