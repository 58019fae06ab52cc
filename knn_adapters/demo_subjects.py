"""The indexes of the demo and how each is built."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters.subjects import AnnoySubject, FaissSubject, HnswlibSubject, Subject

__all__ = ["SUBJECTS", "DemoSubject"]

_Floats = npt.NDArray[np.float32]


class DemoSubject(Subject):
    """A subject that the demo builds."""

    @abstractmethod
    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the library's index of ``vectors`` ``(n, d)``."""


class FaissFlat(FaissSubject, DemoSubject):
    """Exhaustive search by inner product."""

    name = "FAISS IndexFlatIP"

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index


class FaissGraph(FaissSubject, DemoSubject):
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


class HnswlibGraph(HnswlibSubject, DemoSubject):
    """HNSW by cosine, 16 links."""

    name = "hnswlib, cosine"

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        import hnswlib

        index = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=seed)
        index.add_items(vectors, num_threads=num_threads)
        index.set_num_threads(1)
        return index


class AnnoyForest(AnnoySubject, DemoSubject):
    """20 trees, angular."""

    name = "Annoy, angular"

    def build(self, vectors: _Floats, *, seed: int, num_threads: int) -> Any:
        """Return the index."""
        from annoy import AnnoyIndex

        index = AnnoyIndex(vectors.shape[1], "angular")
        index.set_seed(seed)
        for item, vector in enumerate(vectors):
            index.add_item(item, vector)
        index.build(20, n_jobs=num_threads)
        return index


SUBJECTS: tuple[DemoSubject, ...] = (FaissFlat(), FaissGraph(), HnswlibGraph(), AnnoyForest())
