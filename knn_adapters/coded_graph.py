"""A graph that grows over codes, with the quantizer that made them and an eye on whether it still fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.outliers import OutlierRule, too_many
from knn_adapters.quantizer import Quantizer, quantizer_bytes

__all__ = ["CodedGraph", "GraphSettings"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GraphSettings:
    """How a graph is made.

    Attributes:
        max_m: links of an element above level 0, hnswlib's M.
        ef_construction: breadth of the search that finds links.
        seed: of the levels.
        keep_originals: whether the vectors are kept beside their codes, to rescore by.
    """

    max_m: int
    ef_construction: int
    seed: int
    keep_originals: bool = False


class CodedGraph:
    """``_core.HnswGraph`` and its quantizer.

    Vectors that come after the training and that the quantizer cuts off far more than most of those that it was trained
    on are kept as they are, beside their codes. When they would be an eighth of all, the quantizer is trained anew on
    what the codes stand for, with these in place of theirs, and everything is encoded again; see :meth:`retrained`.
    Where the settings say so all vectors are kept, and searches rescore by them.

    Args:
        quantizer: trained.
        settings: of the graph.
        capacity: number of vectors to make room for.
        rule: which vectors are outside.

    Attributes:
        outside: the vectors that are, by id; None in their place where the graph keeps all.
    """

    def __init__(self, quantizer: Any, settings: GraphSettings, capacity: int, rule: OutlierRule) -> None:
        self.quantizer = quantizer
        self.settings = settings
        self._rule = rule
        self.graph = _core.HnswGraph(
            quantizer.dim, capacity, quantizer.scale, quantizer.offset, quantizer.metric, bits=quantizer.bits,
            span=_span(quantizer), feedback=getattr(quantizer, "feedback", None),
            keep_originals=settings.keep_originals, max_m=settings.max_m,
            ef_construction=settings.ef_construction, seed=settings.seed,
        )  # fmt: skip
        self.search = self.graph.search
        self.outside: dict[int, _Floats | None] = {}

    @classmethod
    def trained_on(cls, quantizer: Any, vectors: _Floats, settings: GraphSettings, capacity: int) -> CodedGraph:
        """Return an empty graph for ``quantizer``, which was trained on ``vectors`` ``(n, d)``."""
        return cls(quantizer, settings, capacity, OutlierRule.trained_on(quantizer, vectors))

    @property
    def error_limit(self) -> float:
        """Squared length of what the range cuts off, above which a vector is outside."""
        return self._rule.limit

    def append(self, vectors: _Floats, *, num_threads: int = 0) -> None:
        """Add ``vectors`` ``(n, d)`` behind the last."""
        self.graph.add(vectors, num_threads=num_threads)

    def replace(self, ids: _Ids, vectors: _Floats, *, num_threads: int = 0) -> None:
        """Give ``ids`` other vectors; deleted ones are deleted no more."""
        self.graph.replace(ids, vectors, num_threads=num_threads)
        for position in ids.tolist() if self.outside else ():
            self.outside.pop(position, None)

    def mark(self, ids: _Ids, is_deleted: bool) -> None:
        """Take ``ids`` out of the results, or back."""
        (self.graph.mark_deleted if is_deleted else self.graph.unmark_deleted)(ids)

    def deleted(self) -> npt.NDArray[np.bool_]:
        """Return for each vector whether it is deleted."""
        return self.graph.deleted()

    @property
    def count(self) -> int:
        """Number of vectors."""
        return self.graph.count

    @property
    def n_deleted(self) -> int:
        """Number of vectors that are deleted."""
        return self.graph.n_deleted

    def vectors(self, ids: _Ids) -> _Floats:
        """Return what the codes of ``ids`` stand for, ``(len(ids), d)``; the vectors themselves where they are kept."""
        originals: _Floats | None = self.graph.originals(ids)
        if originals is not None:
            return originals
        residuals = self.graph.residuals(ids)
        vectors = _decoded(self.quantizer, self.graph.codes(ids), residuals)
        for row, position in enumerate(ids.tolist() if self.outside else ()):
            kept = self.outside.get(position)
            if kept is not None:
                vectors[row] = kept
        return vectors

    def are_outside(self, vectors: _Floats) -> npt.NDArray[np.bool_]:
        """Return for each of ``vectors`` whether the quantizer cuts off too much of it."""
        return self._rule.are_outside(vectors)

    def outgrown_by(self, outside: npt.NDArray[np.bool_]) -> bool:
        """Whether the quantizer has to be trained anew if vectors come of which these are ``outside``, ``(m,)``."""
        n_outside = len(self.outside) + int(np.count_nonzero(outside))
        return too_many(n_outside, self.count + len(outside))

    def keep_outside(self, ids: _Ids, vectors: _Floats) -> None:
        """Keep vectors that are outside, beside their codes."""
        for position, vector in zip(ids.tolist(), vectors, strict=True):
            self.outside[position] = None if self.settings.keep_originals else vector.copy()

    def retrained(self, train: Any, newcomers: _Floats) -> CodedGraph:
        """Return a graph of the same vectors whose quantizer fits ``newcomers`` ``(m, d)`` too; they are not added.

        It costs a training and 4 bytes a dimension and vector while it runs, and lets the vectors lose by rounding a
        second time, unless they are kept. The links stay; only vectors that were outside look for new ones.

        Args:
            train: makes a quantizer of vectors ``(n, d)``.
            newcomers: vectors that are about to come.
        """
        everything = np.arange(self.count)
        vectors, arrays = self.vectors(everything), self.graph.arrays()
        every = np.concatenate([vectors, newcomers])
        quantizer = train(every)
        made = CodedGraph.trained_on(quantizer, every, self.settings, self.graph.capacity)
        arrays["codes"] = quantizer.encode(vectors)
        arrays["residuals"] = quantizer.encode_residuals(vectors, arrays["codes"]) if _span(quantizer) else None
        made.graph.fill(**arrays)
        moved = np.array(sorted(self.outside), np.int64)
        moved = moved[~self.deleted()[moved]]
        if len(moved):
            made.graph.replace(moved, vectors[moved])
        return made

    def fill(self, codes: npt.NDArray[np.uint8], residuals: npt.NDArray[np.uint8] | None, **arrays: Any) -> None:
        """Put the nodes of an existing graph into this empty one, see ``_core.HnswGraph.fill``."""
        self.graph.fill(codes, residuals, **arrays)

    @property
    def nbytes_other(self) -> int:
        """Bytes of the quantizer and of the vectors that are outside."""
        kept = sum(vector.nbytes for vector in self.outside.values() if vector is not None)
        return quantizer_bytes(self.quantizer) + kept


def _span(quantizer: Any) -> float:
    return float(quantizer.span) if getattr(quantizer, "residual", False) else 0.0


def _decoded(quantizer: Quantizer, codes: npt.NDArray[np.uint8], residuals: npt.NDArray[np.uint8] | None) -> _Floats:
    return quantizer.decode(codes) if residuals is None else quantizer.decode(codes, residuals)
