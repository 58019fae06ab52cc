"""Stands in for the module ``faiss``: its flat and HNSW indexes over 8-bit codes.

A wrapped index is a stock FAISS SQ index underneath (so that ``faiss.write_index`` and every function in C++ take it)
whose ranges we calibrated; ``search`` runs our kernels over FAISS' own memory. In this release an index comes from
:func:`knn_adapters.wrap` and can be searched and written only.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters._unsupported import protect_properties, reject_methods, unsupported
from knn_adapters._validation import as_queries, check_k
from knn_adapters.evaluation import IndexStats
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, argument_error, missing_dependency

try:
    import faiss

    from knn_adapters import faiss_storage as storage
except ImportError as error:
    raise missing_dependency("faiss", "faiss", wanted_by="knn_adapters.faiss") from error

__all__ = ["IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexHNSWFlat", "class_for"]

C = TypeVar("C", bound=type)

_FLOAT_MAX = float(np.finfo(np.float32).max)  # what FAISS fills missing results with


class _QuantizedIndex:
    """Search over codes, for a subclass of an SQ class and of the class that it stands for.

    FAISS refuses attributes that a class does not declare, hence the declarations.
    """

    _searcher: Any = None
    _quantizer: Any = None
    _norms: npt.NDArray[np.float32] | None = None
    _hnsw: Any = None
    _count: int = 0
    _original_bytes: float = 0.0

    def __init__(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError(
            f"building a quantized {type(self).__name__} is not yet supported: build it with faiss and wrap it"
        )

    @classmethod
    def _wrapping(cls, original: Any, options: WrapOptions) -> Any:
        """Return an index over the codes of ``original``'s vectors and a copy of its graph."""
        vectors = storage.flat_vectors(original)
        quantizer = options.train_quantizer(storage.metric_name(original), vectors)
        stock = storage.scalar_quantizer_index(original, quantizer, quantizer.encode(vectors))
        self: Any = cls.__new__(cls)
        # The C++ object is shared with the stock proxy, which goes: `this` owns it.
        self.this = stock.this
        self._open(quantizer)
        self._original_bytes = vectors.itemsize * vectors.shape[1] + self._graph_bytes()
        return self

    def _open(self: Any, quantizer: Any) -> None:
        """Set the searcher up over the memory of the C++ object."""
        codes = storage.stored_codes(self)
        metric, affine = quantizer.core_metric, (quantizer.scale, quantizer.offset)
        self._norms = _core.squared_norms(codes, *affine) if metric == "l2" else None
        self._quantizer, self._count = quantizer, len(codes)
        is_graph = isinstance(self, faiss.IndexHNSW)
        if is_graph:
            self._hnsw = self.hnsw
            self._searcher = _core.LinkedGraphSearcher(
                codes, self._norms, *storage.graph_arrays(self._hnsw), self._hnsw.entry_point, self._hnsw.max_level,
                *affine, metric,
            )  # fmt: skip
        else:
            self._searcher = _core.FlatSearcher(codes, self._norms, *affine, metric)

    def search(
        self: Any,
        x: npt.ArrayLike,
        k: int,
        *,
        params: Any = None,
        D: npt.NDArray[np.float32] | None = None,  # noqa: N803  # FAISS' names
        I: npt.NDArray[np.int64] | None = None,  # noqa: E741, N803
        numeric_type: Any = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return distances ``(q, k)`` ``float32`` and ids ``(q, k)`` ``int64``, in FAISS' units and order.

        Squared Euclidean distance, ascending, or inner product, descending. Missing results have id -1. The breadth of
        a graph search is ``hnsw.efSearch`` as it is at this moment; threads are those of ``faiss.omp_set_num_threads``.

        Args:
            x: queries ``(q, d)``.
            k: number of neighbours.
            params: not yet supported.
            D: array ``(q, k)`` ``float32`` to write distances to.
            I: array ``(q, k)`` ``int64`` to write ids to.
            numeric_type: ``faiss.Float32`` or nothing.

        Raises:
            ArgumentError: a wrong shape, dtype or dimension, NaN or infinity, k below 1.
            UnsupportedError: search parameters, or another numeric type.
        """
        if params is not None:
            raise unsupported("search(params=...)")
        if numeric_type is not None and numeric_type != getattr(faiss, "Float32", None):
            raise unsupported("search(numeric_type=...) other than Float32")
        queries, count = as_queries("x", x, self.d, single=False), check_k("k", k)
        _check_output("D", D, (len(queries), count), np.float32)
        _check_output("I", I, (len(queries), count), np.int64)
        threads = 1 if len(queries) == 1 else faiss.omp_get_max_threads()
        if self._hnsw is None:
            distances, ids = self._searcher.search(queries, count, num_threads=threads)
        else:
            breadth = max(self._hnsw.efSearch, count)
            distances, ids = self._searcher.search(queries, count, breadth, num_threads=threads)
        if (ids[:, -1] < 0).any():
            distances[ids < 0] = _FLOAT_MAX if self.metric_type == faiss.METRIC_L2 else -_FLOAT_MAX
        return _delivered(distances, D), _delivered(ids, I)

    def __repr__(self: Any) -> str:
        return f"<knn_adapters.faiss.{type(self).__name__} d={self.d} ntotal={self.ntotal} bits={self._quantizer.bits}>"

    def _graph_bytes(self) -> float:
        if self._hnsw is None:
            return 0.0
        arrays = (*storage.graph_arrays(self._hnsw), storage.view(self._hnsw.levels))
        return sum(array.nbytes for array in arrays) / self._count

    def _stats(self: Any) -> IndexStats:
        quantizer, norms = self._quantizer, self._norms
        # Our scale and offset, and FAISS' own pair.
        ranges = 2 * (quantizer.scale.nbytes + quantizer.offset.nbytes)
        return IndexStats(
            kind=f"faiss.{type(self).__name__}",
            metric=quantizer.metric,
            n_vectors=self._count,
            dim=self.d,
            bits=quantizer.bits,
            clip=quantizer.clip,
            simd_level=_core.simd_level(),
            codes_bytes=self.d + (norms.nbytes / self._count if norms is not None else 0.0),
            graph_bytes=self._graph_bytes(),
            other_bytes=ranges / self._count,
            original_bytes=self._original_bytes,
        )

    def _vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        codes = storage.stored_codes(self)
        return np.arange(len(codes), dtype=np.int64), self._quantizer.decode(codes)


def _standing_in(cls: C) -> C:
    """Close what a wrapped index does not answer yet and what would move the memory under our searcher."""
    _, held, shown = cls.__bases__
    reject_methods(cls, held, shown)
    return protect_properties(cls, held, shown, writable=("this", "thisown", "verbose"))


@_standing_in
class IndexFlat(_QuantizedIndex, faiss.IndexScalarQuantizer, faiss.IndexFlat):  # type: ignore[misc]
    """Stands for ``faiss.IndexFlat``; an ``IndexScalarQuantizer`` underneath."""


@_standing_in
class IndexFlatL2(_QuantizedIndex, faiss.IndexScalarQuantizer, faiss.IndexFlatL2):  # type: ignore[misc]
    """Stands for ``faiss.IndexFlatL2``; an ``IndexScalarQuantizer`` underneath."""


@_standing_in
class IndexFlatIP(_QuantizedIndex, faiss.IndexScalarQuantizer, faiss.IndexFlatIP):  # type: ignore[misc]
    """Stands for ``faiss.IndexFlatIP``; an ``IndexScalarQuantizer`` underneath."""


@_standing_in
class IndexHNSWFlat(_QuantizedIndex, faiss.IndexHNSWSQ, faiss.IndexHNSWFlat):  # type: ignore[misc]
    """Stands for ``faiss.IndexHNSWFlat``; an ``IndexHNSWSQ`` underneath."""


_CLASSES: dict[type, type[_QuantizedIndex]] = {
    faiss.IndexFlat: IndexFlat,
    faiss.IndexFlatL2: IndexFlatL2,
    faiss.IndexFlatIP: IndexFlatIP,
    faiss.IndexHNSWFlat: IndexHNSWFlat,
}


def class_for(index: Any) -> type[_QuantizedIndex]:
    """Return the class that stands for the class of ``index``, which must be it exactly: a subclass may store more.

    Raises:
        UnsupportedError: another index type.
    """
    try:
        return _CLASSES[type(index)]
    except KeyError:
        names = ", ".join(cls.__name__ for cls in _CLASSES)
        raise UnsupportedError(f"a FAISS {type(index).__name__} is not yet supported: use one of {names}") from None


def _check_output(name: str, array: npt.NDArray[Any] | None, shape: tuple[int, int], dtype: type) -> None:
    if array is not None and (array.shape != shape or array.dtype != dtype):
        raise argument_error(
            name, f"must be {dtype.__name__} of shape {shape}", f"{array.dtype} of shape {array.shape}", "leave it out"
        )


def _delivered(values: npt.NDArray[Any], target: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if target is None:
        return values
    target[...] = values
    return target
