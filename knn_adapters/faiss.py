"""Stands in for the module ``faiss``: its flat, HNSW and inverted-list indexes over 8-bit or 4-bit codes.

``from knn_adapters import faiss`` in place of ``import faiss`` is all that a program has to change: every public
name of FAISS is here, FAISS' own where we have nothing to put in its place. An index of ours is a stock FAISS SQ index
underneath (so that every function in C++ takes it) whose ranges we calibrated, or, where it has codes already, with
FAISS' own ranges; ``search`` runs our kernels over FAISS' own memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from knn_adapters import _core, faiss_ivf
from knn_adapters import faiss_storage as storage
from knn_adapters._unsupported import protect_properties
from knn_adapters._validation import as_queries, check_k
from knn_adapters.evaluation import IndexStats
from knn_adapters.faiss_arguments import check_output, check_results, delivered
from knn_adapters.faiss_classes import STAND_INS, class_for
from knn_adapters.faiss_growth import Growing
from knn_adapters.faiss_id_map import IndexIDMap, IndexIDMap2
from knn_adapters.faiss_making import Making
from knn_adapters.faiss_module import (
    clone_index,
    deserialize_index,
    downcast_index,
    extract_index_ivf,
    index_factory,
    read_index,
    serialize_index,
    try_extract_index_ivf,
    write_index,
)
from knn_adapters.faiss_passing import WRITABLE, pass_methods
from knn_adapters.faiss_queries import as_numeric, as_radius
from knn_adapters.faiss_reading import Reading
from knn_adapters.faiss_refine import IndexRefine, IndexRefineFlat
from knn_adapters.faiss_row_contents import RowContents
from knn_adapters.faiss_searching import ListMethods, filled, nearest, within
from knn_adapters.faiss_transform import IndexPreTransform
from knn_adapters.libraries import original, passed_on

__all__ = [
    "IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexHNSWFlat", "IndexHNSWSQ", "IndexIDMap", "IndexIDMap2",
    "IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexPreTransform", "IndexRefine", "IndexRefineFlat",
    "IndexScalarQuantizer", "clone_index", "deserialize_index", "downcast_index", "extract_index_ivf", "index_factory",
    "read_index", "serialize_index", "try_extract_index_ivf", "write_index",
]  # fmt: skip

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

C = TypeVar("C", bound=type)

_count_of: Any = vars(faiss.Index)["ntotal"].fget


class _QuantizedIndex(Growing, Reading, Making):
    """Search over codes, for a subclass of an SQ class and of the class that it stands for."""

    @property
    def _searcher(self) -> Any:
        """What searches the rows of a flat index or a graph, over the memory of this moment."""
        contents: Any = self._contents
        if contents.opened != _count_of(self):
            contents.open(self)
        return contents.searcher

    @property
    def _lists(self) -> Any:
        """What searches inverted lists, over the memory of this moment; None if there are none, or untrained ones."""
        contents: Any = self._contents
        if isinstance(contents, RowContents):
            return None
        if contents.opened != _count_of(self):
            contents.open(self)
        return contents.lists

    @property
    def _keeps_vectors(self) -> bool:
        """Whether there are vectors beside the codes."""
        return isinstance(self._contents, RowContents) and self._contents.keeps_vectors

    @property
    def _quantizer(self) -> Any:
        """The quantizer; None before it is trained."""
        return self._contents.quantizer

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
        a search is ``hnsw.efSearch`` or ``nprobe`` as it is at this moment; threads are as many as
        :func:`knn_adapters.configure` said when the index was made, else those of ``faiss.omp_set_num_threads`` at this
        moment. Searches leave the counters ``faiss.cvar.hnsw_stats`` and ``indexIVF_stats`` as
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
        check_results(D, I, (len(queries), count))
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
        bits = f" bits={self._quantizer.bits}" if self._quantizer else ""
        return f"<knn_adapters.faiss.{type(self).__name__} d={self.d} ntotal={self.ntotal}{bits}>"

    def _structure_bytes(self: Any) -> float:
        """Return the bytes a vector of the graph, or of ids and centroids of inverted lists."""
        count = max(self.ntotal, 1)
        if not isinstance(self._contents, RowContents):
            return float(8 + 4 * self.d * self.nlist / count)
        if self._hnsw is None:
            return 0.0
        arrays: Any = (*storage.graph_arrays(self._hnsw), storage.view(self._hnsw.levels))
        return float(sum(array.nbytes for array in arrays) / count)

    def _stats(self: Any) -> IndexStats:
        contents, quantizer, count = self._contents, self._quantizer, max(self.ntotal, 1)
        structure, codes_bytes, other = (
            self._structure_bytes(),
            contents.nbytes_of_codes(self) / count,
            contents.nbytes_beside,
        )
        return IndexStats(
            kind=f"faiss.{type(self).__name__}",
            metric=contents.metric,
            n_vectors=self.ntotal,
            dim=self.d,
            bits=quantizer.bits if quantizer else 32,
            clip=quantizer.clip if quantizer else "none yet",
            simd_level=_core.simd_level(),
            codes_bytes=codes_bytes,
            graph_bytes=structure,
            other_bytes=other / count,
            original_bytes=(4.0 * self.d if contents.follows_data else codes_bytes) + structure,
            rescore=contents.options.rescore,
            kept_bytes=4.0 * self.d if self._keeps_vectors else 0.0,
        )

    def _vectors(self: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        contents = self._contents
        if not isinstance(contents, RowContents):
            return faiss_ivf.decoded(self, contents.quantizer)
        rows = np.arange(self.ntotal)
        return rows, contents.vectors(self, rows)


class _QuantizedLists(ListMethods, _QuantizedIndex):
    """The same for indexes of inverted lists."""


def _standing_in(cls: C) -> C:
    """Enter ``cls`` as what stands for the last of its bases, and pass on or close what it does not answer itself."""
    _, held, shown = (*cls.__bases__, cls.__bases__[-1])[:3]
    STAND_INS[shown] = cls
    pass_methods(cls, held, shown)
    return protect_properties(cls, held, shown, writable=WRITABLE)


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
    """Stands for ``faiss.IndexScalarQuantizer`` whose codes it holds."""


@_standing_in
class IndexHNSWSQ(_QuantizedIndex, faiss.IndexHNSWSQ):  # type: ignore[misc]
    """Stands for ``faiss.IndexHNSWSQ`` whose codes and graph it holds."""


@_standing_in
class IndexIVFScalarQuantizer(_QuantizedLists, faiss.IndexIVFScalarQuantizer):  # type: ignore[misc]
    """Stands for ``faiss.IndexIVFScalarQuantizer`` whose codes it holds."""


STAND_INS |= {
    faiss.IndexIDMap: IndexIDMap,
    faiss.IndexIDMap2: IndexIDMap2,
    faiss.IndexPreTransform: IndexPreTransform,
    faiss.IndexRefine: IndexRefine,
    faiss.IndexRefineFlat: IndexRefineFlat,
}


def held_vectors(index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return ids ``(n,)`` and vectors ``(n, d)`` of an index that is not wrapped, decoded where it has codes.

    Raises:
        UnsupportedError: another index type.
    """
    class_for(index)
    if hasattr(index, "id_map"):
        rows, vectors = held_vectors(faiss.downcast_index(index.index))
        return faiss.vector_to_array(index.id_map)[rows], vectors
    if isinstance(index, (faiss.IndexPreTransform, faiss.IndexRefine)):
        return np.arange(index.ntotal), index.reconstruct_n(0, index.ntotal)
    if not isinstance(index, faiss.IndexIVF):
        return np.arange(index.ntotal), index.reconstruct_n(0, index.ntotal)
    if isinstance(index, faiss.IndexIVFFlat):
        return faiss_ivf.stored_vectors(index)
    return faiss_ivf.decoded(index, storage.existing_quantizer(index, storage.metric_name(index)))


def __getattr__(name: str) -> Any:
    """Return FAISS' own ``name``, for every name that is not ours."""
    return passed_on("faiss", name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(faiss)})


__all__ += [name for name in dir(faiss) if not name.startswith("_") and name not in __all__]
