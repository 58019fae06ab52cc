"""``IndexIDMap`` and ``IndexIDMap2`` around indexes of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import runtime_error
from knn_adapters.evaluation import IndexStats
from knn_adapters.faiss_arguments import as_added, as_ids
from knn_adapters.faiss_making import blank
from knn_adapters.faiss_nested import Nested, inner_property
from knn_adapters.faiss_selection import selected
from knn_adapters.faiss_storage import stock_of, view
from knn_adapters.faiss_threads import library_threads
from knn_adapters.libraries import original

__all__ = ["IndexIDMap", "IndexIDMap2"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class _Mapping(Nested):
    """Ids of the caller's in place of row numbers."""

    index = inner_property("_inner", "The index inside.")

    def __init__(self: Any, index: Any) -> None:
        shown: Any = type(self).__bases__[-1]
        shown.__init__(self, index)
        self._inner = index

    @classmethod
    def _around(cls, model: Any, inner: Any) -> Any:
        return cls._holding(inner, faiss.vector_to_array(model.id_map), model.verbose)

    @classmethod
    def _holding(cls, inner: Any, ids: _Ids, verbose: bool) -> Any:
        """Return the wrapper around ``inner``, whose vectors have the ``ids`` ``(n,)``."""
        made, shown = blank(cls), cls.__bases__[-1]
        shown.__init__(made, faiss.IndexFlat(inner.d, inner.metric_type))  # type: ignore[misc]  # it has to be empty
        vars(faiss.IndexIDMap)["index"].fset(made, inner)
        made.referenced_objects, made._inner = [inner], inner
        faiss.copy_array_to_vector(ids, made.id_map)
        made.is_trained, made.verbose = inner.is_trained, verbose
        made._count_again()
        made._map_back()
        return made

    def __getstate__(self: Any) -> dict[str, Any]:
        return {"inner": self._inner, "ids": self._ids().copy(), "verbose": self.verbose}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        vars(self).update(vars(type(self)._holding(**state)))

    def add_with_ids(self: Any, x: npt.ArrayLike, ids: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Add vectors ``x`` ``(n, d)`` under ``ids`` ``(n,)``.

        Raises:
            ArgumentError: wrong shapes, or numbers that are not finite.
            RuntimeError: the index inside is not trained.
        """
        vectors = as_added(x, self.d)
        numbers = as_ids(ids, len(vectors))
        self._inner._prepare(vectors)
        with library_threads(self):
            self._in_c().add_with_ids_c(len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(numbers))
        self._inner._took(vectors)

    def add(self: Any, x: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Raise a ``RuntimeError``, as FAISS does: ids are needed."""
        vectors = as_added(x, self.d)
        self._in_c().add_c(len(vectors), faiss.swig_ptr(vectors))

    def sa_code_size(self: Any) -> int:
        """Return the bytes of a stand-alone code of the index inside."""
        size: int = self._inner.sa_code_size()
        return size

    def sa_encode(self: Any, x: npt.ArrayLike, codes: Any = None) -> Any:
        """Return vectors ``(n, d)`` as stand-alone codes of the index inside."""
        return self._inner.sa_encode(as_added(x, self.d), codes)

    def sa_decode(self: Any, codes: Any, x: _Floats | None = None) -> Any:
        """Return the vectors ``(n, d)`` of stand-alone codes of the index inside."""
        return self._inner.sa_decode(codes, x)

    def add_sa_codes(self: Any, codes: npt.NDArray[np.uint8], ids: npt.ArrayLike) -> None:
        """Add what stand-alone codes ``(n, sa_code_size())`` of the index inside stand for, under ``ids`` ``(n,)``."""
        self.add_with_ids(self._inner.sa_decode(codes), ids)

    def remove_ids(self: Any, x: Any) -> int:
        """Remove what ``x``, ids or an ``IDSelector``, names; return how many there were."""
        count = self.ntotal
        rows = np.flatnonzero(~selected(x, self._ids()))
        number: int = self._in_c().remove_ids(x)
        self._inner._kept(rows, count)
        return number

    def reset(self: Any) -> None:
        """Remove all vectors and ids."""
        self._inner.reset()
        self._in_c().reset()
        self._map_back()

    def range_search(self: Any, x: npt.ArrayLike, thresh: float, *, params: Any = None) -> tuple[Any, _Floats, _Ids]:
        """Return ``(lims, distances, ids)`` of what lies within ``thresh``."""
        with self._translated(params):
            lims, distances, rows = self._inner.range_search(x, thresh, params=params)
        return lims, distances, self._ids()[rows]

    def merge_from(self: Any, otherIndex: Any, add_id: int = 0) -> None:  # noqa: N803  # FAISS' name
        """Move the vectors of ``otherIndex`` here, under their ids and ``add_id`` added to each."""
        inside = self._inside(otherIndex)
        ids = np.concatenate([self._ids(), view(otherIndex.id_map) + add_id if otherIndex.ntotal else []])
        self._inner.merge_from(inside)
        faiss.copy_array_to_vector(ids.astype(np.int64), self.id_map)
        self._count_again()
        self._map_back()
        otherIndex.reset()

    def _search(self: Any, x: Any, k: int, params: Any, how: dict[str, Any]) -> tuple[_Floats, _Ids]:
        with self._translated(params):
            distances, rows = self._inner.search(x, k, params=params, **how)
        ids, there = self._ids(), rows >= 0
        return distances, np.where(there, ids[np.where(there, rows, 0)], -1) if len(ids) else rows

    @contextmanager
    def _translated(self: Any, params: Any) -> Iterator[None]:
        """Make the selector of ``params`` one of rows for as long as the index inside searches, as FAISS does."""
        selector = getattr(params, "sel", None)
        if selector is None:
            yield
            return
        params.sel = faiss.IDSelectorTranslated(self.id_map, selector)
        try:
            yield
        finally:
            params.sel = selector

    def _ids(self: Any) -> _Ids:
        return view(self.id_map) if self.id_map.size() else np.empty(0, np.int64)

    def _in_c(self: Any) -> Any:
        return stock_of(self)

    def _map_back(self: Any) -> None:
        if isinstance(self, faiss.IndexIDMap2):
            self.construct_rev_map()

    def _shell(self: Any) -> Any:
        shell: Any = type(self).__bases__[-1](faiss.IndexFlat(self.d, self.metric_type))
        shell.id_map = self.id_map
        shell.verbose = self.verbose
        return shell

    def _stock(self: Any) -> Any:
        shell, inner = self._shell(), self._inner._stock()
        shell.index, shell.ntotal, shell.is_trained = inner, self.ntotal, self.is_trained
        shell.referenced_objects = [inner]
        return shell

    def _stats(self: Any) -> IndexStats:
        figures: IndexStats = self._inner._stats()
        added = 8.0 if self.ntotal else 0.0
        return replace(figures, other_bytes=figures.other_bytes + added, original_bytes=figures.original_bytes + added)

    def _vectors(self: Any) -> tuple[_Ids, _Floats]:
        rows, vectors = self._inner._vectors()
        return self._ids()[rows], vectors


class _OneWay(_Mapping):
    """Knows no row of an id, as in FAISS."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise runtime_error(
            "Error: reconstruct not implemented for this type of index", "index", "must be an IndexIDMap2",
            "an IndexIDMap", "use IndexIDMap2, which finds vectors by their ids",
        )  # fmt: skip

    reconstruct = reconstruct_batch = reconstruct_n = search_and_reconstruct = _refuse


class _BothWays(_Mapping):
    """Finds the row of an id too."""

    def reconstruct(self: Any, key: int, x: _Floats | None = None) -> _Floats:
        """Return the vector ``(d,)`` of id ``key``, in ``x`` if given; the last of those that have it."""
        rows = np.flatnonzero(self._ids() == key)
        if not len(rows):
            raise runtime_error(f"Error: key {key} not found", "key", "must be an id", key, "pass one of `id_map`")
        found: _Floats = self._inner.reconstruct(int(rows[-1]), x)
        return found

    def reconstruct_batch(self: Any, key: npt.ArrayLike, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(n, d)`` of ids ``key`` ``(n,)``, in ``x`` if given."""
        wanted, ids = np.asarray(key), self._ids()
        order = np.argsort(ids, kind="stable")
        places = np.searchsorted(ids[order], wanted, side="right") - 1
        rows = order[places] if len(ids) else np.full(len(wanted), -1)
        wrong = (places < 0) | (ids[rows] != wanted) if len(ids) else np.ones(len(wanted), np.bool_)
        if wrong.any():
            self.reconstruct(int(wanted[np.argmax(wrong)]))
        found: _Floats = self._inner.reconstruct_batch(rows, x)
        return found

    def reconstruct_n(self: Any, n0: int = 0, ni: int = -1, x: _Floats | None = None) -> _Floats:
        """Return the vectors of ids ``n0`` to ``n0 + ni - 1``, in ``x`` if given; -1: as many as there are."""
        found: _Floats = self.reconstruct_batch(np.arange(n0, self.ntotal if ni == -1 else n0 + ni), x)
        return found


class IndexIDMap(_OneWay, faiss.IndexIDMap):  # type: ignore[misc]
    """Stands for ``faiss.IndexIDMap`` around an index of ours."""


class IndexIDMap2(_BothWays, faiss.IndexIDMap2):  # type: ignore[misc]
    """Stands for ``faiss.IndexIDMap2`` around an index of ours."""
