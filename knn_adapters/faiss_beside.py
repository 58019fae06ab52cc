"""What a FAISS index of ours keeps of each row beside its code: 8 bits of what it leaves over, or the vector itself.

C++ code may add and remove rows by itself; :meth:`Beside.fit` comes to terms with that. Then a row that nobody told us
of is what its code stands for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.faiss_rows import Rows

__all__ = ["Beside", "Originals", "Residuals", "beside_for"]

_BLOCK_ROWS = 65_536  # vectors that are encoded or decoded at once
_NO_RESIDUAL = 128  # the byte nearest to a residual of 0

_Codes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Beside(ABC):
    """Rows in the order of the codes.

    Args:
        quantizer: of the codes.
    """

    _rows: Rows

    def __init__(self, quantizer: Any) -> None:
        self.quantizer = quantizer

    @abstractmethod
    def append(self, vectors: _Floats, codes: _Codes) -> None:
        """Note ``vectors`` ``(m, d)`` and their ``codes``, which come behind the last."""

    def take(self, rows: _Ids) -> None:
        """Keep ``rows`` alone, in their order."""
        self._rows = Rows(self._rows.array[rows])

    def fit(self, codes: _Codes) -> None:
        """Become as long as ``codes``, those of all rows."""
        if self._rows.count > len(codes):  # removed in C++: which ones is not known
            self._rows = Rows(self._rows.array[:0].copy())
        for start in range(self._rows.count, len(codes), _BLOCK_ROWS):
            self._append_unknown(codes[start : start + _BLOCK_ROWS])

    @abstractmethod
    def reread(self, codes: _Codes) -> None:
        """Take over what C++ code has done to ``codes``, those of all rows."""

    @abstractmethod
    def vectors(self, codes: _Codes, rows: _Ids) -> _Floats:
        """Return what is known of ``rows``, ``(len(rows), d)``; ``codes`` are those of all."""

    @abstractmethod
    def attach(self, searcher: Any, codes: _Codes) -> None:
        """Make ``searcher``, of the core and over ``codes``, rescore by this."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all rows."""

    @abstractmethod
    def _append_unknown(self, codes: _Codes) -> None: ...


class Residuals(Beside):
    """The second level, ``(n, d)`` bytes, and its norms for Euclidean distance."""

    def __init__(self, quantizer: Any) -> None:
        super().__init__(quantizer)
        self._rows = Rows(np.empty((0, quantizer.dim), np.uint8))
        self._norms = Rows(np.empty(0, np.float32))

    def append(self, vectors: _Floats, codes: _Codes) -> None:
        """Note ``vectors``; see the base."""
        if len(vectors):
            self._rows.append(self.quantizer.encode_residuals(vectors, codes))

    def take(self, rows: _Ids) -> None:
        """Keep ``rows`` alone; see the base."""
        super().take(rows)
        self._norms = Rows(np.empty(0, np.float32))

    def reread(self, codes: _Codes) -> None:
        """Take over what C++ code has done; see the base."""
        self._norms = Rows(np.empty(0, np.float32))

    def vectors(self, codes: _Codes, rows: _Ids) -> _Floats:
        """Return what both levels of ``rows`` stand for."""
        self.fit(codes)
        found: _Floats = self.quantizer.decode(codes[rows], self._rows.array[rows])
        return found

    def attach(self, searcher: Any, codes: _Codes) -> None:
        """Make ``searcher`` read both levels; see the base."""
        self.fit(codes)
        norms, quantizer = None, self.quantizer
        if quantizer.core_metric == "l2":
            if self._norms.count > len(codes):
                self._norms = Rows(np.empty(0, np.float32))
            known = self._norms.count
            self._norms.append(
                _core.residual_norms(
                    self._rows.array[known:], codes[known:], quantizer.scale, quantizer.offset, quantizer.span,
                    quantizer.bits,
                )
            )  # fmt: skip
            norms = self._norms.array
        searcher.add_residuals(self._rows.array, norms, quantizer.span)

    @property
    def nbytes(self) -> int:
        """Bytes of residuals and norms."""
        norms = 4 * self._rows.count if self.quantizer.core_metric == "l2" else 0
        return self._rows.array.nbytes + norms

    def _append_unknown(self, codes: _Codes) -> None:
        self._rows.append(np.full((len(codes), self.quantizer.dim), _NO_RESIDUAL, np.uint8))


class Originals(Beside):
    """The vectors as they came, ``(n, d)``."""

    def __init__(self, quantizer: Any) -> None:
        super().__init__(quantizer)
        self._rows = Rows(np.empty((0, quantizer.dim), np.float32))

    def append(self, vectors: _Floats, codes: _Codes) -> None:
        """Note ``vectors``; see the base."""
        self._rows.append(vectors)

    def reread(self, codes: _Codes) -> None:
        """Let rows whose codes C++ code has changed or moved be what these stand for."""
        self.fit(codes)
        held = self._rows.array
        for start in range(0, len(codes), _BLOCK_ROWS):
            part = slice(start, min(start + _BLOCK_ROWS, len(codes)))
            changed = start + np.flatnonzero((self.quantizer.encode(held[part]) != codes[part]).any(axis=1))
            if len(changed):
                held[changed] = self.quantizer.decode(codes[changed])

    def vectors(self, codes: _Codes, rows: _Ids) -> _Floats:
        """Return ``rows``, copied."""
        self.fit(codes)
        found: _Floats = self._rows.array[rows]
        return found

    def attach(self, searcher: Any, codes: _Codes) -> None:
        """Make ``searcher`` read the vectors; see the base."""
        self.fit(codes)
        searcher.add_originals(self._rows.array)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors."""
        return self._rows.array.nbytes

    def _append_unknown(self, codes: _Codes) -> None:
        self._rows.append(self.quantizer.decode(np.ascontiguousarray(codes)))


def beside_for(quantizer: Any, rescore: str) -> Beside | None:
    """Return an empty one for the mode of rescoring, None for ``"none"``."""
    if rescore == "original":
        return Originals(quantizer)
    return Residuals(quantizer) if rescore == "residual" else None
