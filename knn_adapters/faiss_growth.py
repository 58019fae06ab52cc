"""How a FAISS index of ours grows and changes: C++ does it, then codes, ranges and searcher are brought in step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import faiss_ivf
from knn_adapters._validation import runtime_error
from knn_adapters.faiss_arguments import as_added, as_ids
from knn_adapters.faiss_contents import Contents
from knn_adapters.faiss_list_contents import ListContents
from knn_adapters.faiss_row_contents import RowContents
from knn_adapters.faiss_selection import selected
from knn_adapters.faiss_storage import stock_of
from knn_adapters.faiss_threads import library_threads
from knn_adapters.libraries import original

__all__ = ["Growing"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Growing:
    """Methods of FAISS that change what an index holds; each is exclusive, as it is in FAISS."""

    _contents: Contents

    def train(self: Any, x: npt.ArrayLike, *, numeric_type: Any = None, xq_train: Any = None) -> None:
        """Train on ``x`` ``(n, d)``: centroids of inverted lists, and the range of the codes.

        A flat index and a graph over float vectors learn nothing, as in FAISS. Vectors that are there already stay:
        they are encoded again.

        Raises:
            ArgumentError: a wrong shape or dimension, NaN or infinity.
            RuntimeError: fewer vectors than lists.
        """
        vectors, contents = as_added(x, self.d), self._contents
        if isinstance(contents, RowContents) and contents.follows_data:
            return
        if not len(vectors):
            raise runtime_error("Error: 'n > 0' failed", "x", "must hold vectors", "none", "pass a sample of the data")
        with contents.lock:
            with library_threads(self):
                stock_of(self).train_c(len(vectors), faiss.swig_ptr(vectors))
            contents.calibrate(self, vectors)

    def add(self: Any, x: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Add vectors ``x`` ``(n, d)`` under the ids that follow.

        Args:
            x: the vectors.
            numeric_type: any of FAISS': ``x`` may have any dtype.

        Raises:
            ArgumentError: a wrong shape or dimension, NaN or infinity.
            RuntimeError: the index is not trained.
        """
        vectors = as_added(x, self.d)
        with self._contents.lock:
            self._prepare(vectors)
            with library_threads(self):
                if isinstance(self._contents, ListContents):
                    self._contents.add(self, vectors, None)
                else:
                    stock_of(self).add_c(len(vectors), faiss.swig_ptr(vectors))
            self._contents.took(self, vectors, None)

    def add_with_ids(self: Any, x: npt.ArrayLike, ids: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Add vectors ``x`` ``(n, d)`` under ``ids`` ``(n,)``, to inverted lists.

        Raises:
            ArgumentError: wrong shapes, or numbers that are not finite.
            RuntimeError: the index is not trained, or has no ids of its own: use ``IndexIDMap``.
        """
        vectors, contents = as_added(x, self.d), self._contents
        numbers = as_ids(ids, len(vectors))
        with contents.lock:
            if isinstance(contents, ListContents):
                self._prepare(vectors)
                with library_threads(self):
                    contents.add(self, vectors, numbers)
                contents.took(self, vectors, numbers)
            else:  # FAISS refuses
                stock_of(self).add_with_ids_c(len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(numbers))

    def update_vectors(self: Any, keys: _Ids, x: _Floats) -> None:
        """Give ``keys`` ``(n,)`` other vectors ``x`` ``(n, d)``; inverted lists with a direct map can.

        Raises:
            ArgumentError: wrong shapes, or numbers that are not finite.
            RuntimeError: no direct map.
        """
        vectors, contents = as_added(x, self.d), self._contents
        numbers = as_ids(keys, len(vectors))
        with contents.lock:
            self._prepare(vectors)
            stock_of(self).update_vectors(numbers, vectors)
            if isinstance(contents, ListContents):
                contents.encode_updated(self, numbers, vectors)
            if contents.drift is not None:
                contents.drift.drop(numbers.tolist())
                contents.drift.keep(numbers, vectors)
            contents.changed()

    def remove_ids(self: Any, x: Any) -> int:
        """Remove the vectors that ``x``, ids or an ``IDSelector``, names; later ones of a flat index move up.

        Returns:
            Number of vectors removed.

        Raises:
            ArgumentError: neither ids nor a selector.
            RuntimeError: a graph, from which FAISS removes nothing.
        """
        contents = self._contents
        selected(x, np.empty(0, np.int64))  # refuses what is neither
        with contents.lock:
            count, rows = self.ntotal, None
            if isinstance(contents, RowContents) and contents.knows_rows:
                rows = np.flatnonzero(~selected(x, np.arange(count)))
            number: int = stock_of(self).remove_ids(x)
            if isinstance(contents, ListContents):
                outside = np.array(sorted(contents.drift.outside if contents.drift else ()), np.int64)
                contents.removed(outside[selected(x, outside)])
            else:
                self._kept(rows, count)
        return number

    def reset(self: Any) -> None:
        """Remove all vectors; what was trained stays."""
        with self._contents.lock:
            stock_of(self).reset()
            self._contents.emptied(self)

    def permute_entries(self: Any, perm: npt.ArrayLike) -> None:
        """Bring the vectors into the order ``perm`` ``(n,)``: number ``perm[i]`` becomes number i."""
        contents, order = self._contents, np.ascontiguousarray(perm, np.int64)
        if not np.array_equal(np.sort(order, axis=None), np.arange(self.ntotal)):
            raise runtime_error(
                "Error: 'perm' failed", "perm", f"must hold each of 0..{self.ntotal - 1} once", "others",
                "pass a permutation",
            )  # fmt: skip
        with contents.lock:
            stock_of(self).permute_entries(order)
            self._kept(order, self.ntotal)

    def merge_from(self: Any, otherIndex: Any, add_id: int = 0) -> None:  # noqa: N803  # FAISS' name
        """Move the vectors of ``otherIndex`` here, from where they are gone then.

        Vectors whose codes are of another range, or which are not encoded, are encoded for this index.

        Args:
            otherIndex: of the same kind, dimension and metric; ours or FAISS' own.
            add_id: added to the ids that come; inverted lists only.

        Raises:
            RuntimeError: an index that does not fit.
        """
        self._check_compatible(otherIndex)
        if isinstance(self._contents, ListContents):
            self._merge_lists(otherIndex, add_id)
        elif isinstance(self, faiss.IndexHNSW) or add_id:
            stock_of(self).merge_from(stock_of(otherIndex), add_id)  # FAISS refuses
        else:
            self.add(_rows_of(otherIndex))
            otherIndex.reset()

    def _check_compatible(self: Any, other: Any) -> None:
        if not isinstance(other, faiss.Index):
            raise TypeError(f"`otherIndex` must be a faiss.Index, got {type(other).__name__}")
        kinds = (faiss.IndexIVF, faiss.IndexHNSW, faiss.IndexFlatCodes)
        mine, its = (
            (index.d, index.metric_type, *(isinstance(index, kind) for kind in kinds), getattr(index, "nlist", 0))
            for index in (self, other)
        )
        if mine != its or other is self:
            raise runtime_error(
                "Error: 'check_compatible_for_merge' failed", "otherIndex",
                f"must be another index like {self!r}", repr(other), "merge indexes of one kind, dimension and metric",
            )  # fmt: skip

    def _merge_lists(self: Any, other: Any, add_id: int) -> None:
        contents = self._contents
        with contents.lock:
            everything = list(_lists_of(other))
            self._prepare(np.concatenate([rows for _, rows, _ in everything] or [np.empty((0, self.d), np.float32)]))
            means = faiss_ivf.centroids(self)
            for number, rows, ids in everything:
                moved = ids + add_id
                codes = contents.quantizer.encode(rows if means is None else rows - means[number])
                self.invlists.add_entries(number, len(ids), faiss.swig_ptr(moved), faiss.swig_ptr(codes))
                if contents.drift is not None:
                    contents.drift.keep(moved, rows)
            stock_of(self).ntotal += sum(len(ids) for _, _, ids in everything)
            contents.changed()
        other.reset()

    def _prepare(self: Any, vectors: _Floats) -> None:
        """Make ready for ``vectors`` ``(n, d)``, which C++ is about to add."""
        self._contents.prepare(self, vectors)

    def _took(self: Any, vectors: _Floats) -> None:
        """Note that C++ has added ``vectors``."""
        if isinstance(self._contents, ListContents):
            self._contents.encode_added(self, vectors)
        self._contents.took(self, vectors, None)

    def _kept(self: Any, rows: _Ids | None, count: int) -> None:
        """Note that C++ has kept the ``rows`` of ``count`` alone; None if nobody needs to know which."""
        contents = self._contents
        if isinstance(contents, ListContents):
            contents.removed(None)
        elif rows is None:
            contents.changed_codes()
        else:
            contents.kept(self, rows, count)


def _rows_of(index: Any) -> _Floats:
    """Return the vectors ``(n, d)`` of a flat index, ours or FAISS' own, SQ or float."""
    vectors: _Floats = index.reconstruct_n(0, index.ntotal) if index.ntotal else np.empty((0, index.d), np.float32)
    return vectors


def _lists_of(index: Any) -> list[tuple[int, _Floats, _Ids]]:
    """Return number, vectors and ids of each list that is not empty, ours or FAISS' own, SQ or float."""
    found, stock = [], stock_of(index)
    means, is_float = faiss_ivf.centroids(stock), isinstance(stock, faiss.IndexIVFFlat)
    for number, (codes, ids) in enumerate(faiss_ivf.list_arrays(stock)):
        if len(ids):
            decoded = codes.view(np.float32).copy() if is_float else stock.sq.decode(np.ascontiguousarray(codes))
            found.append((number, decoded if means is None else decoded + means[number], ids.copy()))
    return found
