"""FAISS' inverted lists: reading them where they lie, and making quantized ones from float ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.faiss_storage import set_ranges, stock_of
from knn_adapters.libraries import original
from knn_adapters.quantizer import Quantizer
from mp_plugins import UnsupportedError

__all__ = [
    "ListSearch", "add_codes", "centroids", "check_lists", "decoded", "decoded_lists", "list_arrays", "list_views",
    "nearest_lists", "quantized_lists", "stand_alone_codes", "stored_vectors",
]  # fmt: skip

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Codes = npt.NDArray[np.uint8]
_Ids = npt.NDArray[np.int64]


def check_lists(index: Any) -> None:
    """Refuse lists that cannot be read in place.

    Raises:
        UnsupportedError: lists on disk or in blocks.
    """
    lists = faiss.downcast_InvertedLists(index.invlists)
    if not isinstance(lists, faiss.ArrayInvertedLists):
        kind = type(lists).__name__
        raise UnsupportedError(f"inverted lists of type {kind} are not yet supported: use ArrayInvertedLists")


def list_arrays(index: Any, known: Sequence[tuple[_Codes, _Ids]] = ()) -> Iterator[tuple[_Codes, _Ids]]:
    """Yield codes ``(n, code_size)`` and ids of each list, as views of the index's memory.

    ``known`` are those of all lists at a time after which nothing was done but to add vectors.
    """
    lists = index.invlists
    for number in range(index.nlist):
        count = lists.list_size(number)
        if known and len(known[number][1]) == count:
            yield known[number]
            continue
        yield list_views(index, number, count)


def list_views(index: Any, number: int, count: int) -> tuple[_Codes, _Ids]:
    """Return codes ``(count, code_size)`` and ids of list ``number``, as views of the index's memory."""
    lists, size = index.invlists, index.code_size
    if not count:  # the pointers of an empty list may be null
        return np.empty((0, size), np.uint8), np.empty(0, np.int64)
    codes: _Codes = faiss.rev_swig_ptr(lists.get_codes(number), count * size)
    return codes.reshape(count, size), faiss.rev_swig_ptr(lists.get_ids(number), count)


def centroids(index: Any) -> _Floats | None:
    """Return what the codes of each list are residuals of, ``(nlist, d)``, or None if they are not residuals."""
    if not index.by_residual:
        return None
    found: _Floats = stock_of(index.quantizer).reconstruct_n(0, index.nlist)
    return found


def add_codes(index: Any, codes: _Codes, ids: _Ids | None) -> None:
    """Add stand-alone codes ``(n, sa_code_size())``, whose lists they name, under ``ids`` or those that follow."""
    stock = stock_of(index)
    # The C++ method: what releases up to 1.10 have in Python loses the ids, or is missing.
    add = getattr(stock, "add_sa_codes_c", stock.add_sa_codes)
    add(len(codes), faiss.swig_ptr(codes), None if ids is None else faiss.swig_ptr(ids))


def nearest_lists(index: Any, vectors: _Floats) -> _Ids:
    """Return the list that each of ``vectors`` ``(n, d)`` belongs to, ``(n,)``; -1 where FAISS finds none."""
    numbers: _Ids = stock_of(index.quantizer).assign(vectors, 1)[:, 0]
    return numbers


def stand_alone_codes(index: Any, numbers: _Ids, codes: _Codes) -> _Codes:
    """Return ``codes`` ``(n, code_size)`` behind the ``numbers`` ``(n,)`` of their lists, as FAISS writes these."""
    width = stock_of(index).coarse_code_size()
    prefixes = numbers.astype("<u8").view(np.uint8).reshape(len(numbers), 8)[:, :width]
    return np.concatenate([prefixes, codes], axis=1)


def stored_vectors(index: Any) -> tuple[_Ids, _Floats]:
    """Return ids ``(n,)`` and vectors ``(n, d)`` of an ``IndexIVFFlat``, list by list.

    Raises:
        UnsupportedError: lists that cannot be read in place.
    """
    check_lists(index)
    codes, ids = zip(*list_arrays(index), strict=True)
    return np.concatenate(ids), np.concatenate(codes).view(np.float32)


