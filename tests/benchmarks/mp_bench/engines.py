"""The engines that ours stand on. Each says how to build, keep, set, search and weigh one kind of index of a library.

Libraries are imported when an engine is built, so that a peer that is not installed is listed as skipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EF_CONSTRUCTION", "AnnoyForest", "Engine", "FaissIndex", "Hnswlib", "M"]

M, EF_CONSTRUCTION = 16, 200

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Engine:
    """One index of one library; ``index`` is set by :meth:`build`."""

    package = ""
    efforts: tuple[int, ...] = (10, 16, 24, 40, 64, 100, 160, 256, 400, 640, 1000)
    has_batch = True
    suffix = ""
    """Of the file that :meth:`save` writes; empty where an index cannot be kept."""

    def __init__(self, name: str, metric: str = "ip", threads: int = 1) -> None:
        self.name, self.metric, self.threads = name, metric, threads
        self.index: Any = None

    def build(self, base: _Floats) -> None:
        """Make the index; timed."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides, beside the vectors, which index :meth:`build` makes and how fast."""
        return {
            "engine": type(self).__name__, "metric": self.metric, "threads": self.threads,
            "M": M, "ef_construction": EF_CONSTRUCTION,
        }  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the index to ``path``."""
        raise NotImplementedError

    def load(self, path: Path, dim: int) -> None:
        """Take the index that :meth:`save` wrote, of vectors of ``dim`` dimensions, in place of building it."""
        raise NotImplementedError

    def efforts_for(self, k: int) -> tuple[int, ...]:
        """Return the settings that differ in a search for k: graphs never look at fewer than k candidates."""
        return tuple(sorted({max(effort, k) for effort in self.efforts}))

    def set_effort(self, effort: int) -> None:
        """Set the knob between recall and speed."""

    def set_threads(self, threads: int) -> None:
        """Set the threads of the next searches where a call does not say them itself."""

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
    suffix = "hnsw"

    def build(self, base: _Floats) -> None:
        import hnswlib

        self.fill(hnswlib.Index(space=self.metric, dim=base.shape[1]), base)

    def fill(self, index: Any, base: _Floats) -> None:
        """Put ``base`` into a fresh ``index``."""
        index.init_index(max_elements=len(base), M=M, ef_construction=EF_CONSTRUCTION)
        index.set_num_threads(self.threads)
        index.add_items(base, num_threads=self.threads)
        self.index = index

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path, dim: int) -> None:
        import hnswlib

        self.index = hnswlib.Index(space=self.metric, dim=dim)
        self.index.load_index(str(path))
        self.index.set_num_threads(self.threads)

    def set_effort(self, effort: int) -> None:
        self.index.set_ef(effort)

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.knn_query(queries, k=k, num_threads=self.threads)[0].astype(np.int64)

    def one(self, query: Any, k: int) -> Any:
        return self.index.knn_query(query, k=k, num_threads=1)

    def bytes_a_vector(self, n: int) -> float:
        return self.index.index_file_size() / n


class FaissIndex(Engine):
    """A FAISS index by its class: ``kind`` is Flat, SQ8, HNSWFlat, HNSWSQ8, or with 256 lists IVF256Flat, IVF256SQ8."""

    package = "faiss"
    suffix = "faiss"

    def __init__(self, name: str, kind: str, metric: str = "ip", threads: int = 1) -> None:
        super().__init__(name, metric, threads)
        self.kind = kind
        if kind in ("Flat", "SQ8"):
            self.efforts = (0,)
        elif kind.startswith("IVF"):
            self.efforts = (2, 4, 8, 16, 32, 64, 128, 192, 256)

    @property
    def parameters(self) -> dict[str, Any]:
        return super().parameters | {"kind": self.kind}

    def efforts_for(self, k: int) -> tuple[int, ...]:
        return super().efforts_for(k) if self.kind.startswith("HNSW") else self.efforts

    def build(self, base: _Floats) -> None:
        import faiss

        self.set_threads(self.threads)
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
            n_lists = int(self.kind.removeprefix("IVF").removesuffix("SQ8").removesuffix("Flat"))
            self._coarse = faiss.IndexFlat(dim, metric)
            made = (
                faiss.IndexIVFFlat(self._coarse, dim, n_lists, metric)
                if self.kind.endswith("Flat")
                else faiss.IndexIVFScalarQuantizer(self._coarse, dim, n_lists, bits, metric)
            )
        else:
            made = (
                faiss.IndexFlat(dim, metric) if self.kind == "Flat" else faiss.IndexScalarQuantizer(dim, bits, metric)
            )
        made.train(base)
        made.add(base)
        self.index = made

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self.index, str(path))

    def load(self, path: Path, dim: int) -> None:
        import faiss

        self.index = faiss.read_index(str(path))

    def set_effort(self, effort: int) -> None:
        if self.kind.startswith("HNSW"):
            self.index.hnsw.efSearch = effort
        elif self.kind.startswith("IVF"):
            self.index.nprobe = effort

    def set_threads(self, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)

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
    suffix = "ann"

    def build(self, base: _Floats) -> None:
        index = self._empty(base.shape[1])
        index.set_seed(1)
        for item, vector in enumerate(base):
            index.add_item(item, vector)
        index.build(20, n_jobs=self.threads)
        self.index = index

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, dim: int) -> None:
        self.index = self._empty(dim)
        self.index.load(str(path), prefault=True)

    def efforts_for(self, k: int) -> tuple[int, ...]:
        return self.efforts

    def _empty(self, dim: int) -> Any:
        from annoy import AnnoyIndex

        return AnnoyIndex(dim, "angular" if self.metric == "ip" else "euclidean")

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
