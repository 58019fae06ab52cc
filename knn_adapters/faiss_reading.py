"""What a FAISS index of ours tells of the vectors that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import faiss_ivf
from knn_adapters._validation import check_k
from knn_adapters.faiss_arguments import (
    as_added,
    as_codes,
    as_ids,
    as_row,
    as_rows,
    check_output,
    check_span,
    delivered,
)
from knn_adapters.faiss_row_contents import RowContents
from knn_adapters.faiss_storage import stock_of
from knn_adapters.libraries import original

__all__ = ["Reading"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Codes = npt.NDArray[np.uint8]


class Reading:
    """Methods of FAISS that return vectors or codes: what the codes stand for, or vectors as they came."""

    _contents: Any

    def reconstruct(self: Any, key: int, x: _Floats | None = None) -> _Floats:
        """Return the vector ``(d,)`` of id ``key``; of inverted lists after ``make_direct_map()``.

        Args:
            key: the id.
            x: array ``(d,)`` to write to.

        Raises:
            RuntimeError: an id that is not there, or no direct map.
        """
        check_output("x", x, (self.d,), np.float32)
        if not isinstance(self._contents, RowContents):
            found: _Floats = stock_of(self).reconstruct(int(key), x)
            return found
        return delivered(self._contents.vectors(self, as_row("key", key, self.ntotal))[0], x)

    def reconstruct_batch(self: Any, key: npt.ArrayLike, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(n, d)`` of ids ``key`` ``(n,)``, see :meth:`reconstruct`."""
        check_output("x", x, (len(np.asarray(key)), self.d), np.float32)
        if not isinstance(self._contents, RowContents):
            found: _Floats = stock_of(self).reconstruct_batch(key, x)
            return found
        return delivered(self._contents.vectors(self, as_rows("key", key, self.ntotal)), x)

    def reconstruct_n(self: Any, n0: int = 0, ni: int = -1, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(ni, d)`` of ids ``n0`` to ``n0 + ni - 1``; to the last if ``ni`` is -1.

        Raises:
            RuntimeError: ids that are not there.
        """
        count = self.ntotal - n0 if ni == -1 else ni
        check_output("x", x, (count, self.d), np.float32)
        if not isinstance(self._contents, RowContents):
            found: _Floats = stock_of(self).reconstruct_n(n0, count, x)
            return found
        check_span(n0, count, self.ntotal)
        return delivered(self._contents.vectors(self, np.arange(n0, n0 + count)), x)

    def search_and_reconstruct(
        self: Any,
        x: npt.ArrayLike,
        k: int,
        *,
        params: Any = None,
        D: _Floats | None = None,  # noqa: N803  # FAISS' names
        I: npt.NDArray[np.int64] | None = None,  # noqa: E741, N803
        R: _Floats | None = None,  # noqa: N803
    ) -> tuple[_Floats, npt.NDArray[np.int64], _Floats]:
        """Return what ``search`` does, and the vectors ``(q, k, d)`` that were found; NaN where too few were.

        Inverted lists are searched by FAISS itself here, which alone knows where in the lists it found something.
        """
        if not isinstance(self._contents, RowContents):
            arrays = {
                name: array for name, array in (("params", params), ("D", D), ("I", I), ("R", R)) if array is not None
            }
            queries = as_added(x, self.d)
            found: tuple[Any, Any, Any] = stock_of(self).search_and_reconstruct(queries, check_k("k", k), **arrays)
            return found
        distances, ids = self.search(x, k, params=params, D=D, I=I)
        check_output("R", R, (*ids.shape, self.d), np.float32)
        return distances, ids, delivered(vectors_found(self._contents.vectors, self, ids), R)

    def sa_code_size(self: Any) -> int:
        """Return the bytes of what :meth:`sa_encode` makes of a vector: of a flat index its floats, as in FAISS."""
        size: int = 4 * self.d if self._codes_are_floats() else stock_of(self).sa_code_size()
        return size

    def sa_encode(self: Any, x: npt.ArrayLike, codes: _Codes | None = None) -> _Codes:
        """Return vectors ``(n, d)`` as stand-alone codes ``(n, sa_code_size())``."""
        vectors = as_added(x, self.d)
        check_output("codes", codes, (len(vectors), self.sa_code_size()), np.uint8)
        if self._codes_are_floats():
            return delivered(vectors.view(np.uint8).copy(), codes)
        found: _Codes = stock_of(self).sa_encode(vectors, codes)
        return found

    def sa_decode(self: Any, codes: _Codes, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(n, d)`` of stand-alone codes ``(n, sa_code_size())``."""
        received = as_codes(codes, self.sa_code_size())
        check_output("x", x, (len(received), self.d), np.float32)
        if self._codes_are_floats():
            return delivered(received.view(np.float32).copy(), x)
        found: _Floats = stock_of(self).sa_decode(received, x)
        return found

    def add_sa_codes(self: Any, codes: _Codes, ids: npt.NDArray[np.int64] | None = None) -> None:
        """Add what stand-alone codes ``(n, sa_code_size())`` stand for; in inverted lists under ``ids``."""
        if isinstance(self._contents, RowContents):
            self.add(self.sa_decode(codes))  # what a code decodes to is encoded to it
            return
        received = as_codes(codes, self.sa_code_size())
        numbers = None if ids is None else as_ids(ids, len(received))
        with self._contents.lock:
            faiss_ivf.add_codes(self, received, numbers)
            self._contents.changed()

    def _codes_are_floats(self) -> bool:
        return isinstance(self, faiss.IndexFlat)


def vectors_found(vectors_of: Any, index: Any, ids: npt.NDArray[np.int64]) -> _Floats:
    """Return the vectors ``(q, k, d)`` of results ``ids`` ``(q, k)``, NaN where these are -1."""
    found = np.full((*ids.shape, index.d), np.nan, np.float32)
    there = ids >= 0
    found[there] = vectors_of(index, ids[there])
    return found
