"""``IndexRefine`` and ``IndexRefineFlat`` around indexes of ours: candidates from codes, order from exact vectors."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import as_queries, check_finite, runtime_error
from knn_adapters.evaluation import IndexStats
from knn_adapters.faiss_arguments import as_added, as_codes, as_row, as_rows, check_span
from knn_adapters.faiss_classes import Ours, taken_over
from knn_adapters.faiss_making import as_original
from knn_adapters.faiss_nested import Nested, inner_property
from knn_adapters.faiss_storage import stock_of
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions

__all__ = ["IndexRefine", "IndexRefineFlat"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_FLOAT_MAX = float(np.finfo(np.float32).max)  # what FAISS fills missing results with

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class _Refining(Nested):
    """Searches the index inside for more than is asked for, and keeps those that the refinement index finds nearest."""

    _refine: Any = None
    base_index = inner_property("_inner", "The index inside, which finds candidates.")
    refine_index = inner_property("_refine", "The index that orders candidates.")

    @classmethod
    def _made_of(cls, original: Any, options: WrapOptions, *, exact_below: int, copy: bool) -> Any:
        """Return the wrapper around what ``original`` is around, taken over; refinement stays FAISS' own."""
        inner = taken_over(stock_of(original.base_index), options, exact_below=exact_below)
        made = cls._joined(inner, stock_of(original.refine_index))
        return made._set_like(original)

    def _search(self: Any, x: Any, k: int, params: Any, how: dict[str, Any]) -> tuple[_Floats, _Ids]:
        factor, inside = self.k_factor, None
        if params is not None:
            if not isinstance(params, faiss.IndexRefineSearchParameters):
                raise runtime_error(
                    "Error: 'params' failed: IndexRefine params have incorrect type", "params",
                    "must be IndexRefineSearchParameters", type(params).__name__, "put them into base_index_params",
                )  # fmt: skip
            factor, inside = params.k_factor, params.base_index_params
        if factor < 1:
            raise runtime_error(
                "Error: 'k_base >= k' failed", "k_factor", "must be at least 1", factor, "set k_factor of the index"
            )
        _, candidates = self._inner.search(x, int(k * factor), params=inside, **how)
        queries = as_queries("x", x, self.d, single=False)
        distances = self._distances(queries, candidates)
        is_l2 = self.metric_type == faiss.METRIC_L2
        worst = _FLOAT_MAX if is_l2 else -_FLOAT_MAX
        distances[candidates < 0] = worst
        order = np.argsort(distances if is_l2 else -distances, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(candidates, order, axis=1)

    def range_search(self: Any, x: npt.ArrayLike, thresh: float, *, params: Any = None) -> tuple[Any, _Floats, _Ids]:
        """Return ``(lims, distances, ids)`` of what the index inside finds within ``thresh``, with exact distances."""
        inside = getattr(params, "base_index_params", None)
        lims, distances, ids = self._inner.range_search(x, thresh, params=inside)
        queries = as_queries("x", x, self.d, single=False)
        for row, query in enumerate(queries):
            part = slice(int(lims[row]), int(lims[row + 1]))
            distances[part] = self._distances(query[np.newaxis], ids[part][np.newaxis])[0]
        return lims, distances, ids

    def train(self: Any, x: npt.ArrayLike, *, numeric_type: Any = None, xq_train: Any = None) -> None:
        """Train both indexes on ``x`` ``(n, d)``."""
        vectors = as_added(x, self.d)
        self._inner.train(vectors)
        self._refine.train(vectors)
        self.is_trained = True

    def add(self: Any, x: npt.ArrayLike, numeric_type: Any = None) -> None:
        """Add vectors ``x`` ``(n, d)`` to both indexes."""
        vectors = as_added(x, self.d)
        self._inner.add(vectors)
        self._refine.add(vectors)
        self._count_again()

    def reset(self: Any) -> None:
        """Remove all vectors from both indexes."""
        self._inner.reset()
        self._refine.reset()
        self._count_again()

    def reconstruct(self: Any, key: int, x: _Floats | None = None) -> _Floats:
        """Return the vector ``(d,)`` of id ``key`` that the refinement index holds, in ``x`` if given."""
        (row,) = as_row("key", key, self.ntotal).tolist()  # FAISS up to 1.9 reads whatever lies there
        found: _Floats = self._refine.reconstruct(row, x)
        return found

    def reconstruct_batch(self: Any, key: npt.ArrayLike, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(n, d)`` of ids ``key`` ``(n,)``, in ``x`` if given."""
        found: _Floats = self._refine.reconstruct_batch(as_rows("key", key, self.ntotal), x)
        return found

    def reconstruct_n(self: Any, n0: int = 0, ni: int = -1, x: _Floats | None = None) -> _Floats:
        """Return the vectors ``(ni, d)`` of ids ``n0`` to ``n0 + ni - 1``, in ``x`` if given; -1: to the last."""
        count = self.ntotal - n0 if ni == -1 else ni
        check_span(n0, count, self.ntotal)
        found: _Floats = self._refine.reconstruct_n(n0, count, x)
        return found

    def sa_encode(self: Any, x: npt.ArrayLike, codes: Any = None) -> Any:
        """Return the codes of both indexes for vectors ``(n, d)``, side by side."""
        return stock_of(self).sa_encode(as_added(x, self.d), codes)

    def sa_decode(self: Any, codes: Any, x: _Floats | None = None) -> Any:
        """Return the vectors ``(n, d)`` that the refinement index makes of codes of both."""
        stock = stock_of(self)
        return stock.sa_decode(as_codes(codes, stock.sa_code_size()), x)

    def _not_in_faiss(self: Any, *_: Any, **__: Any) -> Any:
        raise runtime_error(
            "Error: not implemented for this type of index", "index", "must not be an IndexRefine", repr(self),
            "make a new index of the vectors",
        )  # fmt: skip

    add_with_ids = remove_ids = merge_from = _not_in_faiss

    def _distances(self: Any, queries: _Floats, ids: _Ids) -> _Floats:
        """Return the exact distances ``(q, k)`` to ``ids`` ``(q, k)``; of -1, anything."""
        distances = np.empty(ids.shape, np.float32)
        if not ids.size:
            return distances
        if type(self._refine) in (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP):
            check_finite("x", queries)
            queries, ids = np.ascontiguousarray(queries), np.ascontiguousarray(ids)
            self._refine.compute_distance_subset(
                len(queries), faiss.swig_ptr(queries), ids.shape[1], faiss.swig_ptr(distances), faiss.swig_ptr(ids)
            )
            return distances
        for row, (query, numbers) in enumerate(zip(queries, ids, strict=True)):
            there = numbers >= 0
            vectors = self._refine.reconstruct_batch(numbers[there])
            if self.metric_type == faiss.METRIC_L2:
                vectors = vectors - query
                distances[row, there] = np.einsum("ij,ij->i", vectors, vectors)
            else:
                distances[row, there] = vectors @ query
        return distances

    @classmethod
    def _joined(cls, inner: Any, refine: Any) -> Any:
        """Return the wrapper around ``inner``, with a copy of ``refine``."""
        raise NotImplementedError

    def _set_like(self: Any, model: Any) -> Any:
        self.k_factor, self.verbose = model.k_factor, model.verbose
        self.is_trained, self.ntotal = model.is_trained, self._inner.ntotal
        return self

    def _took(self: Any, vectors: _Floats) -> None:
        self._inner._took(vectors)
        if isinstance(self._refine, Ours):
            self._refine._took(vectors)

    def _prepare(self: Any, vectors: _Floats) -> None:
        self._inner._prepare(vectors)
        if isinstance(self._refine, Ours):
            self._refine._prepare(vectors)

    def _stock(self: Any) -> Any:
        base, refine = self._inner._stock(), self._refine._stock() if isinstance(self._refine, Ours) else self._refine
        shown: Any = type(self).__bases__[-1]
        is_flat = shown is faiss.IndexRefineFlat
        stock = shown(base, refine.get_xb()) if is_flat and self.ntotal else shown(base, *([] if is_flat else [refine]))
        stock.k_factor, stock.verbose, stock.is_trained = self.k_factor, self.verbose, self.is_trained
        return stock

    def __getstate__(self: Any) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("k_factor", "verbose", "is_trained")}
        return {"settings": settings, "inner": self._inner, "refine": self._refine}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        made = type(self)._joined(state["inner"], state["refine"])
        vars(self).update(vars(made))
        self._set_like(SimpleNamespace(**state["settings"]))

    def _stats(self: Any) -> IndexStats:
        figures: IndexStats = self._inner._stats()
        exact = 4.0 * self.d if isinstance(self._refine, faiss.IndexFlat) else 0.0
        return replace(figures, other_bytes=figures.other_bytes + exact, original_bytes=figures.original_bytes + exact)


class IndexRefine(_Refining, faiss.IndexRefine):  # type: ignore[misc]
    """Stands for ``faiss.IndexRefine`` around an index of ours; an empty flat index to refine with is made FAISS'."""

    def __init__(self: Any, base_index: Any, refine_index: Any) -> None:
        refine_index = as_original(refine_index)
        super().__init__(base_index, refine_index)
        self._inner, self._refine = base_index, refine_index

    @classmethod
    def _joined(cls, inner: Any, refine: Any) -> Any:
        return cls(inner, refine if isinstance(refine, Ours) else faiss.clone_index(refine))


class IndexRefineFlat(_Refining, faiss.IndexRefineFlat):  # type: ignore[misc]
    """Stands for ``faiss.IndexRefineFlat`` around an index of ours: it keeps the vectors beside, as they came."""

    def __init__(self: Any, base_index: Any, *vectors: Any) -> None:
        super().__init__(base_index, *vectors)
        self._inner = base_index
        self._refine = stock_of(vars(faiss.IndexRefine)["refine_index"].fget(self))

    @classmethod
    def _joined(cls, inner: Any, refine: Any) -> Any:
        return cls(inner, refine.get_xb()) if inner.ntotal else cls(inner)
