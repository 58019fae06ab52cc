"""Whether a quantizer still fits: vectors that came after its training and that its range cuts off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Drift"]

_BLOCK_ROWS = 4096  # vectors whose errors are computed at once
_MOST_OUTSIDE = 8  # a quantizer is trained anew when one vector in so many is outside of its range

_Floats = npt.NDArray[np.float32]


class Drift:
    """Keeps the vectors that a quantizer cuts off far more than most of those that it was trained on.

    A vector is outside if it loses more than twice of what seven in eight of these do and fifty times of what rounding
    loses on average, added together: seven times the noise that all distances have.

    Args:
        quantizer: trained.
        trained_on: vectors ``(n, d)`` that it was trained on, or a sample of them.

    Attributes:
        outside: the vectors ``(d,)`` that are kept, by row or id.
    """

    def __init__(self, quantizer: Any, trained_on: _Floats) -> None:
        self._low = quantizer.offset
        self._high = self._low + quantizer.scale * np.float32(2**quantizer.bits - 1)
        usual = float(np.quantile(self._errors(trained_on), 1.0 - 1.0 / _MOST_OUTSIDE)) if len(trained_on) else 0.0
        self._limit = 2.0 * usual + 4.0 * float(np.square(quantizer.scale, dtype=np.float64).sum())
        self.outside: dict[int, _Floats] = {}

    def outgrown(self, count: int, newcomers: _Floats) -> bool:
        """Whether the quantizer has to be trained anew if ``newcomers`` ``(m, d)`` come to ``count`` vectors."""
        n_outside = len(self.outside) + int((self._errors(newcomers) > self._limit).sum())
        return n_outside * _MOST_OUTSIDE > count + len(newcomers)

    def keep(self, keys: npt.NDArray[np.int64], vectors: _Floats) -> None:
        """Keep those of ``vectors`` ``(m, d)`` that are outside, under their ``keys`` ``(m,)``."""
        for row in np.flatnonzero(self._errors(vectors) > self._limit).tolist():
            self.outside[int(keys[row])] = vectors[row].copy()

    def drop(self, keys: Iterable[int]) -> None:
        """Forget what was kept under ``keys``."""
        for key in keys if self.outside else ():
            self.outside.pop(key, None)

    def move(self, new_keys: npt.NDArray[np.int64]) -> None:
        """Give what is kept under ``key`` the key ``new_keys[key]``; forget it where that is negative."""
        moved = {int(new_keys[key]): vector for key, vector in self.outside.items()}
        self.outside = {key: vector for key, vector in moved.items() if key >= 0}

    def restore(self, keys: npt.NDArray[np.int64], vectors: _Floats) -> _Floats:
        """Put what was kept under ``keys`` ``(m,)`` in the places of ``vectors`` ``(m, d)``; return these."""
        for row, key in enumerate(keys.tolist() if self.outside else ()):
            if key in self.outside:
                vectors[row] = self.outside[key]
        return vectors

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors that are kept."""
        return sum(vector.nbytes for vector in self.outside.values())

    def _errors(self, vectors: _Floats) -> _Floats:
        """Return the squared length of what the range cuts off, ``(n,)``."""
        errors = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            block = vectors[start : start + _BLOCK_ROWS]
            beyond = block - np.clip(block, self._low, self._high)
            np.einsum("ij,ij->i", beyond, beyond, out=errors[start : start + _BLOCK_ROWS])
        return errors
