"""How many threads work for an index: what ``configure()`` said when it was made, else what FAISS is set to now.

FAISS' own setting, ``faiss.omp_set_num_threads``, is one of the calling thread and not of an index, so that none of the
two can be told to be the later one: the number that was given for the index counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from knn_adapters.libraries import original

__all__ = ["library_threads", "search_threads"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")


def search_threads(index: Any, n_queries: int) -> int:
    """Return the threads that ``n_queries`` are searched with."""
    if n_queries == 1:
        return 1
    return index._contents.options.num_threads or int(faiss.omp_get_max_threads())


@contextmanager
def library_threads(index: Any) -> Iterator[None]:
    """Let FAISS' own code, called by this thread in a ``with`` block, use the threads of an index of ours."""
    while (inner := getattr(index, "_inner", None)) is not None:
        index = inner
    wanted = index._contents.options.num_threads
    if wanted is None:
        yield
        return
    before = int(faiss.omp_get_max_threads())
    faiss.omp_set_num_threads(wanted)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
