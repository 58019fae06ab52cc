"""Items and split planes of a forest as codes, in memory or mapped from a file, and the search over them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core, annoy_file, storage
from knn_adapters._validation import check_finite
from knn_adapters.annoy_arguments import as_flag, as_int, as_vector, file_error, packer
from knn_adapters.annoy_forest import Forest
from knn_adapters.annoy_nodes import METRICS, Nodes
from knn_adapters.evaluation import IndexStats
from knn_adapters.quantizer import Quantizer
from knn_adapters.recall import normalised
from knn_adapters.wrapping import WrapOptions

__all__ = ["KIND", "CodedForest"]

KIND = "annoy.AnnoyIndex"

_TRAINING_ROWS = 1 << 20  # of more a quantizer sees a part, which bounds the copy that is made for it
_LAZY = frozenset({"codes", "residuals", "originals", "plane_codes"})
"""Sections that are read where a search gets to; their checksums would read the whole file."""

_FOREST = tuple(field.name for field in fields(Forest))


@dataclass(frozen=True)
class _Setup:
    """What a file tells about an index beside its arrays."""

    f: int
    metric: str
    n_items: int
    bits: int
    clip: str
    span: float
    original_bytes: int
    """What the same takes in Annoy."""


class CodedForest:
    """A forest over codes, which is never changed; any number of threads may search it.

    Args:
        setup: metric and quantizer.
        arrays: ``codes``, ``scale``, ``offset`` and the arrays of a :class:`Forest`; ``norms`` for Euclidean distance;
            ``residuals``, and ``residual_norms``, of a second level, or ``originals``, the vectors themselves;
            ``lengths`` where items were normalised; ``present`` where ids are missing. They are read in place.
        quantizer: that of ``arrays``.
    """

    def __init__(self, setup: _Setup, arrays: dict[str, npt.NDArray[Any]], quantizer: Any) -> None:
        self.setup, self.quantizer, self._arrays = setup, quantizer, arrays
        self.metric, self.n_items = setup.metric, setup.n_items
        self._codes, self._present, self._lengths = arrays["codes"], arrays.get("present"), arrays.get("lengths")
        self._forest = Forest(**{name: arrays[name] for name in _FOREST})
        self.n_trees = len(self._forest.roots)
        self._pack = packer(setup.f)
        forest = self._forest
        self._searcher = _core.ForestSearcher(
            self._codes, arrays.get("norms"), arrays["scale"], arrays["offset"], forest.plane_codes,
            forest.plane_scale, forest.plane_bias, forest.children, forest.leaf_offsets, forest.leaf_items,
            forest.roots, METRICS[setup.metric], bits=setup.bits,
        )  # fmt: skip
        self._residuals = arrays.get("residuals")
        if self._residuals is not None:
            self._searcher.add_residuals(self._residuals, arrays.get("residual_norms"), setup.span)
        self._originals = arrays.get("originals")
        if self._originals is not None:
            self._searcher.add_originals(self._originals)

    @classmethod
    def of(cls, nodes: Nodes, options: WrapOptions) -> CodedForest:
        """Return the encoded forest of ``nodes``, a block of them at a time."""
        metric, dim, present = METRICS[nodes.metric], nodes.records["vector"].shape[1], nodes.present
        quantizer = options.train_quantizer(metric, _training_rows(nodes, present))
        residual = bool(getattr(quantizer, "residual", False))
        width = dim if quantizer.bits == 8 else (dim + 1) // 2
        codes = np.empty((nodes.n_items, width), np.uint8)
        residuals = np.empty((nodes.n_items, dim), np.uint8) if residual else None
        originals = np.empty((nodes.n_items, dim), np.float32) if options.rescore == "original" else None
        lengths = np.empty(nodes.n_items, np.float32)
        for block in nodes.blocks():
            vectors = nodes.item_vectors(block)
            codes[block] = quantizer.encode(vectors)
            lengths[block] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            if residuals is not None:
                residuals[block] = quantizer.encode_residuals(vectors, codes[block])
            if originals is not None:
                originals[block] = normalised(vectors) if metric == "cosine" else vectors
        affine = (quantizer.scale, quantizer.offset)
        arrays = {"codes": codes, "scale": affine[0], "offset": affine[1], **vars(Forest.of(nodes))}
        if metric == "l2":
            arrays["norms"] = _core.squared_norms(codes, *affine, quantizer.bits)
        if residuals is not None:
            arrays["residuals"] = residuals
            if metric == "l2":
                how = (codes, *affine, quantizer.span, quantizer.bits)
                arrays["residual_norms"] = _core.residual_norms(residuals, *how)
        if originals is not None:
            arrays["originals"] = originals
        # Within float32's rounding of 1, lengths say nothing, but where vectors are to come back as they were.
        if metric == "cosine" and not np.allclose(lengths[present], 1.0, atol=1e-5 if originals is None else 0.0):
            arrays["lengths"] = lengths
        if not present.all():
            arrays["present"] = present
        setup = _Setup(
            f=dim, metric=nodes.metric, n_items=nodes.n_items, bits=quantizer.bits, clip=quantizer.clip,
            span=quantizer.span if residual else 0.0, original_bytes=nodes.records.nbytes,
        )  # fmt: skip
        return cls(setup, arrays, quantizer)

    @classmethod
    def load(cls, path: str, f: int, metric: str, *, prefault: bool) -> CodedForest:
        """Map the file that :meth:`save` wrote.

        With ``prefault`` all of it is read, and every checksum looked at; else those of the codes, by far the largest
        part, are not, so that a search reads no more of the file than it comes to.

        Raises:
            ArgumentError: foreign, damaged, or of another dimension or metric.
            OSError: it cannot be opened.
        """
        stored = storage.read(path, populate=prefault, unchecked=frozenset() if prefault else _LAZY)
        found = (stored.kind, stored.fields.get("f"), stored.fields.get("metric"))
        if found != (KIND, f, metric):
            raise file_error(
                "Unable to load", f"must be an {KIND} of dimension {f} and metric {metric}",
                f"an {found[0]} of dimension {found[1]} and metric {found[2]}",
                "open it with the dimension and the metric that it was made with",
            )  # fmt: skip
        try:
            setup, arrays = _Setup(**stored.fields), stored.arrays
            quantizer = Quantizer.from_affine(
                METRICS[metric], arrays["scale"], arrays["offset"], setup.clip, bits=setup.bits, span=setup.span
            )
            made = cls(setup, arrays, quantizer)
            made._check_shapes()
        except (KeyError, TypeError, ValueError) as error:
            raise file_error(
                "Unable to load", "must be complete", f"arrays that don't fit each other ({error})", "save it again"
            ) from error
        return made

    def save(self, path: str) -> None:
        """Write the file; it is complete or as it was before.

        Raises:
            OSError: it cannot be written.
        """
        storage.write(path, KIND, asdict(self.setup), self._arrays)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write Annoy's own file, with the vectors that the codes stand for, or the vectors themselves."""
        present = np.ones(self.n_items, np.bool_) if self._present is None else self._present
        annoy_file.write(path, self._forest, self.metric, present, self.vectors)

    @property
    def bits(self) -> int:
        """Bits per dimension of the codes."""
        return self.setup.bits

    def by_vector(self, vector: Any, n: Any, search_k: Any, include_distances: Any) -> Any:
        """Return what Annoy's search returns.

        Raises:
            ItemError: another number of values than f (an ``IndexError``).
            ArgumentError: NaN or infinity.
            TypeError: what is no vector or no integer.
        """
        values = as_vector(vector, self.setup.f, self._pack)
        return self._search(values[np.newaxis], n, search_k, include_distances)

    def by_item(self, item: int, n: Any, search_k: Any, include_distances: Any) -> Any:
        """Return what Annoy's search for the neighbours of an item returns."""
        return self._search(self.directions([item]), n, search_k, include_distances)

    def item_vector(self, item: int) -> list[float]:
        """Return the vector of an item, decoded unless it is kept."""
        values: list[float] = self.vectors([item])[0].tolist()
        return values

    def directions(self, items: Any) -> npt.NDArray[np.float32]:
        """Return what is known of ``items``, ``(m, d)``: of length 1 for angular, zeros for gaps."""
        if self._originals is not None:
            return np.array(self._originals[items])
        decoded = self._decoded(items)
        if self._present is not None:
            decoded[~self._present[items]] = 0.0
        return normalised(decoded) if self.metric == "angular" else decoded

    def vectors(self, items: Any) -> npt.NDArray[np.float32]:
        """Return the vectors of ``items`` at their original lengths, ``(m, d)``, decoded unless they are kept."""
        directions = self.directions(items)
        return directions if self._lengths is None else directions * self._lengths[items, np.newaxis]

    def distance(self, i: int, j: int) -> float:
        """Return the distance between two items, in Annoy's units."""
        first, second = self.directions([i, j])
        if self.metric == "euclidean":
            return float(np.linalg.norm(first - second))
        return float(self._in_annoys_units(np.float32(first @ second)))

    def held(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids and vectors."""
        items = self.present_items()
        return items, self.vectors(items)

    def present_items(self) -> npt.NDArray[np.int64]:
        """Return the ids that were added."""
        return np.arange(self.n_items) if self._present is None else np.flatnonzero(self._present).astype(np.int64)

    def stats(self) -> IndexStats:
        """Return the figures."""
        names = ("codes", "norms", "residuals", "residual_norms")
        count = max(self.n_items, 1)
        codes = sum(self._arrays[name].nbytes for name in names if name in self._arrays)
        trees = sum(self._arrays[name].nbytes for name in _FOREST)
        kept = 0 if self._originals is None else self._originals.nbytes
        total = sum(array.nbytes for array in self._arrays.values())
        return IndexStats(
            kind=KIND,
            metric=METRICS[self.metric],
            n_vectors=self.n_items,
            dim=self.setup.f,
            bits=self.setup.bits,
            clip=self.setup.clip,
            simd_level=_core.simd_level(),
            codes_bytes=codes / count,
            graph_bytes=trees / count,
            other_bytes=(total - codes - trees - kept) / count,
            original_bytes=self.setup.original_bytes / count,
            rescore="original" if kept else "none" if self._residuals is None else "residual",
            kept_bytes=kept / count,
        )

    def _search(
        self, queries: npt.NDArray[np.float32], n: Any, search_k: Any, include_distances: Any
    ) -> list[int] | tuple[list[int], list[float]]:
        """Search for one query ``(1, d)``; a number below 0, of ``search_k`` one below -1, stands for all."""
        wanted, effort = as_int("n", n), as_int("search_k", search_k)
        with_distances = as_flag("include_distances", include_distances)
        count = self.n_items if wanted < 0 else min(wanted, self.n_items)
        if effort == -1:
            effort = wanted * self.n_trees
        if effort < 0:
            effort = self.n_items * self.n_trees + 1
        if not count or not effort:
            check_finite("vector", queries)
            return ([], []) if with_distances else []
        try:
            distances, ids = self._searcher.search(queries, count, effort)
        except ValueError:
            check_finite("vector", queries)
            raise
        items: list[int] = ids[0].tolist()
        if items[-1] < 0:
            items = items[: items.index(-1)]
        if not with_distances:
            return items
        return items, self._in_annoys_units(distances[0, : len(items)]).tolist()

    def _decoded(self, items: Any) -> npt.NDArray[np.float32]:
        residuals = () if self._residuals is None else (self._residuals[items],)
        decoded: npt.NDArray[np.float32] = self.quantizer.decode(self._codes[items], *residuals)
        return decoded

    def _in_annoys_units(self, values: Any) -> Any:
        """Turn inner products, or squared Euclidean distances, into what Annoy reports."""
        if self.metric == "dot":
            return values
        if self.metric == "euclidean":
            return np.sqrt(np.maximum(values, 0.0))  # rounding may leave a square a little below zero
        # Decoded vectors are not quite of length 1.
        return np.sqrt(np.minimum(np.maximum(2.0 - 2.0 * values, 0.0), 4.0))

    def _check_shapes(self) -> None:
        """Raise a ``ValueError`` where what the core does not look at has another length than the codes."""
        if len(self._codes) != self.n_items or len(self._arrays["scale"]) != self.setup.f:
            raise ValueError(f"{len(self._codes)} codes of dimension {len(self._arrays['scale'])}")
        for name in ("lengths", "present"):
            if name in self._arrays and self._arrays[name].shape != (self.n_items,):
                raise ValueError(f"{name} of shape {self._arrays[name].shape}")


def _training_rows(nodes: Nodes, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    items = np.flatnonzero(present)
    if len(items) > _TRAINING_ROWS:
        items = np.sort(np.random.default_rng(0).choice(items, _TRAINING_ROWS, replace=False))
    return nodes.item_vectors(items)