def decoded_lists(index: Any, quantizer: Any) -> Iterator[tuple[_Floats, _Codes, _Ids]]:
    """Yield decoded vectors ``(n, d)``, codes and ids of each list of an SQ index that holds any."""
    means = centroids(index)
    for number, (codes, ids) in enumerate(list_arrays(index)):
        if len(ids):
            vectors = quantizer.decode(codes)
            if means is not None:
                vectors += means[number]
            yield vectors, codes, ids


def decoded(index: Any, quantizer: Any) -> tuple[_Ids, _Floats]:
    """Return ids ``(n,)`` and decoded vectors ``(n, d)`` of an SQ index, list by list."""
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, index.d), np.float32)]
    for rows, _, numbers in decoded_lists(index, quantizer):
        vectors.append(rows)
        ids.append(numbers)
    return np.concatenate(ids), np.concatenate(vectors)


def quantized_lists(original: Any, quantizer: Any, bits: int, coarse: Any) -> Any:
    """Return a stock ``IndexIVFScalarQuantizer`` with the lists of an ``IndexIVFFlat``, encoded.

    Its codes are not those of residuals: with a range picked for the vectors nothing is lost by that, and a query needs
    no term of its own for each list.

    Args:
        original: trained or not, of any number of vectors.
        quantizer: of its vectors; None if there are none yet.
        bits: of the codes.
        coarse: coarse quantizer to share with the caller; a copy of the original's, owned, if None.
    """
    kind: Any = faiss.ScalarQuantizer.QT_8bit if bits == 8 else faiss.ScalarQuantizer.QT_4bit
    shared: Any = coarse if coarse is not None else faiss.clone_index(original.quantizer)
    made: Any = faiss.IndexIVFScalarQuantizer(shared, original.d, original.nlist, kind, original.metric_type, False)
    if quantizer is not None:
        set_ranges(made, quantizer, any_kind=True)
        for number, (rows, ids) in enumerate(list_arrays(original)):
            if len(ids):
                codes = quantizer.encode(rows.view(np.float32))
                made.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    made.ntotal, made.nprobe, made.verbose = original.ntotal, original.nprobe, original.verbose
    made.quantizer_trains_alone, made.parallel_mode = original.quantizer_trains_alone, original.parallel_mode
    made.cp, made.max_codes = original.cp, original.max_codes
    if coarse is None:
        # The C++ object owns its coarse quantizer from here on, as that of a file does.
        shared.this.disown()
        made.own_fields = True
    return made


class ListSearch:
    """What searches an SQ index of inverted lists: FAISS' coarse quantizer picks the lists, our kernels scan them.

    Args:
        index: the index.
        quantizer: of its codes.
        before: what searched it before vectors were added behind those that were there, and nothing else was done; only
            lists that grew are looked at anew then.

    Attributes:
        coarse: the coarse quantizer.
        searcher: of the core, over the index's memory.
        ids: of each list, as views of the index's memory.
    """

    def __init__(self, index: Any, quantizer: Quantizer, before: ListSearch | None = None) -> None:
        self._known: tuple[tuple[_Codes, _Ids], ...] = tuple(
            list_arrays(index, () if before is None else before._known)
        )
        self.ids = tuple(ids for _, ids in self._known)
        self.coarse = stock_of(index.quantizer)
        self._centroids = centroids(index)
        searched = None if before is None else before.searcher
        self.searcher: _core.IvfSearcher = _core.IvfSearcher(
            [codes for codes, _ in self._known], self.ids, self._centroids, quantizer.scale, quantizer.offset,
            quantizer.core_metric, bits=quantizer.bits, before=searched,
        )  # fmt: skip

    @property
    def bytes_beside_codes(self) -> int:
        """Bytes of norms, tables and our copy of the centroids."""
        return self.searcher.nbytes + (self._centroids.nbytes if self._centroids is not None else 0)
