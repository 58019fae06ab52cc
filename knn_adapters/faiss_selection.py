"""Which ids an ``IDSelector``, or an array of ids, names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters.libraries import original
from mp_plugins import argument_error

__all__ = ["selected"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")


def selected(selector: Any, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return for each of ``ids`` ``(n,)`` whether ``selector`` names it.

    Raises:
        ArgumentError: neither a selector nor integers ``(m,)``.
    """
    if isinstance(selector, faiss.IDSelector):
        named_by: Any = selector
        return np.fromiter((named_by.is_member(number) for number in ids.tolist()), np.bool_, len(ids))
    named = np.asarray(selector)
    if named.ndim != 1 or (named.size and named.dtype.kind not in "iu"):
        raise argument_error(
            "x",
            "must be an IDSelector or integers (m,)",
            f"{named.dtype} of shape {named.shape}",
            "pass an int64 array",
        )
    return np.isin(ids, named)
