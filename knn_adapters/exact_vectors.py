"""Vectors as they came, searched exhaustively: what holds too few for a quantizer, or must be exact."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import check_finite
from knn_adapters.recall import normalised

__all__ = ["ExactVectors"]

_BLOCK_BYTES = 1 << 24  # similarities, and vectors of results, that are held at once

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class ExactVectors:
    """``float32`` vectors with ids 0, 1, ..., which may be deleted and replaced; safe for threads.

    Answers as the searchers of the core do: squared Euclidean distance, ascending, for ``"l2"``; inner product,
    descending, for ``"ip"`` and, with queries brought to length 1, for ``"cosine"``; id -1 where too few are found.

    Args:
        dim: dimension of the vectors.
        metric: ``"l2"``, ``"ip"`` or ``"cosine"``, for which vectors come with length 1.
    """

    def __init__(self, dim: int, metric: str) -> None:
        self.metric = metric
        self.count = 0
        self._held: _Floats = np.empty((0, dim), np.float32)
        self._deleted = np.zeros(0, np.bool_)
        self._lock = threading.RLock()

    def append(self, vectors: _Floats) -> None:
        """Add ``vectors`` ``(n, d)`` behind the last."""
        with self._lock:
            total = self.count + len(vectors)
            if total > len(self._held):
                room = max(total, 2 * len(self._held) if self.count else total)
                self._held, self._deleted = _grown(self._held, room), _grown(self._deleted, room)
            self._held[self.count : total] = vectors
            self._deleted[self.count : total] = False
            self.count = total

    def replace(self, ids: _Ids, vectors: _Floats) -> None:
        """Give ``ids`` other vectors; deleted ones are deleted no more."""
        with self._lock:
            self._held[ids] = vectors
            self._deleted[ids] = False

    def remove(self, position: int) -> None:
        """Take a vector out; the last one moves to its place."""
        with self._lock:
            self.count -= 1
            self._held[position] = self._held[self.count]
            self._deleted[position] = self._deleted[self.count]

    def mark(self, ids: _Ids, is_deleted: bool) -> None:
        """Take ``ids`` out of the results, or back."""
        with self._lock:
            self._deleted[ids] = is_deleted

    def deleted(self) -> npt.NDArray[np.bool_]:
        """Return for each vector whether it is deleted."""
        with self._lock:
            return self._deleted[: self.count].copy()

    @property
    def n_deleted(self) -> int:
        """Number of vectors that are deleted."""
        with self._lock:
            return int(np.count_nonzero(self._deleted[: self.count]))

    def vectors(self, ids: _Ids) -> _Floats:
        """Return the vectors of ``ids``, ``(len(ids), d)``."""
        with self._lock:
            return self._held[ids]

    def search(
        self, queries: _Floats, k: int, ef: int = 0, *, num_threads: int = 0, id_filter: Any = None
    ) -> tuple[_Floats, _Ids]:
        """Return distances and ids ``(q, k)`` of the nearest.

        Args:
            queries: ``(q, d)``.
            k: number of neighbours.
            ef: without meaning here, as ``num_threads`` is: the library behind numpy has its own.
            num_threads: see ``ef``.
            id_filter: boolean array with an entry an id, shorter ones refuse what lies behind; or a callable.
        """
        check_finite("queries", queries)
        if self.metric == "cosine":
            queries = normalised(queries)
        with self._lock:
            allowed = np.flatnonzero(self._allowed(id_filter))
            searched = self._held[: self.count] if len(allowed) == self.count else self._held[allowed]
            distances = np.full((len(queries), k), np.inf if self.metric == "l2" else -np.inf, np.float32)
            ids = np.full((len(queries), k), -1, np.int64)
            found = min(k, len(allowed))
            if found:
                block = max(1, _BLOCK_BYTES // (4 * max(len(allowed), found * searched.shape[1])))
                for start in range(0, len(queries), block):
                    rows = slice(start, start + block)
                    distances[rows, :found], places = self._nearest(searched, queries[rows], found)
                    ids[rows, :found] = allowed[places]
            return distances, ids

    def _allowed(self, id_filter: Any) -> npt.NDArray[np.bool_]:
        allowed = ~self._deleted[: self.count]
        if isinstance(id_filter, np.ndarray):
            allowed[len(id_filter) :] = False
            allowed[: len(id_filter)] &= id_filter[: self.count]
        elif id_filter is not None:
            ask: Callable[[int], Any] = id_filter
            for place in np.flatnonzero(allowed).tolist():
                allowed[place] = bool(ask(place))
        return allowed

    def _nearest(self, searched: _Floats, queries: _Floats, k: int) -> tuple[_Floats, _Ids]:
        similarity = queries @ searched.T
        if self.metric == "l2":
            similarity -= np.einsum("ij,ij->i", searched, searched) / 2
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        # The differences of nearby vectors are lost in sums of squares: the results are computed directly.
        chosen = searched[best]
        if self.metric == "l2":
            chosen -= queries[:, np.newaxis]
            keys = np.einsum("qkd,qkd->qk", chosen, chosen)
        else:
            keys = -np.einsum("qkd,qd->qk", chosen, queries)
        order = np.lexsort((best, keys), axis=1)
        keys = np.take_along_axis(keys, order, axis=1)
        return keys if self.metric == "l2" else -keys, np.take_along_axis(best, order, axis=1)


def _grown(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    grown = np.zeros((length, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
