"""The residual level of a wrapped index: what the codes leave over, in 8 bits, read to rescore the last candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core

__all__ = ["SecondLevel"]


@dataclass(frozen=True)
class SecondLevel:
    """Residuals ``(n, d)`` ``uint8`` and, for Euclidean distance, norms ``(n,)`` of what both levels decode to."""

    residuals: npt.NDArray[np.uint8]
    norms: npt.NDArray[np.float32] | None

    @classmethod
    def of(
        cls, quantizer: Any, vectors: npt.NDArray[np.float32], codes: npt.NDArray[np.uint8], searcher: Any
    ) -> SecondLevel | None:
        """Return the level of ``vectors`` and make ``searcher`` read it; None where ``quantizer`` has no such level.

        Args:
            quantizer: trained; its codes of ``vectors`` are ``codes``.
            vectors: ``(n, d)``.
            codes: ``(n, d)``, packed for 4 bits.
            searcher: any of the core's, over ``codes``, not searched yet.
        """
        if not getattr(quantizer, "residual", False):
            return None
        residuals = quantizer.encode_residuals(vectors, codes)
        norms = None
        if quantizer.core_metric == "l2":
            norms = _core.residual_norms(
                residuals, codes, quantizer.scale, quantizer.offset, quantizer.span, quantizer.bits
            )
        searcher.add_residuals(residuals, norms, quantizer.span)
        return cls(residuals, norms)

    @property
    def nbytes(self) -> int:
        """Bytes of residuals and norms."""
        return self.residuals.nbytes + (0 if self.norms is None else self.norms.nbytes)
