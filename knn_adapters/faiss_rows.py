"""An array that grows at its end, for what is held of each vector beside its code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Rows"]


class Rows:
    """Rows of one shape; :attr:`array` shows them without a copy, and stays as it is when more are added."""

    def __init__(self, first: npt.NDArray[Any]) -> None:
        self._held = first
        self.count = len(first)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The rows, contiguous."""
        return self._held[: self.count]

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add ``rows`` behind the last, in amortised constant time a row."""
        total = self.count + len(rows)
        if total > len(self._held):
            grown = np.empty((max(total, 2 * self.count), *self._held.shape[1:]), self._held.dtype)
            grown[: self.count] = self.array
            self._held = grown
        self._held[self.count : total] = rows
        self.count = total
