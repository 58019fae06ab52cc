"""The adapters of this package: thin, so that registering them imports none of the three libraries."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters.evaluation import IndexStats
from knn_adapters.libraries import original
from knn_adapters.settings import RESCORE_MODES
from knn_adapters.wrapping import IndexAdapter, WrapOptions

__all__ = ["AnnoyAdapter", "FaissAdapter", "HnswlibAdapter"]


class _LibraryAdapter(IndexAdapter):
    """What the three have in common: the stand-in module does the work, once the library is there."""

    library: str
    index_class: str

    def handles(self, index: object) -> bool:
        """Whether ``index`` is of the library."""
        # An index of the library exists only if the library was imported.
        return self.library in sys.modules and isinstance(index, getattr(original(self.library), self.index_class))

    def is_wrapped(self, index: Any) -> bool:
        """Whether the class of ``index`` is one of ours."""
        return any(cls.__module__ == f"knn_adapters.{self.library}" for cls in type(index).__mro__)

    def stats(self, index: Any) -> IndexStats:
        """Return the figures of a wrapped index."""
        figures: IndexStats = index._stats()
        return figures

    @property
    def stand_in(self) -> ModuleType:
        """The module of this package that stands in for the library."""
        return import_module(f"knn_adapters.{self.library}")


class FaissAdapter(_LibraryAdapter):
    """FAISS: flat, HNSW and inverted-list indexes become SQ indexes that our kernels search in place."""

    library, index_class = "faiss", "Index"
    supported = (
        "faiss.IndexFlat, IndexFlatL2, IndexFlatIP, IndexHNSWFlat or IndexIVFFlat, or of 8 or 4 bits "
        "IndexScalarQuantizer, IndexHNSWSQ or IndexIVFScalarQuantizer; inside IndexIDMap, IndexIDMap2, "
        "IndexPreTransform, IndexRefine or IndexRefineFlat too"
    )
    rescore_modes = RESCORE_MODES

    def is_wrapped(self, index: Any) -> bool:
        """Whether the class of ``index`` is one of ours."""
        return any(cls.__module__.startswith("knn_adapters.faiss") for cls in type(index).__mro__)

    def wrap(self, index: Any, options: WrapOptions) -> Any:
        """Return the quantized index."""
        return self.stand_in.class_for(index)._made_of(index, options, exact_below=1, copy=True)

    def metric(self, index: Any) -> str:
        """Return the metric of an index, wrapped or not."""
        name: str = self.stand_in.storage.metric_name(index)
        return name

    def vectors(self, index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids and vectors, decoded where wrapped."""
        if self.is_wrapped(index):
            found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] = index._vectors()
            return found
        held: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] = self.stand_in.held_vectors(index)
        return held

    def search(self, index: Any, queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
        """Return the ids that the index finds."""
        ids: npt.NDArray[np.int64] = index.search(queries, k)[1]
        return ids

    def export(self, index: Any, path: str | os.PathLike[str]) -> None:
        """Write FAISS' own file."""
        self.stand_in.write_index(index, os.fspath(path))


class HnswlibAdapter(_LibraryAdapter):
    """hnswlib: its graph is taken over into records of our own."""

    library, index_class = "hnswlib", "Index"
    supported = "hnswlib.Index"
    rescore_modes = RESCORE_MODES

    def handles(self, index: object) -> bool:
        """Whether ``index`` is an ``hnswlib.Index``, or our ``BFIndex``, whose vectors are floats."""
        return super().handles(index) or type(index).__module__ == "knn_adapters.hnswlib_bruteforce"

    def is_wrapped(self, index: Any) -> bool:
        """Whether the class of ``index`` is one of ours."""
        return any(cls.__module__.startswith("knn_adapters.hnswlib") for cls in type(index).__mro__)

    def wrap(self, index: Any, options: WrapOptions) -> Any:
        """Return the quantized index."""
        return self.stand_in.Index._wrapping(self.stand_in.HnswState.of(index), options)

    def metric(self, index: Any) -> str:
        """Return the metric of an index, wrapped or not."""
        return str(index._space if isinstance(index, self.stand_in.BFIndex) else index.space)

    def vectors(self, index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids and vectors, decoded where wrapped."""
        if self.is_wrapped(index):
            found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] = index._vectors()
            return found
        state = self.stand_in.HnswState.of(index)
        return state.labels[~state.deleted].astype(np.int64), state.vectors[~state.deleted]

    def search(self, index: Any, queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
        """Return the ids that the index finds."""
        labels: npt.NDArray[np.int64] = index.knn_query(queries, k=k)[0].astype(np.int64)
        return labels

    def export(self, index: Any, path: str | os.PathLike[str]) -> None:
        """Write hnswlib's own file."""
        index._export(path)


class AnnoyAdapter(_LibraryAdapter):
    """Annoy: its forest is taken over, planes and items as codes."""

    library, index_class = "annoy", "AnnoyIndex"
    supported = "annoy.AnnoyIndex (angular, euclidean, dot)"
    rescore_modes = RESCORE_MODES

    def wrap(self, index: Any, options: WrapOptions) -> Any:
        """Return the quantized index; one of metric manhattan or hamming as it is."""
        return self.stand_in.wrapped(index, options)

    def metric(self, index: Any) -> str:
        """Return the metric of an index, wrapped or not."""
        name: str = self.stand_in.quantizer_metric(index)
        return name

    def vectors(self, index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids and vectors, decoded where wrapped."""
        found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] = self.stand_in.held_vectors(index)
        return found

    def search(self, index: Any, queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
        """Return the ids that the index finds."""
        found = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            ids = index.get_nns_by_vector(query, k)
            found[row, : len(ids)] = ids
        return found

    def export(self, index: Any, path: str | os.PathLike[str]) -> None:
        """Write Annoy's own file."""
        index._served.export(path)
