"""The engines that are compared. Each says how to build, set, search and weigh one kind of index of one library.

Libraries are imported when an engine is built, so that a peer that is not installed is listed as skipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EF_CONSTRUCTION", "AnnoyForest", "Engine", "FaissIndex", "Hnswlib", "M", "Usearch", "Voyager"]

M, EF_CONSTRUCTION = 16, 200

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Engine:
    """One index of one library; ``index`` is set by :meth:`build`."""

    package = ""
    efforts: tuple[int, ...] = (10, 16, 24, 40, 64, 100, 160, 256, 400)
    has_batch = True

    def __init__(self, name: str, metric: str = "ip", threads: int = 1) -> None:
        self.name, self.metric, self.threads = name, metric, threads
        self.index: Any = None

    def build(self, base: _Floats) -> None:
        """Make the index; timed."""
        raise NotImplementedError

    def set_effort(self, effort: int) -> None:
        """Set the knob between recall and speed."""

    def prepared(self, query: _Floats) -> Any:
        """Return one query in the form that :meth:`one` takes: what the caller of that library would hold."""
        return query[None]

    def one(self, query: Any, k: int) -> Any:
        """Search for one query."""
        return self.batch(query, k)

    def batch(self, queries: _Floats, k: int) -> _Ids:
        """Return the ids ``(q, k)``."""
        raise NotImplementedError

    def bytes_a_vector(self, n: int) -> float:
        """Return the bytes of the whole index, as it is saved, a vector."""
        raise NotImplementedError


class Hnswlib(Engine):
    """hnswlib as pip builds it."""

    package = "hnswlib"

    def build(self, base: _Floats) -> None:
        import hnswlib

        self.fill(hnswlib.Index(space=self.metric, dim=base.shape[1]), base)

    def fill(self, index: Any, base: _Floats) -> None:
        """Put ``base`` into a fresh ``index``."""
        index.init_index(max_elements=len(base), M=M, ef_construction=EF_CONSTRUCTION)
        index.set_num_threads(self.threads)
        index.add_items(base, num_threads=self.threads)
        self.index = index

    def set_effort(self, effort: int) -> None:
        self.index.set_ef(effort)

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.knn_query(queries, k=k, num_threads=self.threads)[0].astype(np.int64)

    def one(self, query: Any, k: int) -> Any:
        return self.index.knn_query(query, k=k, num_threads=1)

    def bytes_a_vector(self, n: int) -> float:
        return self.index.index_file_size() / n


class FaissIndex(Engine):
    """A FAISS index by its class: ``kind`` is Flat, SQ8, HNSWFlat, HNSWSQ8, IVF256Flat or IVF256SQ8."""

    package = "faiss"

    def __init__(self, name: str, kind: str, metric: str = "ip", threads: int = 1) -> None:
        super().__init__(name, metric, threads)
        self.kind = kind
        if kind in ("Flat", "SQ8"):
            self.efforts = (0,)
        elif kind.startswith("IVF"):
            self.efforts = (2, 4, 8, 16, 32, 64, 128)

    def build(self, base: _Floats) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        dim, metric = base.shape[1], faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        bits = faiss.ScalarQuantizer.QT_8bit
        if self.kind.startswith("HNSW"):
            made = (
                faiss.IndexHNSWFlat(dim, M, metric)
                if self.kind == "HNSWFlat"
                else faiss.IndexHNSWSQ(dim, bits, M, metric)
            )
            made.hnsw.efConstruction = EF_CONSTRUCTION
        elif self.kind.startswith("IVF"):
            self._coarse = faiss.IndexFlat(dim, metric)
            made = (
                faiss.IndexIVFFlat(self._coarse, dim, 256, metric)
                if self.kind.endswith("Flat")
                else faiss.IndexIVFScalarQuantizer(self._coarse, dim, 256, bits, metric)
            )
        else:
            made = (
                faiss.IndexFlat(dim, metric) if self.kind == "Flat" else faiss.IndexScalarQuantizer(dim, bits, metric)
            )
        made.train(base)
        made.add(base)
        self.index = made

    def set_effort(self, effort: int) -> None:
        if self.kind.startswith("HNSW"):
            self.index.hnsw.efSearch = effort
        elif self.kind.startswith("IVF"):
            self.index.nprobe = effort

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.search(queries, k)[1]

    def bytes_a_vector(self, n: int) -> float:
        import faiss

        return len(faiss.serialize_index(self.index)) / n


class AnnoyForest(Engine):
    """Annoy with 20 trees; its size is that of its file."""

    package = "annoy"
    efforts = (500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
    has_batch = False

    def build(self, base: _Floats) -> None:
        from annoy import AnnoyIndex

        index = AnnoyIndex(base.shape[1], "angular" if self.metric == "ip" else "euclidean")
        index.set_seed(1)
        for item, vector in enumerate(base):
            index.add_item(item, vector)
        index.build(20, n_jobs=self.threads)
        self.index = index

    def set_effort(self, effort: int) -> None:
        self._search_k = effort

    def prepared(self, query: _Floats) -> Any:
        return query.tolist()

    def one(self, query: Any, k: int) -> Any:
        return self.index.get_nns_by_vector(query, k, search_k=self._search_k)

    def batch(self, queries: _Floats, k: int) -> _Ids:
        rows = [self.one(self.prepared(query), k) for query in queries]
        return np.array([row + [-1] * (k - len(row)) for row in rows], np.int64)

    def bytes_a_vector(self, n: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "forest.ann"
            self.index.save(str(path))
            return path.stat().st_size / n


class Usearch(Engine):
    """usearch with its 8-bit codes."""

    package = "usearch"

    def build(self, base: _Floats) -> None:
        from usearch.index import Index

        self.index = Index(
            ndim=base.shape[1],
            metric="cos" if self.metric == "ip" else "l2sq",
            dtype="i8",
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        self.index.add(np.arange(len(base)), base, threads=self.threads)

    def set_effort(self, effort: int) -> None:
        self.index.expansion_search = effort

    def one(self, query: Any, k: int) -> Any:
        return self.index.search(query[0], k, threads=1)

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.search(queries, k, threads=self.threads).keys.astype(np.int64)

    def bytes_a_vector(self, n: int) -> float:
        return self.index.serialized_length / n


class Voyager(Engine):
    """voyager with 8-bit storage, ``E4M3`` or ``Float8`` (which takes values in -1..1 only)."""

    package = "voyager"

    def __init__(self, name: str, storage: str, metric: str = "ip", threads: int = 1) -> None:
        super().__init__(name, metric, threads)
        self.storage = storage

    def build(self, base: _Floats) -> None:
        import voyager

        space = voyager.Space.InnerProduct if self.metric == "ip" else voyager.Space.Euclidean
        storage = getattr(voyager.StorageDataType, self.storage)
        self.index = voyager.Index(
            space,
            base.shape[1],
            M=M,
            ef_construction=EF_CONSTRUCTION,
            max_elements=len(base),
            storage_data_type=storage,
        )
        self.index.add_items(base, num_threads=self.threads)

    def set_effort(self, effort: int) -> None:
        self.index.ef = effort

    def prepared(self, query: _Floats) -> Any:
        return query

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.query(queries, k, num_threads=self.threads)[0].astype(np.int64)

    def bytes_a_vector(self, n: int) -> float:
        return len(self.index.as_bytes()) / n
