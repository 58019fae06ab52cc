"""Stands in for the module ``faiss``: its flat, HNSW and inverted-list indexes over 8-bit or 4-bit codes.

A wrapped index is a stock FAISS SQ index underneath (so that ``faiss.write_index`` and every function in C++ take it)
whose ranges we calibrated, or, where the original has 8-bit codes already, a copy with FAISS' own ranges; ``search``
runs our kernels over FAISS' own memory. In this release an index comes from
:func:`knn_adapters.wrap` and can be searched and written only.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters._unsupported import protect_properties, reject_methods
from knn_adapters._validation import as_queries, check_k
from knn_adapters.evaluation import IndexStats
from knn_adapters.second_level import SecondLevel
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, argument_error, missing_dependency

try:
    import faiss

    from knn_adapters import faiss_ivf
    from knn_adapters import faiss_storage as storage
    from knn_adapters.faiss_arguments import check_8_bits, check_output, delivered
    from knn_adapters.faiss_queries import as_numeric, as_radius
    from knn_adapters.faiss_searching import ListMethods, filled, nearest, within
except ImportError as error:
    raise missing_dependency("faiss", "faiss", wanted_by="knn_adapters.faiss") from error

__all__ = [
    "IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexHNSWFlat", "IndexHNSWSQ", "IndexIVFFlat",
    "IndexIVFScalarQuantizer", "IndexScalarQuantizer", "class_for", "held_vectors",
]  # fmt: skip

C = TypeVar("C", bound=type)


class _QuantizedIndex:
    """Search over codes, for a subclass of an SQ class and of the class that it stands for.

    FAISS refuses attributes that a class does not declare, hence the declarations.
    """

    _searcher: Any = None
    _quantizer: Any = None
    _norms: npt.NDArray[np.float32] | None = None
    _second_level: SecondLevel | None = None
    _hnsw: Any = None
    _lists: Any = None
    _count: int = 0
    _original_bytes: float = 0.0

    def __init__(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError(
            f"building a quantized {type(self).__name__} is not yet supported: build it with faiss and wrap it"
        )

    @classmethod
    def _wrapping(cls, original: Any, options: WrapOptions) -> Any:
        """Return an index over the codes of ``original``'s vectors, with a copy of its graph or lists."""
        metric = storage.metric_name(original)
        codes: Any = None
        if issubclass(cls, _CODED) or isinstance(original, faiss.IndexIVF):
            check_8_bits(original, options)
        if issubclass(cls, _CODED):
            if options.calibration is not None:
                raise argument_error("calibration", "must be left out", "vectors", "codes that exist keep their range")
            quantizer: Any = storage.existing_quantizer(original, metric)
            if isinstance(original, faiss.IndexIVF):
                faiss_ivf.check_lists(original)
            stock: Any = faiss.clone_index(original)
            original_bytes = float(original.d)
        else:
            is_ivf = isinstance(original, faiss.IndexIVF)
            vectors = faiss_ivf.stored_vectors(original)[1] if is_ivf else storage.flat_vectors(original)
            quantizer = options.train_quantizer(metric, vectors)
            stock = (
                faiss_ivf.quantized_lists(original, quantizer)
                if is_ivf
                else storage.scalar_quantizer_index(original, quantizer, codes := quantizer.encode(vectors))
            )
            original_bytes = 4.0 * original.d
        self: Any = cls.__new__(cls)
        # The C++ object is shared with the stock proxy, which goes: `this` owns it.
        self.this = stock.this
        self._open(quantizer)
        if codes is not None:
            self._second_level = SecondLevel.of(quantizer, vectors, codes, self._searcher)
        self._original_bytes = original_bytes + self._structure_bytes()
        return self

    def _open(self: Any, quantizer: Any) -> None:
        """Set the searcher up over the memory of the C++ object."""
        metric, affine = quantizer.core_metric, (quantizer.scale, quantizer.offset)
        self._quantizer, self._count = quantizer, self.ntotal
        is_ivf, is_graph = isinstance(self, faiss.IndexIVF), isinstance(self, faiss.IndexHNSW)
        if is_ivf:
            self._lists = faiss_ivf.ListSearch(self, quantizer)
            return
        codes = storage.stored_codes(self)
        self._norms = _core.squared_norms(codes, *affine, quantizer.bits) if metric == "l2" else None
        if is_graph:
            self._hnsw = self.hnsw
            self._searcher = _core.LinkedGraphSearcher(
                codes, self._norms, *storage.graph_arrays(self._hnsw), self._hnsw.entry_point, self._hnsw.max_level,
                *affine, metric, bits=quantizer.bits,
            )  # fmt: skip
        else:
            self._searcher = _core.FlatSearcher(codes, self._norms, *affine, metric, bits=quantizer.bits)

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
        a search is ``hnsw.efSearch`` or ``nprobe`` as it is at this moment; threads are those of
        ``faiss.omp_set_num_threads``. Searches leave the counters ``faiss.cvar.hnsw_stats`` and ``indexIVF_stats`` as
        they are.

        Args:
            x: queries ``(q, d)``.
            k: number of neighbours.
            params: ``faiss.SearchParameters``, or ``SearchParametersHNSW`` or ``SearchParametersIVF`` of such an index,
                which replace the settings of the index for this call. Of ``max_codes``, the list in which it ends is
                scanned whole. A selector that calls Python is asked about candidates only.
            D: array ``(q, k)`` ``float32`` to write distances to.
            I: array ``(q, k)`` ``int64`` to write ids to.
            numeric_type: ``faiss.Float32``, or ``Float16``, ``UInt8``, ``Int8`` for numbers of these types.

        Raises:
            ArgumentError: a wrong shape, dtype or dimension, NaN or infinity, k or ``efSearch`` below 1.
            ArgumentTypeError: ``params`` that are none.
            RuntimeError: ``params`` of another kind for inverted lists, or ``nprobe`` below 1.
        """
        queries, count = as_queries("x", as_numeric("x", x, numeric_type), self.d, single=False), check_k("k", k)
        check_output("D", D, (len(queries), count), np.float32)
        check_output("I", I, (len(queries), count), np.int64)
        distances, ids = filled(self, *nearest(self, queries, count, params))
        return delivered(distances, D), delivered(ids, I)

    def range_search(
        self: Any, x: npt.ArrayLike, thresh: float, *, params: Any = None
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return ``(lims, D, I)``: all vectors nearer than ``thresh``, those of query i at ``lims[i]:lims[i + 1]``.

        Squared distances below ``thresh``, or inner products above it, in FAISS' order: ascending ids, or list by list
        in the order in which a query visits them. A graph is not walked: every vector is scored, so that none is
        missed, whatever ``efSearch``; FAISS' own result has those only that its walk meets, in the order of the walk.

        Args:
            x: queries ``(q, d)``.
            thresh: squared distance, or inner product.
            params: as for :meth:`search`; lists also end at ``max_empty_result_buckets``, and know no ``max_codes``.

        Raises:
            ArgumentError: a wrong shape or dimension, NaN or infinity in ``x``, NaN for ``thresh``.
            ArgumentTypeError: ``params`` that are none.
            RuntimeError: ``params`` of another kind for inverted lists, or ``nprobe`` below 1.
        """
        return within(self, as_queries("x", x, self.d, single=False), as_radius("thresh", thresh), params)

    def assign(
        self: Any, x: npt.ArrayLike, k: int = 1, labels: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the ids ``(q, k)`` ``int64`` that :meth:`search` finds, in ``labels`` if given."""
        queries, count = as_queries("x", x, self.d, single=False), check_k("k", k)
        check_output("labels", labels, (len(queries), count), np.int64)
        ids: npt.NDArray[np.int64] = self.search(queries, count, I=labels)[1]
        return ids

    def __repr__(self: Any) -> str:
        return f"<knn_adapters.faiss.{type(self).__name__} d={self.d} ntotal={self.ntotal} bits={self._quantizer.bits}>"

    def _structure_bytes(self: Any) -> float:
        """Return the bytes a vector of the graph, or of ids and centroids of inverted lists."""
        if self._lists is not None:
            return float(8 + 4 * self.d * self.nlist / self._count)
        if self._hnsw is None:
            return 0.0
        arrays = (*storage.graph_arrays(self._hnsw), storage.view(self._hnsw.levels))
        return float(sum(array.nbytes for array in arrays) / self._count)

    def _stats(self: Any) -> IndexStats:
        quantizer, norms = self._quantizer, self._norms
        held = sum(part.nbytes for part in (norms, self._second_level) if part is not None)
        # Our scale and offset, and FAISS' own pair.
        ranges = 2 * (quantizer.scale.nbytes + quantizer.offset.nbytes)
        other = ranges + (self._lists.bytes_beside_codes if self._lists is not None else 0)
        return IndexStats(
            kind=f"faiss.{type(self).__name__}",
            metric=quantizer.metric,
            n_vectors=self._count,
            dim=self.d,
            bits=quantizer.bits,
            clip=quantizer.clip,
            simd_level=_core.simd_level(),
            codes_bytes=(self.d * quantizer.bits + 7) // 8 + held / self._count,
            graph_bytes=self._structure_bytes(),
            other_bytes=other / self._count,
            original_bytes=self._original_bytes,
        )

    def _vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self._lists is not None:
            return faiss_ivf.decoded(self, self._quantizer)
        codes = storage.stored_codes(self)
        residuals = (self._second_level.residuals,) if self._second_level else ()
        return np.arange(len(codes), dtype=np.int64), self._quantizer.decode(codes, *residuals)


class _QuantizedLists(ListMethods, _QuantizedIndex):
    """The same for indexes of inverted lists."""


def _standing_in(cls: C) -> C:
    """Close what a wrapped index does not answer yet and what would move the memory under our searcher."""
    _, held, shown = (*cls.__bases__, cls.__bases__[-1])[:3]
    reject_methods(cls, held, shown)
    return protect_properties(cls, held, shown, writable=("this", "thisown", "verbose", "nprobe", "max_codes"))


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


@_standing_in
class IndexIVFFlat(_QuantizedLists, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFFlat):  # type: ignore[misc]
    """Stands for ``faiss.IndexIVFFlat``; an ``IndexIVFScalarQuantizer`` underneath."""


@_standing_in
class IndexScalarQuantizer(_QuantizedIndex, faiss.IndexScalarQuantizer):  # type: ignore[misc]
    """Stands for ``faiss.IndexScalarQuantizer`` of 8 bits, whose codes it holds."""


@_standing_in
class IndexHNSWSQ(_QuantizedIndex, faiss.IndexHNSWSQ):  # type: ignore[misc]
    """Stands for ``faiss.IndexHNSWSQ`` of 8 bits, whose codes and graph it holds."""


@_standing_in
class IndexIVFScalarQuantizer(_QuantizedLists, faiss.IndexIVFScalarQuantizer):  # type: ignore[misc]
    """Stands for ``faiss.IndexIVFScalarQuantizer`` of 8 bits, whose codes it holds."""


# Classes whose originals have codes already: these are taken over as they are.
_CODED = (IndexScalarQuantizer, IndexHNSWSQ, IndexIVFScalarQuantizer)

_CLASSES: dict[type, type[_QuantizedIndex]] = {
    faiss.IndexFlat: IndexFlat,
    faiss.IndexFlatL2: IndexFlatL2,
    faiss.IndexFlatIP: IndexFlatIP,
    faiss.IndexHNSWFlat: IndexHNSWFlat,
    faiss.IndexIVFFlat: IndexIVFFlat,
    faiss.IndexScalarQuantizer: IndexScalarQuantizer,
    faiss.IndexHNSWSQ: IndexHNSWSQ,
    faiss.IndexIVFScalarQuantizer: IndexIVFScalarQuantizer,
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


def held_vectors(index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return ids ``(n,)`` and vectors ``(n, d)`` of an index that is not wrapped, decoded where it has codes.

    Raises:
        UnsupportedError: another index type.
        ArgumentError: the index holds no vectors.
    """
    is_ivf = isinstance(index, faiss.IndexIVF)
    if issubclass(class_for(index), _CODED):
        quantizer = storage.existing_quantizer(index, storage.metric_name(index))
        if is_ivf:
            return faiss_ivf.decoded(index, quantizer)
        vectors = quantizer.decode(storage.stored_codes(index))
    elif is_ivf:
        return faiss_ivf.stored_vectors(index)
    else:
        vectors = storage.flat_vectors(index)
    return np.arange(len(vectors), dtype=np.int64), vectors
