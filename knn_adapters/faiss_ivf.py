"""FAISS' inverted lists: reading them where they lie, and making quantized ones from float ones."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.faiss_storage import set_ranges
from knn_adapters.quantizer import Quantizer
from mp_plugins import UnsupportedError, argument_error

__all__ = ["ListSearch", "check_lists", "decoded", "quantized_lists", "stored_vectors"]

_Floats = npt.NDArray[np.float32]
_Codes = npt.NDArray[np.uint8]
_Ids = npt.NDArray[np.int64]


def check_lists(index: Any) -> None:
    """Refuse lists that cannot be read in place.

    Raises:
        UnsupportedError: lists on disk or in blocks.
        ArgumentError: the index holds no vectors.
    """
    if not index.ntotal:
        raise argument_error("index", "must hold at least one vector", "ntotal=0", "call train() and add() first")
    lists = faiss.downcast_InvertedLists(index.invlists)
    if not isinstance(lists, faiss.ArrayInvertedLists):
        kind = type(lists).__name__
        raise UnsupportedError(f"inverted lists of type {kind} are not yet supported: use ArrayInvertedLists")


def _arrays(index: Any) -> tuple[list[_Codes], list[_Ids]]:
    """Return codes ``(n, code_size)`` and ids of each list, as views of the index's memory."""
    lists, size = index.invlists, index.code_size
    codes: list[_Codes] = []
    ids: list[_Ids] = []
    for number in range(index.nlist):
        count = lists.list_size(number)
        if not count:  # the pointers of an empty list may be null
            codes.append(np.empty((0, size), np.uint8))
            ids.append(np.empty(0, np.int64))
            continue
        codes.append(faiss.rev_swig_ptr(lists.get_codes(number), count * size).reshape(count, size))
        ids.append(faiss.rev_swig_ptr(lists.get_ids(number), count))
    return codes, ids


def _centroids(index: Any) -> _Floats | None:
    """Return what the codes of each list are residuals of, ``(nlist, d)``, or None if they are not residuals."""
    if not index.by_residual:
        return None
    found: _Floats = faiss.downcast_index(index.quantizer).reconstruct_n(0, index.nlist)
    return found


def stored_vectors(index: Any) -> tuple[_Ids, _Floats]:
    """Return ids ``(n,)`` and vectors ``(n, d)`` of an ``IndexIVFFlat``, list by list.

    Raises:
        UnsupportedError: lists that cannot be read in place.
        ArgumentError: the index holds no vectors.
    """
    check_lists(index)
    codes, ids = _arrays(index)
    return np.concatenate(ids), np.concatenate(codes).view(np.float32)


def decoded(index: Any, quantizer: Quantizer) -> tuple[_Ids, _Floats]:
    """Return ids ``(n,)`` and decoded vectors ``(n, d)`` of an SQ index, list by list."""
    codes, ids = _arrays(index)
    vectors = quantizer.decode(np.concatenate(codes))
    centroids = _centroids(index)
    if centroids is not None:
        vectors += np.repeat(centroids, [len(rows) for rows in ids], axis=0)
    return np.concatenate(ids), vectors


def quantized_lists(original: Any, quantizer: Quantizer) -> Any:
    """Return a stock ``IndexIVFScalarQuantizer`` with the lists of an ``IndexIVFFlat``, encoded.

    Its codes are not those of residuals: with a range picked for the vectors nothing is lost by that, and a query needs
    no term of its own for each list.
    """
    kind: Any = faiss.ScalarQuantizer.QT_8bit_uniform if quantizer.is_uniform else faiss.ScalarQuantizer.QT_8bit
    coarse: Any = faiss.clone_index(original.quantizer)
    made: Any = faiss.IndexIVFScalarQuantizer(coarse, original.d, original.nlist, kind, original.metric_type, False)
    set_ranges(made, quantizer)
    for number, (rows, ids) in enumerate(zip(*_arrays(original), strict=True)):
        if len(ids):
            codes = quantizer.encode(rows.view(np.float32))
            made.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    made.ntotal, made.nprobe, made.verbose = original.ntotal, original.nprobe, original.verbose
    made.max_codes = original.max_codes
    # The C++ object owns its coarse quantizer from here on, as that of a file does.
    coarse.this.disown()
    made.own_fields = True
    return made


class ListSearch:
    """What searches an SQ index of inverted lists: FAISS' coarse quantizer picks the lists, our kernels scan them.

    Attributes:
        coarse: the coarse quantizer.
        searcher: of the core, over the index's memory.
        ids: of each list, as views of the index's memory.
    """

    def __init__(self, index: Any, quantizer: Quantizer) -> None:
        codes, self.ids = _arrays(index)
        self.coarse = faiss.downcast_index(index.quantizer)
        self._centroids = _centroids(index)
        self.searcher = _core.IvfSearcher(
            codes, self.ids, self._centroids, quantizer.scale, quantizer.offset, quantizer.core_metric
        )

    @property
    def bytes_beside_codes(self) -> int:
        """Bytes of norms, tables and our copy of the centroids."""
        return self.searcher.nbytes + (self._centroids.nbytes if self._centroids is not None else 0)
