"""The contents of indexes of inverted lists, which FAISS fills and empties; they are trained before anything comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import faiss_ivf
from knn_adapters import faiss_storage as storage
from knn_adapters.faiss_contents import TRAINING_ROWS, Contents, Untrained
from knn_adapters.libraries import original

__all__ = ["ListContents"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class ListContents(Contents):
    """Contents of an index of inverted lists.

    FAISS encodes what is added, and our encoder differs from its only in values that lie half-way between two codes;
    but where codes are rounded with feedback :meth:`add` encodes. What C++ code adds, that of an index around this one
    too, or changes by ``update_vectors()``, is rounded value by value, to codes of the same range.

    Attributes:
        searcher: raises, while the index is not trained; else None.
        lists: what searches, once the index is trained; as of :attr:`opened`.
        has_seen_centroids_only: whether the quantizer is to be trained anew for the first vectors that come.
    """

    searcher: Any = None
    lists: faiss_ivf.ListSearch | None = None
    has_seen_centroids_only = False

    def open(self, index: Any) -> None:
        """Set the searcher up; see the base."""
        with self.lock:
            count = index.ntotal
            if self.quantizer is None:
                self.searcher = Untrained(type(index).__name__)
            else:
                self.lists = faiss_ivf.ListSearch(index, self.quantizer)
            self.opened = count

    def begin(self, quantizer: Any, sample: _Floats) -> None:
        """Begin with ``quantizer``, which was trained on ``sample`` ``(m, d)`` and whose codes the lists hold."""
        self.quantizer = quantizer
        self._watch(sample)

    def prepare(self, index: Any, newcomers: _Floats) -> None:
        """Do what has to be done before; see the base."""
        if self.has_seen_centroids_only and self.follows_data and len(newcomers) and not index.ntotal:
            self.has_seen_centroids_only = False
            self.retrain(index, newcomers)
        super().prepare(index, newcomers)

    def calibrate(self, index: Any, vectors: _Floats) -> None:
        """Train on ``vectors``, unless codes are those of residuals, whose range FAISS has found."""
        before, stored = self.quantizer, storage.sq_of(index)
        quantizer = storage.existing_quantizer(index, self.metric)
        if self.follows_data or (storage.is_calibrated_by_us(stored) and not index.by_residual):
            quantizer = self.options.train_quantizer(self.metric, vectors)
            storage.set_ranges(index, quantizer, any_kind=self.follows_data)
        if before is not None:
            self._encode_again(index, before, quantizer)
        self.quantizer = quantizer
        self._watch(vectors)
        self.changed()

    def add(self, index: Any, vectors: _Floats, ids: _Ids | None) -> None:
        """Add ``vectors`` ``(m, d)`` to the C++ object under ``ids`` ``(m,)``, or under those that follow."""
        stock, count = storage.stock_of(index), len(vectors)
        numbers = None
        if count and getattr(self.quantizer, "feedback", None) is not None:
            numbers = faiss_ivf.nearest_lists(index, vectors)
        if numbers is not None and numbers.min() >= 0:
            codes = self.quantizer.encode(vectors)
            faiss_ivf.add_codes(index, faiss_ivf.stand_alone_codes(index, numbers, codes), ids)
        elif ids is None:
            stock.add_c(count, faiss.swig_ptr(vectors))
        else:
            stock.add_with_ids_c(count, faiss.swig_ptr(vectors), faiss.swig_ptr(ids))

    def took(self, index: Any, vectors: _Floats, ids: _Ids | None) -> None:
        """Note that C++ has added ``vectors``."""
        if self.drift is not None:
            first = index.ntotal - len(vectors)
            self.drift.keep(np.arange(first, index.ntotal) if ids is None else ids, vectors)
        self.changed()

    def removed(self, ids: _Ids | None) -> None:
        """Note that C++ has removed ``ids``, or some that are not known."""
        if self.drift is not None:
            self.drift.drop(list(self.drift.outside) if ids is None else ids.tolist())
        self.changed()

    def emptied(self, index: Any) -> None:
        """Note that C++ has removed everything."""
        self.removed(None)

    def retrain(self, index: Any, newcomers: _Floats) -> None:
        """Train anew and encode again, which lets vectors lose by rounding a second time."""
        ids, vectors = faiss_ivf.decoded(index, self.quantizer)
        if len(ids) > TRAINING_ROWS:
            kept = np.isin(ids, np.array(sorted(self.drift.outside if self.drift else ()), np.int64))
            kept[np.random.default_rng(0).permutation(len(ids))[:TRAINING_ROWS]] = True
            ids, vectors = ids[kept], vectors[kept]
        if self.drift is not None:
            vectors = self.drift.restore(ids, vectors)
        sample = np.concatenate([vectors, newcomers])
        quantizer = self.options.train_quantizer(self.metric, sample)
        storage.set_ranges(index, quantizer, any_kind=True)
        self._encode_again(index, self.quantizer, quantizer)
        self.quantizer = quantizer
        self._watch(sample)
        self.changed()

    def _encode_again(self, index: Any, before: Any, after: Any) -> None:
        """Write the codes of ``after`` in the places of those of ``before``; the lists stay as they are."""
        for codes, ids in faiss_ivf.list_arrays(index):
            if len(ids):
                vectors = before.decode(codes)  # or residuals of centroids, which stay where they are
                codes[:] = after.encode(self.drift.restore(ids, vectors) if self.drift is not None else vectors)

    def nbytes_of_codes(self, index: Any) -> int:
        """Return the bytes of codes."""
        return int(index.code_size * index.ntotal)

    @property
    def nbytes_beside(self) -> int:
        """Bytes of ranges, of vectors outside of them, and of what the search has made for itself."""
        return super().nbytes_beside + (self.lists.bytes_beside_codes if self.lists else 0)

    def _closed(self) -> dict[str, Any]:
        return {"searcher": None, "lists": None}
