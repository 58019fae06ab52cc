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
    but where codes are rounded with feedback ours encodes: at once in :meth:`add`, afterwards what C++ code has added
    or changed for a method of ours. What C++ code adds without telling us, an ``IndexIDMap`` of FAISS'
    own around this index for one, is rounded value by value, to codes of the same range.

    Attributes:
        searcher: raises, while the index is not trained; else None.
        lists: what searches, once the index is trained; as of :attr:`opened`.
        has_seen_centroids_only: whether the quantizer is to be trained anew for the first vectors that come.
    """

    searcher: Any = None
    lists: faiss_ivf.ListSearch | None = None
    has_seen_centroids_only = False
    _count_if_only_added_to = -1  # number of vectors, if nothing was done but to add since the lists were opened

    def open(self, index: Any) -> None:
        """Set the searcher up; see the base."""
        with self.lock:
            count = index.ntotal
            if self.quantizer is None:
                self.searcher = Untrained(type(index).__name__)
            else:
                before = self.lists if self._count_if_only_added_to == count else None
                self.lists = faiss_ivf.ListSearch(index, self.quantizer, before)
            self.opened = self._count_if_only_added_to = count

    def changed(self) -> None:
        """Note that something moved; see the base."""
        super().changed()
        self._count_if_only_added_to = -1

    def grew(self, count: int) -> None:
        """Note that ``count`` vectors were added to their lists, behind those that were there."""
        self.opened = -1
        if self._count_if_only_added_to >= 0:
            self._count_if_only_added_to += count

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
        self.grew(len(vectors))

    def encode_added(self, index: Any, vectors: _Floats) -> None:
        """Give ``vectors`` ``(m, d)``, which C++ code has just added under ids that follow, codes of our encoder."""
        if not len(vectors) or getattr(self.quantizer, "feedback", None) is None:
            return
        first, known = index.ntotal - len(vectors), self.lists if self._count_if_only_added_to >= 0 else None
        found = []
        for number in range(index.nlist):
            held, ids = faiss_ivf.list_views(index, number, index.invlists.list_size(number))
            start = 0 if known is None else len(known.ids[number])
            places = start + np.flatnonzero((ids[start:] >= first) & (ids[start:] < index.ntotal))
            if len(places):
                found.append((held, places, ids[places] - first))
        if sum(len(places) for _, places, _ in found) == len(vectors):  # else ids of the caller's are among them
            codes = self.quantizer.encode(vectors)
            for held, places, rows in found:
                held[places] = codes[rows]

    def encode_updated(self, index: Any, keys: _Ids, vectors: _Floats) -> None:
        """Give ``vectors`` ``(m, d)``, which C++ code has put in the places of ``keys``, codes of our encoder."""
        if not len(vectors) or getattr(self.quantizer, "feedback", None) is None:
            return
        places = storage.stock_of(index).direct_map
        for key, code in zip(keys.tolist(), self.quantizer.encode(vectors), strict=True):
            number, row = divmod(places.get(key), 1 << 32)  # as FAISS packs them
            faiss_ivf.list_views(index, number, index.invlists.list_size(number))[0][row] = code

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
        quantizer = self._trained_anew(sample)
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
        return {"searcher": None, "lists": None, "_count_if_only_added_to": -1}
