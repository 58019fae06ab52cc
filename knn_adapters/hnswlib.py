"""Stands in for the module ``hnswlib``: an ``Index`` with hnswlib's API and graph over 8-bit codes.

Storage and search are ours; the graph is hnswlib's, taken from an existing index. In this release an index comes from
:func:`knn_adapters.wrap` and can be searched only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters._unsupported import reject_methods, unsupported
from knn_adapters._validation import as_queries, check_finite, check_k, has_missing, number_error
from knn_adapters.evaluation import IndexStats
from knn_adapters.hnswlib_state import HnswState
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, missing_dependency

try:
    import hnswlib
except ImportError as error:
    raise missing_dependency("hnswlib", "hnswlib", wanted_by="knn_adapters.hnswlib") from error

__all__ = ["Index"]

_ROWS_PER_THREAD = 4  # hnswlib searches batches of at most so many rows a thread in one thread


class Index(hnswlib.Index):  # type: ignore[misc]  # a class without stubs
    """An ``hnswlib.Index`` whose vectors are codes; made by :func:`knn_adapters.wrap`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError(
            "building a quantized hnswlib.Index is not yet supported: build an hnswlib.Index and wrap it"
        )

    @classmethod
    def _wrapping(cls, state: HnswState, options: WrapOptions) -> Index:
        """Return an index over the graph and the encoded vectors of ``state``."""
        self = cls.__new__(cls)
        # The base stays empty: it answers for space, dim, ef and num_threads.
        super(Index, self).__init__(state.space, state.vectors.shape[1])
        self._take(state, options)
        return self

    def _take(self, state: HnswState, options: WrapOptions) -> None:
        quantizer = options.train_quantizer(state.space, state.vectors)
        scale, offset = quantizer.scale, quantizer.offset
        codes = quantizer.encode(state.vectors)
        span = quantizer.span if getattr(quantizer, "residual", False) else 0.0
        self._graph = _core.HnswGraph(
            len(scale), len(codes), scale, offset, quantizer.metric, max_m=state.settings["M"],
            ef_construction=state.settings["ef_construction"], seed=state.settings["seed"], bits=quantizer.bits,
            span=span,
        )  # fmt: skip
        self._graph.fill(
            codes, quantizer.encode_residuals(state.vectors, codes) if span else None, state.level0,
            state.element_levels, state.link_lists, state.entry_point, state.max_level,
        )  # fmt: skip
        self._quantizer = quantizer
        self._labels = state.labels
        self._settings = state.settings
        self._original_bytes = state.original_bytes
        self.set_ef(state.settings["ef"])
        self.set_num_threads(state.settings["num_threads"])

    def knn_query(
        self,
        data: npt.ArrayLike,
        k: int = 1,
        num_threads: int = -1,
        filter: Callable[[int], bool] | None = None,  # noqa: A002  # hnswlib's name
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Return labels ``(q, k)`` ``uint64`` and distances ``(q, k)`` ``float32`` of the k nearest elements.

        Distances are in hnswlib's units: squared Euclidean for ``"l2"``, 1 - dot for ``"ip"`` and ``"cosine"``.

        Args:
            data: queries ``(q, d)`` or one ``(d,)``.
            k: number of neighbours.
            num_threads: threads for a large batch; ``set_num_threads`` by default.
            filter: not yet supported.

        Raises:
            ArgumentError: a wrong dimension (which hnswlib leaves unchecked), NaN or infinity, k below 1.
            RuntimeError: fewer than k elements were found, as hnswlib has it.
            UnsupportedError: a filter is given.
        """
        if filter is not None:
            raise unsupported("knn_query(filter=...)")
        queries = as_queries("data", data, self.dim)
        count = check_k("k", k)
        threads = num_threads if num_threads > 0 else self.num_threads
        if len(queries) <= threads * _ROWS_PER_THREAD:
            threads = 1
        try:
            distances, ids = self._graph.search(queries, count, max(self.ef, count), num_threads=threads)
        except ValueError:
            check_finite("data", queries)
            raise
        if has_missing(ids):
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
        return self._labels[ids], distances if self.space == "l2" else 1.0 - distances

    def set_ef(self, ef: int) -> None:
        """Set the breadth of the search; at least k is used."""
        self.ef = ef

    def set_num_threads(self, num_threads: int) -> None:
        """Set the threads that a large batch is searched with."""
        if not isinstance(num_threads, (int, np.integer)):
            raise number_error("num_threads", num_threads)
        self.num_threads = num_threads

    def get_current_count(self) -> int:
        """Return the number of elements."""
        return len(self._labels)

    def get_max_elements(self) -> int:
        """Return the capacity of the original."""
        return self._settings["max_elements"]

    def get_ids_list(self) -> list[int]:
        """Return the labels, in order of insertion (hnswlib: of its hash map)."""
        labels: list[int] = self._labels.tolist()
        return labels

    @property
    def element_count(self) -> int:
        """Number of elements."""
        return len(self._labels)

    @property
    def max_elements(self) -> int:
        """Capacity of the original."""
        return self._settings["max_elements"]

    @property
    def M(self) -> int:  # noqa: N802  # hnswlib's name
        """Links of an element on the upper levels."""
        return self._settings["M"]

    @property
    def ef_construction(self) -> int:
        """Breadth of the search that built the graph."""
        return self._settings["ef_construction"]

    def __repr__(self) -> str:
        return f"<knn_adapters.hnswlib.Index(space={self.space!r}, dim={self.dim}, bits={self._quantizer.bits})>"

    def _stats(self) -> IndexStats:
        count, quantizer = len(self._labels), self._quantizer
        other = self._labels.nbytes + quantizer.scale.nbytes + quantizer.offset.nbytes
        return IndexStats(
            kind="hnswlib.Index",
            metric=self.space,
            n_vectors=count,
            dim=self.dim,
            bits=quantizer.bits,
            clip=quantizer.clip,
            simd_level=_core.simd_level(),
            codes_bytes=self._graph.nbytes_codes / count,
            graph_bytes=self._graph.nbytes_graph / count,
            other_bytes=other / count,
            original_bytes=self._original_bytes / count,
        )

    def _vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        ids = np.arange(len(self._labels), dtype=np.int64)
        residuals = self._graph.residuals(ids)
        codes = self._graph.codes(ids)
        decoded = self._quantizer.decode(codes) if residuals is None else self._quantizer.decode(codes, residuals)
        return self._labels.astype(np.int64), decoded


reject_methods(Index, hnswlib.Index)
