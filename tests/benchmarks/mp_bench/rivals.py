"""Engines with 8-bit codes of their own, which ours only compete with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_bench.engines import EF_CONSTRUCTION, Engine, M

__all__ = ["Usearch", "Voyager"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Usearch(Engine):
    """usearch with its 8-bit codes."""

    package = "usearch"
    suffix = "usearch"

    def build(self, base: _Floats) -> None:
        self.index = self._empty(base.shape[1])
        self.index.add(np.arange(len(base)), base, threads=self.threads)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, dim: int) -> None:
        self.index = self._empty(dim)
        self.index.load(str(path))

    def _empty(self, dim: int) -> Any:
        from usearch.index import Index

        metric = "cos" if self.metric == "ip" else "l2sq"
        return Index(ndim=dim, metric=metric, dtype="i8", connectivity=M, expansion_add=EF_CONSTRUCTION)

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
    suffix = "voy"

    def __init__(self, name: str, storage: str, metric: str = "ip", threads: int = 1) -> None:
        super().__init__(name, metric, threads)
        self.storage = storage

    @property
    def parameters(self) -> dict[str, Any]:
        return super().parameters | {"storage": self.storage}

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

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, dim: int) -> None:
        import voyager

        self.index = voyager.Index.load(str(path))

    def set_effort(self, effort: int) -> None:
        self.index.ef = effort

    def prepared(self, query: _Floats) -> Any:
        return query

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.query(queries, k, num_threads=self.threads)[0].astype(np.int64)

    def bytes_a_vector(self, n: int) -> float:
        return len(self.index.as_bytes()) / n
