"""The contents of flat indexes and graphs, whose ids are the rows of their codes.

The C++ object is an SQ index at all times. While there are too few vectors to train a quantizer it holds them in 16
bits, for code in C++ that reads or writes it, and :class:`ExactRows` holds them as they came, for our searches; then
its codes become those of the quantizer. It is one object all the time, so that whatever points to it stays right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters import faiss_storage as storage
from knn_adapters.faiss_beside import Beside, Originals, beside_for
from knn_adapters.faiss_contents import CALIBRATION_ROWS, TRAINING_ROWS, Contents, Untrained
from knn_adapters.faiss_exact import ExactRows
from knn_adapters.faiss_rows import Rows
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions

__all__ = ["RowContents"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_BLOCK_ROWS = 65_536  # vectors that are encoded anew at once

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class RowContents(Contents):
    """Contents of a flat index or a graph, whose ids are the rows of its codes.

    Attributes:
        exact: the vectors as they came, while there is no quantizer and none has to be asked for.
        beside: the second level or the vectors, where the last candidates are compared by more than their codes.
        searcher: of the core, or ``exact``; as of :attr:`opened`.
    """

    def __init__(self, metric: str, options: WrapOptions, *, follows_data: bool) -> None:
        super().__init__(metric, options, follows_data=follows_data)
        self.exact: ExactRows | None = None
        self.beside: Beside | None = None
        self.searcher: Any = None
        self._norms = Rows(np.empty(0, np.float32))

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return self.exact is not None or self.quantizer is not None

    def hold_exactly(self, vectors: _Floats) -> None:
        """Begin without a quantizer, with ``vectors`` ``(n, d)``, which the C++ object holds in 16 bits."""
        self.exact, self.quantizer, self.drift, self.beside = ExactRows.of(vectors, self.metric), None, None, None

    def open(self, index: Any) -> None:
        """Set the searcher up; see the base."""
        with self.lock:
            count = index.ntotal
            self._notice(index, count)
            self.searcher = self._searcher_of(index, count)
            self.opened = count

    def calibrate(self, index: Any, vectors: _Floats) -> None:
        """Train on ``vectors``; codes that exist are encoded again."""
        stored = storage.sq_of(index)
        if not storage.is_calibrated_by_us(stored):
            held = self.vectors(index, np.arange(index.ntotal)) if self.quantizer else None
            self.quantizer = storage.existing_quantizer(index, self.metric)
            if held is not None and len(held):
                storage.stored_codes(index)[:] = self.quantizer.encode(held)
            self.changed_codes()
        elif self.quantizer is not None and index.ntotal:
            self._encode_again(index, self.options.train_quantizer(self.metric, vectors))
        else:
            self.quantizer = self.options.train_quantizer(self.metric, vectors)
            storage.set_ranges(index, self.quantizer, any_kind=False)
            self.changed()

    def prepare(self, index: Any, newcomers: _Floats) -> None:
        """Do what has to be done before; see the base."""
        if self.exact is None:
            super().prepare(index, newcomers)
            return
        self._notice(index, index.ntotal)
        if self.exact.count + len(newcomers) >= CALIBRATION_ROWS:
            self.quantize(index, newcomers)

    def quantize(self, index: Any, newcomers: _Floats) -> None:
        """Train a quantizer on what is held exactly and on ``newcomers``, and hold codes from now on."""
        if self.exact is None:
            return
        held = self.exact.vectors(np.arange(self.exact.count))
        sample = np.concatenate([held, newcomers]) if len(held) and len(newcomers) else held if len(held) else newcomers
        self.begin_codes(index, held, sample)

    def begin_codes(self, index: Any, held: _Floats, sample: _Floats) -> None:
        """Train a quantizer on ``sample`` ``(m, d)`` and put ``held`` ``(n, d)`` as codes into the C++ object."""
        quantizer = self.options.train_quantizer(self.metric, sample)
        width = (index.d * quantizer.bits + 7) // 8
        codes = quantizer.encode(held) if len(held) else np.empty((0, width), np.uint8)
        storage.put_codes(index, codes, quantizer)
        self.quantizer, self.exact = quantizer, None
        self.beside = beside_for(quantizer, self.options.rescore)
        if self.beside is not None:
            self.beside.append(held, codes)
        self._watch(sample)
        self.changed_codes()

    def took(self, index: Any, vectors: _Floats, ids: _Ids | None = None) -> None:
        """Note that C++ has added ``vectors``, whose codes become those of our encoder."""
        self.changed()
        if self.exact is not None:
            self.exact.append(vectors)
        elif len(vectors):
            codes, first = self.quantizer.encode(vectors), index.ntotal - len(vectors)
            storage.stored_codes(index)[first:] = codes
            if self.beside is not None:
                self.beside.append(vectors, codes)
            if self.drift is not None:
                self.drift.keep(np.arange(first, index.ntotal), vectors)

    def kept(self, index: Any, rows: _Ids, count: int) -> None:
        """Note that C++ holds what were the ``rows`` of ``count`` alone, in this order."""
        if self.exact is not None:
            self.exact.take(rows)
        if self.beside is not None:
            self.beside.take(rows)
        if self.drift is not None:
            places = np.full(count, -1, np.int64)
            places[rows] = np.arange(len(rows))
            self.drift.move(places)
        self.changed_codes()

    def emptied(self, index: Any) -> None:
        """Note that C++ has removed everything: what comes then may be of another kind, where the range follows."""
        if self.follows_data:
            self.hold_exactly(np.empty((0, index.d), np.float32))
            storage.make_half(index)
        self.changed_codes()

    def changed_codes(self) -> None:
        """Note that codes changed, not only where they lie."""
        self._norms = Rows(np.empty(0, np.float32))
        self.changed()

    def reread(self, index: Any) -> None:
        """Take over what C++ code has changed."""
        if self.exact is None:
            super().reread(index)
            if self.beside is not None:
                self.beside.reread(storage.stored_codes(index))
        self.changed_codes()

    def retrain(self, index: Any, newcomers: _Floats) -> None:
        """Train anew and encode again, which lets vectors lose by rounding a second time."""
        count = index.ntotal
        rows = np.arange(count)
        if count > TRAINING_ROWS:
            rows = np.sort(np.random.default_rng(0).permutation(count)[:TRAINING_ROWS])
            rows = np.union1d(rows, np.array(sorted(self.drift.outside if self.drift else ()), np.int64))
        sample = np.concatenate([self._restored(index, rows), newcomers])
        quantizer = self._trained_anew(sample)
        self._encode_again(index, quantizer)
        self._watch(sample)

    def vectors(self, index: Any, rows: _Ids) -> _Floats:
        """Return what is held of ``rows``, ``(len(rows), d)``: decoded codes, or vectors as they came."""
        if self.exact is not None:
            self._notice(index, index.ntotal)
            return self.exact.vectors(rows)
        if not len(rows):
            return np.empty((0, index.d), np.float32)
        codes = storage.stored_codes(index)
        found: _Floats = self.quantizer.decode(codes[rows]) if self.beside is None else self.beside.vectors(codes, rows)
        return found

    @property
    def knows_rows(self) -> bool:
        """Whether anything is kept by row, so that :meth:`kept` has to be told which rows stay."""
        return self.exact is not None or self.beside is not None or bool(self.drift and self.drift.outside)

    def nbytes_of_codes(self, index: Any) -> int:
        """Return the bytes of codes, norms and second level; of vectors that are held exactly, with their copy."""
        exact = 4 * index.d * index.ntotal if self.exact is not None else 0
        norms = 4 * index.ntotal if self.metric == "l2" and self.exact is None else 0
        second = self.beside.nbytes if self.beside is not None and not self.keeps_vectors else 0
        return int(storage.storage_of(index).code_size * index.ntotal) + norms + second + exact

    @property
    def keeps_vectors(self) -> bool:
        """Whether there are codes, and the vectors beside them."""
        return isinstance(self.beside, Originals)

    def _closed(self) -> dict[str, Any]:
        return {"searcher": None, "_norms": Rows(np.empty(0, np.float32))}

    def _notice(self, index: Any, count: int) -> None:
        """Come to terms with vectors that C++ code added or removed by itself."""
        if self.exact is not None and self.exact.count != count:
            self.hold_exactly(storage.half_vectors(index))
            if count >= CALIBRATION_ROWS:
                self.quantize(index, np.empty((0, index.d), np.float32))
        if self._norms.count > count:
            self._norms = Rows(np.empty(0, np.float32))
            if self.drift is not None:
                self.drift.outside = {}

    def _searcher_of(self, index: Any, count: int) -> Any:
        if self.exact is not None:
            return self.exact
        if self.quantizer is None:
            return Untrained(type(index).__name__)
        if not count:
            return ExactRows(index.d, self.metric)
        quantizer, codes = self.quantizer, storage.stored_codes(index)
        affine, how = (quantizer.scale, quantizer.offset), {"bits": quantizer.bits}
        norms = None
        if self.metric == "l2":
            self._norms.append(_core.squared_norms(codes[self._norms.count :], *affine, quantizer.bits))
            norms = self._norms.array
        if isinstance(index, faiss.IndexHNSW):
            graph = index.hnsw
            ends = (graph.entry_point, graph.max_level)
            searcher: Any = _core.LinkedGraphSearcher(
                codes, norms, *storage.graph_arrays(graph), *ends, *affine, self.metric, **how
            )
        else:
            searcher = _core.FlatSearcher(codes, norms, *affine, self.metric, **how)
        if self.beside is not None:
            self.beside.attach(searcher, codes)
        return searcher

    def _restored(self, index: Any, rows: _Ids) -> _Floats:
        vectors = self.vectors(index, rows)
        return self.drift.restore(rows, vectors) if self.drift is not None else vectors

    def _encode_again(self, index: Any, quantizer: Any) -> None:
        count, codes = index.ntotal, np.empty_like(storage.stored_codes(index))
        beside = beside_for(quantizer, self.options.rescore) if self.beside is not None else None
        for start in range(0, count, _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, count))
            vectors = self._restored(index, rows)
            codes[rows] = quantizer.encode(vectors)
            if beside is not None:
                beside.append(vectors, codes[rows])
        storage.replace_codes(index, codes, quantizer, any_kind=self.follows_data)
        self.quantizer, self.beside = quantizer, beside
        if self.drift is not None:
            self.drift.outside = {}
        self.changed_codes()
