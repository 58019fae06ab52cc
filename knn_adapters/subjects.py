"""What is measured of an index: how it is set and searched, written once for the original and the wrapped one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AnnoySubject", "FaissSubject", "HnswlibSubject", "Subject", "subject_of"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

_EFFORTS = (16, 32, 64, 128, 256)
_PROBES = (1, 2, 4, 8, 16, 32, 64, 128)


class Subject(ABC):
    """One kind of index; searches run in one thread, for the library as for us.

    Attributes:
        name: what the tables call it.
        effort_name: the library's knob between speed and recall, empty where there is none.
        efforts: its settings along the curve.
        effort: the setting of the tables.
    """

    name: str
    effort_name = ""
    efforts: tuple[int, ...] = (0,)
    effort = 0

    def set_effort(self, index: Any, effort: int) -> None:  # noqa: B027  # most subjects need none
        """Set the knob of ``index``; nothing by default."""

    @abstractmethod
    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return ids of the neighbours of one ``query`` ``(d,)``, by the call that the library's users write."""

    def search_batch(self, index: Any, queries: _Floats, k: int) -> _Ids | None:
        """Return ids ``(q, k)`` from one call for all ``queries``, or None where the library has no such call."""
        return None


class FaissSubject(Subject):
    """An index of FAISS; its knob is that of the index inside."""

    def set_effort(self, index: Any, effort: int) -> None:
        """Set ``hnsw.efSearch`` or ``nprobe``, if it has one."""
        searched = _searched(index)
        if self.effort_name == "efSearch":
            searched.hnsw.efSearch = effort
        elif self.effort_name == "nprobe":
            searched.nprobe = effort

    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return ids ``(k,)``."""
        return index.search(query[np.newaxis], k)[1][0]

    def search_batch(self, index: Any, queries: _Floats, k: int) -> _Ids | None:
        """Return ids ``(q, k)``."""
        ids: _Ids = index.search(queries, k)[1]
        return ids


class HnswlibSubject(Subject):
    """A graph of hnswlib."""

    effort_name = "ef"
    efforts = _EFFORTS
    effort = 64

    def set_effort(self, index: Any, effort: int) -> None:
        """Set ``ef``."""
        index.set_ef(effort)

    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return labels ``(k,)``."""
        return index.knn_query(query, k=k)[0][0]

    def search_batch(self, index: Any, queries: _Floats, k: int) -> _Ids | None:
        """Return labels ``(q, k)``."""
        labels: _Ids = index.knn_query(queries, k=k)[0].astype(np.int64)
        return labels


class AnnoySubject(Subject):
    """A forest of Annoy."""

    effort_name = "search_k"
    efforts = (200, 500, 1000, 2000, 4000)
    effort = 2000

    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return a list of at most k items."""
        return index.get_nns_by_vector(query, k, search_k=effort)


def subject_of(index: Any, library: str, k: int) -> Subject:
    """Return how an index of a user is set and searched, with efforts that make sense for ``k`` neighbours."""
    kinds: dict[str, Callable[[], Subject]] = {
        "faiss": FaissSubject, "hnswlib": HnswlibSubject, "annoy": AnnoySubject,
    }  # fmt: skip
    made = kinds[library]()
    made.name = f"{library} {type(index).__name__}"
    if library == "faiss":
        searched = _searched(index)
        if hasattr(searched, "hnsw"):
            made.effort_name, made.efforts = "efSearch", _EFFORTS
        elif hasattr(searched, "nprobe"):
            made.effort_name = "nprobe"
            made.efforts = tuple(probes for probes in _PROBES if probes <= searched.nlist)
    elif library == "hnswlib":
        # It refuses an `ef` below k.
        made.efforts = tuple(sorted({max(k, effort) for effort in _EFFORTS}))
        index.set_num_threads(1)
    made.effort = made.efforts[len(made.efforts) // 2]
    return made


def _searched(index: Any) -> Any:
    """Return the index of FAISS that has the knob: what is inside of those that change ids or vectors alone."""
    import faiss

    while True:
        inner = getattr(index, "base_index", None) or getattr(index, "index", None)
        if inner is None:
            return index
        # FAISS shows what is inside as its base class.
        index = faiss.downcast_index(inner) if type(inner) is faiss.Index else inner
