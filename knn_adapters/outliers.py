"""Which vectors a quantizer cuts off too much of, and when they are too many for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OutlierRule", "too_many"]

_BLOCK_ROWS = 4096  # vectors whose errors are computed at once
_MOST_OUTSIDE = 8  # a quantizer is trained anew when one vector in so many is outside of its range

_Floats = npt.NDArray[np.float32]


class OutlierRule:
    """Tells vectors that are outside of the range of a trained ``quantizer``.

    Attributes:
        limit: squared length of what the range cuts off, above which a vector is outside.
    """

    def __init__(self, quantizer: Any, limit: float) -> None:
        self.limit = limit
        self._low = quantizer.offset
        self._high = quantizer.offset + quantizer.scale * np.float32(2**quantizer.bits - 1)

    @classmethod
    def trained_on(cls, quantizer: Any, vectors: _Floats) -> OutlierRule:
        """Return the rule for ``quantizer``, which was trained on ``vectors`` ``(n, d)`` or on more of their kind.

        A vector is outside if it loses more than twice of what seven in eight of these do and fifty times of what
        rounding loses on average, added together: seven times the noise that all distances have.
        """
        rule = cls(quantizer, 0.0)
        usual = float(np.quantile(rule._errors(vectors), 1.0 - 1.0 / _MOST_OUTSIDE)) if len(vectors) else 0.0
        rule.limit = 2.0 * usual + 4.0 * float(np.square(quantizer.scale, dtype=np.float64).sum())
        return rule

    def are_outside(self, vectors: _Floats) -> npt.NDArray[np.bool_]:
        """Return for each of ``vectors`` ``(n, d)`` whether the quantizer cuts off too much of it, ``(n,)``."""
        outside: npt.NDArray[np.bool_] = self._errors(vectors) > self.limit
        return outside

    def _errors(self, vectors: _Floats) -> _Floats:
        """Return the squared length of what the range cuts off, ``(n,)``."""
        errors = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            block = vectors[start : start + _BLOCK_ROWS]
            beyond = block - np.clip(block, self._low, self._high)
            np.einsum("ij,ij->i", beyond, beyond, out=errors[start : start + _BLOCK_ROWS])
        return errors


def too_many(n_outside: int, count: int) -> bool:
    """Whether ``n_outside`` vectors of ``count`` are so many that the quantizer has to be trained anew."""
    return n_outside * _MOST_OUTSIDE > count
