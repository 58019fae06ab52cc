"""The indexes of the demo: how each is built, set and searched, written once for the original and the wrapped one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SUBJECTS", "Subject"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


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

    @abstractmethod
    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the library's index of ``vectors`` ``(n, d)``."""

    def set_effort(self, index: Any, effort: int) -> None:  # noqa: B027  # most subjects need none
        """Set the knob of ``index``; nothing by default."""

    @abstractmethod
    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return ids of the neighbours of one ``query`` ``(d,)``, by the call that the library's users write."""

    def search_batch(self, index: Any, queries: _Floats, k: int) -> _Ids | None:
        """Return ids ``(q, k)`` from one call for all ``queries``, or None where the library has no such call."""
        return None


class FaissFlat(Subject):
    """Exhaustive search by inner product."""

    name = "FAISS IndexFlatIP"

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index

    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return ids ``(k,)``."""
        return index.search(query[np.newaxis], k)[1][0]

    def search_batch(self, index: Any, queries: _Floats, k: int) -> _Ids | None:
        """Return ids ``(q, k)``."""
        ids: _Ids = index.search(queries, k)[1]
        return ids


class FaissGraph(FaissFlat):
    """HNSW by inner product, 32 links."""

    name = "FAISS IndexHNSWFlat"
    effort_name = "efSearch"
    efforts = (16, 32, 64, 128, 256)
    effort = 64

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
        faiss.omp_set_num_threads(num_threads)
        index.add(vectors)
        faiss.omp_set_num_threads(1)
        return index

    def set_effort(self, index: Any, effort: int) -> None:
        """Set ``hnsw.efSearch``."""
        index.hnsw.efSearch = effort


class HnswlibGraph(Subject):
    """HNSW by cosine, 16 links."""

    name = "hnswlib, cosine"
    effort_name = "ef"
    efforts = (16, 32, 64, 128, 256)
    effort = 64

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        import hnswlib

        index = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=seed)
        index.add_items(vectors, num_threads=num_threads)
        index.set_num_threads(1)
        return index

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


class AnnoyForest(Subject):
    """20 trees, angular."""

    name = "Annoy, angular"
    effort_name = "search_k"
    efforts = (200, 500, 1000, 2000, 4000)
    effort = 2000

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        from annoy import AnnoyIndex

        index = AnnoyIndex(vectors.shape[1], "angular")
        index.set_seed(seed)
        for item, vector in enumerate(vectors):
            index.add_item(item, vector)
        index.build(20, n_jobs=num_threads)
        return index

    def search_one(self, index: Any, query: _Floats, k: int, effort: int) -> Any:
        """Return a list of at most k items."""
        return index.get_nns_by_vector(query, k, search_k=effort)


SUBJECTS: tuple[Subject, ...] = (FaissFlat(), FaissGraph(), HnswlibGraph(), AnnoyForest())
