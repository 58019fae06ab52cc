"""The searches of the stand-in for ``faiss``: k nearest, all within a radius, and those of lists chosen before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import as_queries, check_finite, check_k, has_missing
from knn_adapters.faiss_arguments import check_results, delivered
from knn_adapters.faiss_params import check_params, ef_of, filter_of, max_empty_of, visited, within_budget
from knn_adapters.faiss_queries import as_assignment, as_radius
from knn_adapters.faiss_threads import search_threads
from knn_adapters.libraries import original
from mp_plugins import UnsupportedError

__all__ = ["ListMethods", "filled", "nearest", "within"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_FLOAT_MAX = float(np.finfo(np.float32).max)  # what FAISS fills missing results with

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]
_Range = tuple[npt.NDArray[np.uint64], _Floats, _Ids]


def nearest(index: Any, queries: _Floats, k: int, params: Any) -> tuple[_Floats, _Ids]:
    """Return distances and ids ``(q, k)`` of the k nearest, missing ones as the core has them."""
    how = _how(index, queries, params)
    found: tuple[_Floats, _Ids]
    lists = index._lists
    if lists is not None:
        assignment = within_budget(index, visited(index, lists.coarse, queries, params), params, k)
        found = _answer(lists.searcher.search, queries, assignment, k, **how)
    elif index._hnsw is not None:
        found = _answer(index._searcher.search, queries, k, ef_of(index, params, k), **how)
    else:
        found = _answer(index._searcher.search, queries, k, **how)
    return found


def within(index: Any, queries: _Floats, radius: float, params: Any) -> _Range:
    """Return ``(lims, distances, ids)`` of what is nearer than ``radius``."""
    how = _how(index, queries, params)
    found: _Range
    lists = index._lists
    if lists is not None:
        assignment = visited(index, lists.coarse, queries, params)
        how["max_empty"] = max_empty_of(params)
        found = _answer(lists.searcher.range_search, queries, assignment, radius, **how)
    else:
        found = _answer(index._searcher.range_search, queries, radius, **how)
    return found


def filled(index: Any, distances: _Floats, ids: _Ids) -> tuple[_Floats, _Ids]:
    """Return results whose missing ones have FAISS' distance."""
    if has_missing(ids):
        distances[ids < 0] = _FLOAT_MAX if index.metric_type == faiss.METRIC_L2 else -_FLOAT_MAX
    return distances, ids


class ListMethods:
    """What only indexes of inverted lists have: searches of lists that the caller has chosen."""

    def search_preassigned(
        self: Any,
        x: npt.ArrayLike,
        k: int,
        Iq: npt.ArrayLike,  # noqa: N803  # FAISS' names
        Dq: npt.ArrayLike | None,  # noqa: N803
        *,
        params: Any = None,
        D: _Floats | None = None,  # noqa: N803
        I: _Ids | None = None,  # noqa: E741, N803
    ) -> tuple[_Floats, _Ids]:
        """Return distances and ids ``(q, k)`` found in the lists that ``Iq`` names.

        Args:
            x: queries ``(q, d)``.
            k: number of neighbours.
            Iq: lists ``(q, nprobe)``; -1 for none.
            Dq: distances ``(q, nprobe)`` of their centroids, which are not needed; or None.
            params: nothing, as in FAISS.
            D: array ``(q, k)`` ``float32`` to write distances to.
            I: array ``(q, k)`` ``int64`` to write ids to.

        Raises:
            ArgumentError: a wrong shape, dtype or dimension, NaN or infinity, k below 1, a list that there is not.
            UnsupportedError: search parameters.
        """
        queries, count = as_queries("x", x, self.d, single=False), check_k("k", k)
        assignment = _assignment(self, len(queries), Iq, Dq, params)
        check_results(D, I, (len(queries), count))
        assignment = within_budget(self, assignment, None, count)
        found = _answer(self._lists.searcher.search, queries, assignment, count, **_threads(self, queries))
        distances, ids = filled(self, *found)
        return delivered(distances, D), delivered(ids, I)

    def range_search_preassigned(
        self: Any,
        x: npt.ArrayLike,
        thresh: float,
        Iq: npt.ArrayLike,  # noqa: N803
        Dq: npt.ArrayLike | None,  # noqa: N803
        *,
        params: Any = None,
    ) -> _Range:
        """Return ``(lims, distances, ids)`` of what is nearer than ``thresh`` in the lists that ``Iq`` names.

        Arguments are those of :meth:`search_preassigned`, results those of ``range_search``.
        """
        queries, radius = as_queries("x", x, self.d, single=False), as_radius("thresh", thresh)
        assignment = _assignment(self, len(queries), Iq, Dq, params)
        found: _Range = _answer(
            self._lists.searcher.range_search, queries, assignment, radius, **_threads(self, queries)
        )
        return found


def _assignment(index: Any, n_queries: int, lists: Any, distances: Any, params: Any) -> _Ids:
    if params is not None:
        raise UnsupportedError("search parameters of a search of chosen lists: FAISS takes none, leave `params` out")
    shape = (n_queries, int(index.nprobe))
    if distances is not None:
        as_assignment("Dq", distances, shape, np.float32)
    return as_assignment("Iq", lists, shape, np.int64)


def _how(index: Any, queries: _Floats, params: Any) -> dict[str, Any]:
    check_params(index, params)
    if params is None:
        return _threads(index, queries)
    return {**_threads(index, queries), "id_filter": filter_of(index, params)}


def _threads(index: Any, queries: _Floats) -> dict[str, Any]:
    return {"num_threads": search_threads(index, len(queries))}


def _answer(search: Any, queries: _Floats, *arguments: Any, **named: Any) -> Any:
    """Return what ``search`` does; numbers that are not finite are reported with FAISS' name of the argument."""
    try:
        return search(queries, *arguments, **named)
    except ValueError:
        check_finite("x", queries)
        raise
