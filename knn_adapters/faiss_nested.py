"""Indexes around indexes: ids, transforms and refinement, with searches of ours inside.

FAISS' C++ wrappers would call the C++ search of what they hold. These are FAISS' own objects too, around the C++ object
of an index of ours; their methods go through the Python object inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._unsupported import UnsupportedAttributeError
from knn_adapters._validation import as_queries, check_k
from knn_adapters.evaluation import IndexStats
from knn_adapters.faiss_arguments import as_added, check_output, check_results, delivered
from knn_adapters.faiss_classes import Ours, taken_over
from knn_adapters.faiss_making import as_original, blank
from knn_adapters.faiss_reading import vectors_found
from knn_adapters.faiss_storage import stock_of
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions

__all__ = ["Nested", "inner_property"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


def inner_property(attribute: str, doc: str) -> property:
    """Return a property that shows the Python object ``attribute``, which cannot be exchanged."""

    def fixed(self: Any, _: Any) -> None:
        raise UnsupportedAttributeError(
            f"what a {type(self).__name__} holds cannot be exchanged here: make another around the other index"
        )

    return property(lambda self: getattr(self, attribute), fixed, doc=doc)


class Nested(Ours):
    """An index of FAISS around one of ours, for a subclass of the class that it stands for.

    What follows holds where a wrapper only changes what goes in and what comes out; ``_forth`` changes vectors on their
    way in, ``_back`` on their way out.
    """

    _inner: Any = None

    def __new__(cls, *arguments: Any) -> Any:
        """Return the wrapper, FAISS' own where what it is put around is FAISS' own."""
        shown: Any = cls.__bases__[-1]
        inside = [argument for argument in arguments if isinstance(argument, faiss.Index)]
        if not inside or not isinstance(inside[0], Ours):
            return shown(*map(as_original, arguments))
        return super().__new__(cls)

    @classmethod
    def _made_of(cls, original: Any, options: WrapOptions, *, exact_below: int, copy: bool) -> Any:
        """Return the wrapper around what ``original`` is around, taken over."""
        inner = taken_over(stock_of(original.index), options, exact_below=exact_below)
        return cls._around(original, inner)

    @classmethod
    def _around(cls, model: Any, inner: Any) -> Any:
        """Return the wrapper around ``inner`` with the settings of ``model``."""
        raise NotImplementedError

    def search(
        self: Any,
        x: npt.ArrayLike,
        k: int,
        *,
        params: Any = None,
        D: _Floats | None = None,  # noqa: N803  # FAISS' names
        I: _Ids | None = None,  # noqa: E741, N803
        numeric_type: Any = None,
    ) -> tuple[_Floats, _Ids]:
        """Return distances ``(q, k)`` ``float32`` and ids ``(q, k)`` ``int64``, as the index inside does."""
        how = {} if numeric_type is None else {"numeric_type": numeric_type}
        check_results(D, I, (len(as_queries("x", x, self.d, single=False)), check_k("k", k)))
        distances, ids = self._search(x, k, params, how)
        return delivered(distances, D), delivered(ids, I)

    def assign(self, x: npt.ArrayLike, k: int, labels: _Ids | None = None) -> _Ids:
        """Return the ids ``(q, k)`` that :meth:`search` finds, in ``labels`` if given."""
        return self.search(x, k, I=labels)[1]

    def range_search(self: Any, x: npt.ArrayLike, thresh: float, *, params: Any = None) -> tuple[Any, _Floats, _Ids]:
        """Return ``(lims, distances, ids)`` of what lies within ``thresh``."""
        found: tuple[Any, _Floats, _Ids] = self._inner.range_search(self._forth(x), thresh, params=params)
        return found

    def search_and_reconstruct(
        self: Any,
        x: npt.ArrayLike,
        k: int,
        *,
        params: Any = None,
        D: _Floats | None = None,  # noqa: N803
        I: _Ids | None = None,  # noqa: E741, N803
        R: _Floats | None = None,  # noqa: N803
    ) -> tuple[_Floats, _Ids, _Floats]:
        """Return what :meth:`search` does, and the vectors ``(q, k, d)`` that were found; NaN where too few were."""
        distances, ids = self.search(x, k, params=params, D=D, I=I)
        check_output("R", R, (*ids.shape, self.d), np.float32)
        return distances, ids, delivered(vectors_found(_reconstructed, self, ids), R)

    def train(self: Any, x: npt.ArrayLike, *, numeric_type: Any = None, xq_train: Any = None) -> None:
        """Train the index inside on ``x`` ``(n, d)``."""
        self._inner.train(self._forth(as_added(x, self.d)))
        self.is_trained = self._inner.is_trained

    def add(self: Any, x: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Add vectors ``x`` ``(n, d)``."""
        self._inner.add(self._forth(as_added(x, self.d)))
        self._count_again()

    def add_with_ids(self: Any, x: npt.ArrayLike, ids: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Add vectors ``x`` ``(n, d)`` under ``ids`` ``(n,)``, where the index inside can."""
        self._inner.add_with_ids(self._forth(as_added(x, self.d)), ids)
        self._count_again()

    def remove_ids(self: Any, x: Any) -> int:
        """Remove what ``x``, ids or an ``IDSelector``, names; return how many there were."""
        number: int = self._inner.remove_ids(x)
        self._count_again()
        return number

    def reset(self: Any) -> None:
        """Remove all vectors."""
        self._inner.reset()
        self._count_again()

    def reconstruct(self: Any, key: int, x: _Floats | None = None) -> _Floats:
        """Return the vector ``(d,)`` of id ``key``, in ``x`` if given."""
        check_output("x", x, (self.d,), np.float32)
        return delivered(self._back(self._inner.reconstruct(key)[np.newaxis])[0], x)

    def reconstruct_batch(self: Any, key: npt.ArrayLike, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(n, d)`` of ids ``key`` ``(n,)``, in ``x`` if given."""
        check_output("x", x, (len(np.asarray(key)), self.d), np.float32)
        return delivered(self._back(self._inner.reconstruct_batch(key)), x)

    def reconstruct_n(self: Any, n0: int = 0, ni: int = -1, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(ni, d)`` of ids ``n0`` to ``n0 + ni - 1``, in ``x`` if given; -1: to the last."""
        count = self.ntotal - n0 if ni == -1 else ni
        check_output("x", x, (count, self.d), np.float32)
        return delivered(self._back(self._inner.reconstruct_n(n0, count)), x)

    def merge_from(self: Any, otherIndex: Any, add_id: int = 0) -> None:  # noqa: N803  # FAISS' name
        """Move the vectors of ``otherIndex``, of the same kind, here.

        Raises:
            TypeError: another kind of index.
            RuntimeError: an index inside that does not fit.
        """
        self._inner.merge_from(self._inside(otherIndex), add_id)
        self._count_again()
        otherIndex.ntotal = 0

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return blank, (type(self),), self.__getstate__()

    def __repr__(self: Any) -> str:
        return f"<knn_adapters.faiss.{type(self).__name__} ntotal={self.ntotal} of {self._inner!r}>"

    def _inside(self: Any, other: Any) -> Any:
        """Return what ``other``, which must be of this kind, is around."""
        shown: Any = type(self).__bases__[-1]
        if not isinstance(other, shown):
            raise TypeError(f"`otherIndex` must be a faiss.{shown.__name__}, got {type(other).__name__}")
        return other._inner if isinstance(other, Nested) else stock_of(other.index)

    def _search(self: Any, x: Any, k: int, params: Any, how: dict[str, Any]) -> tuple[_Floats, _Ids]:
        found: tuple[_Floats, _Ids] = self._inner.search(self._forth(x), k, params=params, **how)
        return found

    def _forth(self, x: Any) -> Any:
        return x

    def _back(self, vectors: _Floats) -> _Floats:
        return vectors

    def _count_again(self: Any) -> None:
        self.ntotal = self._inner.ntotal

    def _prepare(self: Any, vectors: _Floats) -> None:
        self._inner._prepare(self._forth(vectors))

    def _took(self: Any, vectors: _Floats) -> None:
        self._inner._took(self._forth(vectors))

    def _kept(self: Any, rows: _Ids | None, count: int) -> None:
        self._inner._kept(rows, count)

    def _stats(self: Any) -> IndexStats:
        figures: IndexStats = self._inner._stats()
        return figures

    def _vectors(self: Any) -> tuple[_Ids, _Floats]:
        ids, vectors = self._inner._vectors()
        return ids, self._back(vectors)


def _reconstructed(index: Any, ids: _Ids) -> _Floats:
    found: _Floats = index.reconstruct_batch(ids)
    return found
