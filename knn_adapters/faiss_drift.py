"""Whether a quantizer still fits: vectors that came after its training and that its range cuts off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters.outliers import OutlierRule, too_many

__all__ = ["Drift"]

_Floats = npt.NDArray[np.float32]


class Drift:
    """Keeps the vectors that a quantizer cuts off far more than most of those that it was trained on.

    Which these are says :class:`knn_adapters.outliers.OutlierRule`.

    Args:
        quantizer: trained.
        trained_on: vectors ``(n, d)`` that it was trained on, or a sample of them.
        copies: whether vectors are kept here; else somebody keeps them all.

    Attributes:
        outside: the vectors ``(d,)`` that are kept, by row or id; None in their places without ``copies``.
    """

    def __init__(self, quantizer: Any, trained_on: _Floats, *, copies: bool) -> None:
        self._rule = OutlierRule.trained_on(quantizer, trained_on)
        self._copies = copies
        self.outside: dict[int, _Floats | None] = {}

    def outgrown(self, count: int, newcomers: _Floats) -> bool:
        """Whether the quantizer has to be trained anew if ``newcomers`` ``(m, d)`` come to ``count`` vectors."""
        n_outside = len(self.outside) + int(np.count_nonzero(self._rule.are_outside(newcomers)))
        return too_many(n_outside, count + len(newcomers))

    def keep(self, keys: npt.NDArray[np.int64], vectors: _Floats) -> None:
        """Keep those of ``vectors`` ``(m, d)`` that are outside, under their ``keys`` ``(m,)``."""
        for row in np.flatnonzero(self._rule.are_outside(vectors)).tolist():
            self.outside[int(keys[row])] = vectors[row].copy() if self._copies else None

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
            kept = self.outside.get(key)
            if kept is not None:
                vectors[row] = kept
        return vectors

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors that are kept."""
        return sum(vector.nbytes for vector in self.outside.values() if vector is not None)
