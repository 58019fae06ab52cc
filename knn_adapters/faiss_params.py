"""What ``search(params=...)`` of FAISS says, checked: how broad a search is, and what may be a result.

Search parameters count for one call and replace the settings of the index, all of them: ``SearchParametersHNSW(sel=s)``
searches with its own default of ``efSearch``, 16. As in FAISS, an index takes from the parameters of another kind of
index the selector only; one of inverted lists refuses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import runtime_error
from knn_adapters.faiss_selectors import all_ids, id_filter, members, row_filter, selector_of
from knn_adapters.faiss_threads import library_threads
from knn_adapters.libraries import original
from mp_plugins import ArgumentTypeError, argument_error

__all__ = ["check_params", "ef_of", "filter_of", "max_empty_of", "n_probe_of", "visited", "within_budget"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

_GRAPH_PARAMETERS: Any = getattr(faiss, "SearchParametersHNSW")  # noqa: B009  # which the stubs of FAISS lack


def check_params(index: Any, params: Any) -> None:
    """Refuse what ``index`` cannot be searched with.

    Raises:
        ArgumentTypeError: no search parameters at all.
        RuntimeError: others than ``SearchParametersIVF`` for an index of inverted lists.
    """
    if params is None:
        return
    if not isinstance(params, faiss.SearchParameters):
        raise ArgumentTypeError(
            f"`params` must be faiss.SearchParameters, got {type(params).__name__}: "
            "put a selector into faiss.SearchParameters(sel=...)"
        )
    if isinstance(index, faiss.IndexIVF) and not isinstance(params, faiss.SearchParametersIVF):
        raise runtime_error(
            "IndexIVF params have incorrect type", "params", "must be faiss.SearchParametersIVF",
            type(params).__name__, "pass SearchParametersIVF(sel=..., nprobe=...)",
        )  # fmt: skip


def filter_of(index: Any, params: Any) -> Any:
    """Return the core's filter for the selector of ``params``, or None."""
    selector = selector_of(params)
    if selector is None:
        return None
    if index._lists is not None:
        return id_filter(selector, lambda: all_ids(index._lists.ids))
    return row_filter(selector, index.ntotal)


def ef_of(index: Any, params: Any, k: int) -> int:
    """Return how many candidates a search of a graph keeps.

    ``check_relative_distance`` and ``bounded_queue`` say when FAISS stops and in which queue it keeps candidates. Ours
    are one sorted pool of max(efSearch, k), and the search ends when all of them were looked at: the result of FAISS'
    bounded queue with or without its check.

    Raises:
        ArgumentError: an ``efSearch`` below 1, for which FAISS returns nothing or ends the process.
    """
    given = isinstance(params, _GRAPH_PARAMETERS)
    ef = params.efSearch if given else index._hnsw.efSearch
    if ef < 1:
        name = "params.efSearch" if given else "hnsw.efSearch"
        raise argument_error(name, "must be at least 1", ef, "set it to k or more")
    return max(int(ef), k)


def n_probe_of(index: Any, params: Any) -> int:
    """Return how many lists a search visits.

    Raises:
        RuntimeError: none.
    """
    n_probe = int(index.nprobe if params is None else params.nprobe)
    if n_probe < 1:
        name = "nprobe" if params is None else "params.nprobe"
        raise runtime_error("'cur_nprobe > 0' failed", name, "must be at least 1", n_probe, "visit one list or more")
    return min(n_probe, int(index.nlist))


def visited(index: Any, coarse: Any, queries: _Floats, params: Any) -> _Ids:
    """Return the lists ``(q, nprobe)`` that ``coarse``, a quantizer of FAISS, picks for each query; -1 for none."""
    n_probe, inner = n_probe_of(index, params), None if params is None else params.quantizer_params
    if inner is not None:
        found: _Ids = coarse.search(queries, n_probe, params=inner)[1]
        return found
    # The queries are checked: FAISS' Python would look at them again, for as long as a short list takes.
    distances, ids = np.empty((len(queries), n_probe), np.float32), np.empty((len(queries), n_probe), np.int64)
    arguments = (len(queries), faiss.swig_ptr(queries), n_probe, faiss.swig_ptr(distances), faiss.swig_ptr(ids))
    if len(queries) == 1:  # FAISS takes one thread for it
        coarse.search_c(*arguments)
    else:
        with library_threads(index):
            coarse.search_c(*arguments)
    return ids


def within_budget(index: Any, assignment: _Ids, params: Any, k: int) -> _Ids:
    """Return ``assignment`` ``(q, nprobe)`` with -1 for lists behind the one that uses up ``max_codes``, if it is set.

    The budget is one of codes that pass the selector. FAISS cuts the list in which it ends; ours scan that list whole,
    as FAISS does with ``ensure_topk_full``.
    """
    owner = index if params is None else params
    budget = int(owner.max_codes)
    if not budget:
        return assignment
    if getattr(params, "ensure_topk_full", False):
        budget = max(budget, k)
    selector = selector_of(params)
    sizes = np.array([np.count_nonzero(members(selector, ids)) for ids in index._lists.ids] + [0])
    counts = sizes[assignment]  # -1 is the last, 0
    before = np.cumsum(counts, axis=1) - counts
    return np.where(before < budget, assignment, -1)


def max_empty_of(params: Any) -> int:
    """Return after how many lists in a row without a result a range search ends; 0 for never."""
    return int(getattr(params, "max_empty_result_buckets", 0))
