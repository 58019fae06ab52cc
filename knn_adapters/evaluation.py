"""What a wrapped index costs and how well it finds: :func:`stats` and :func:`estimate_recall`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from knn_adapters._validation import as_queries, check_finite, check_k
from knn_adapters.recall import exact_neighbours, recall_at_k
from knn_adapters.wrapping import find_adapter
from mp_plugins import argument_error

__all__ = ["IndexStats", "estimate_recall", "stats"]


@dataclass(frozen=True)
class IndexStats:
    """Figures of a wrapped index; all ``*_bytes`` are bytes per vector, measured on the arrays that are held.

    Attributes:
        kind: the class of the library that it stands for.
        metric: ``"l2"``, ``"ip"`` or ``"cosine"``.
        n_vectors: number of vectors.
        dim: their dimension.
        bits: bits per dimension of the codes.
        clip: how the range of the codes was found.
        simd_level: the instruction set that searches use.
        codes_bytes: codes and, for Euclidean distance, norms.
        graph_bytes: links, or trees with their split planes.
        other_bytes: labels and the quantizer.
        original_bytes: what the original holds for the same.
        rescore: what the last candidates are compared by, see :func:`knn_adapters.wrap`.
        kept_bytes: vectors that are kept beside their codes to rescore by.
    """

    kind: str
    metric: str
    n_vectors: int
    dim: int
    bits: int
    clip: str
    simd_level: str
    codes_bytes: float
    graph_bytes: float
    other_bytes: float
    original_bytes: float
    rescore: str = "none"
    kept_bytes: float = 0.0

    @property
    def total_bytes(self) -> float:
        """Bytes per vector of the wrapped index."""
        return self.codes_bytes + self.kept_bytes + self.graph_bytes + self.other_bytes

    @property
    def ratio(self) -> float:
        """Wrapped bytes over original bytes."""
        return self.total_bytes / self.original_bytes

    def __str__(self) -> str:
        kept = f"+ vectors {self.kept_bytes:.1f} " if self.kept_bytes else ""
        return (
            f"{self.kind}, {self.metric}: {self.n_vectors} vectors of dimension {self.dim}\n"
            f"  bytes per vector  {self.total_bytes:.1f} = codes {self.codes_bytes:.1f} {kept}"
            f"+ graph {self.graph_bytes:.1f} + other {self.other_bytes:.1f}\n"
            f"  original          {self.original_bytes:.1f} bytes per vector; wrapped takes {self.ratio:.1%}\n"
            f"  codes             {self.bits} bits, clip: {self.clip}, rescore: {self.rescore}\n"
            f"  SIMD level        {self.simd_level}"
        )


def stats(index: Any) -> IndexStats:
    """Return the figures of a wrapped ``index``.

    Raises:
        ArgumentError: the index is not wrapped.
        UnsupportedError: no adapter handles it.
    """
    adapter = find_adapter(index)
    if not adapter.is_wrapped(index):
        raise argument_error("index", "must be wrapped", repr(index), "pass what wrap(index) returned")
    return adapter.stats(index)


def estimate_recall(index: Any, queries: npt.ArrayLike, k: int = 10) -> float:
    """Return recall@k of the index's own search, with its present settings, against exact search on what it holds.

    A wrapped index holds codes, so the exact search runs over the decoded vectors: the figure is what the graph or
    forest and the rounding of queries lose, and leaves out what the codes themselves lose. An index that is not wrapped
    is held against its own float vectors, and so is one that keeps them (``rescore="original"``). To include the loss
    of the codes otherwise, compare with the answers of the original.

    Args:
        index: an index, wrapped or not, of a supported kind.
        queries: vectors ``(q, d)`` or one ``(d,)``.
        k: number of neighbours.

    Raises:
        ArgumentError: no queries, a wrong dimension, NaN or infinity, or k outside 1..n.
    """
    adapter = find_adapter(index)
    ids, vectors = adapter.vectors(index)
    checked = as_queries("queries", queries, vectors.shape[1])
    check_finite("queries", checked)
    if not len(checked):
        raise argument_error("queries", "must hold at least one vector", "none", "pass vectors (q, d)")
    if check_k("k", k) > len(ids):
        raise argument_error("k", f"must be at most the {len(ids)} vectors of the index", k, "ask for fewer")
    true_ids = ids[exact_neighbours(vectors, checked, k, adapter.metric(index))]
    return recall_at_k(adapter.search(index, checked, k), true_ids, k)
