"""Stands in for the module ``annoy``: an ``AnnoyIndex`` with Annoy's API over coded items and split planes.

Annoy builds the trees; we take the forest over, and search it. In this release an index comes from
:func:`knn_adapters.wrap` and can be searched only.
"""

from __future__ import annotations

import operator
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters._unsupported import reject_methods
from knn_adapters._validation import ItemError, as_values, check_finite, check_k, number_error
from knn_adapters.annoy_forest import Forest
from knn_adapters.annoy_nodes import METRICS, Nodes, detect_metric, opened_copy
from knn_adapters.evaluation import IndexStats
from knn_adapters.quantizer import held_bytes
from knn_adapters.recall import normalised
from knn_adapters.second_level import SecondLevel
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, argument_error, missing_dependency

try:
    import annoy
except ImportError as error:
    raise missing_dependency("annoy", "annoy", wanted_by="knn_adapters.annoy") from error

__all__ = ["AnnoyIndex"]


class AnnoyIndex(annoy.AnnoyIndex):
    """An ``annoy.AnnoyIndex`` whose items and planes are codes; made by :func:`knn_adapters.wrap`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError(
            "building a quantized AnnoyIndex is not yet supported: build an annoy.AnnoyIndex and wrap it"
        )

    @classmethod
    def _wrapping(cls, original: Any, options: WrapOptions) -> AnnoyIndex:
        """Return an index over the encoded items and planes of ``original``."""
        metric = detect_metric(original)
        # The base stays empty: it answers for f.
        create: Any = cls.__new__  # Annoy's stubs leave its __new__ out
        self: AnnoyIndex = create(cls, original.f, metric)
        with opened_copy(original, metric) as nodes:
            self._take(nodes, options)
        return self

    def _take(self, nodes: Nodes, options: WrapOptions) -> None:
        vectors, present = nodes.item_vectors(), nodes.present
        quantizer = options.train_quantizer(METRICS[nodes.metric], vectors if present.all() else vectors[present])
        affine, metric = (quantizer.scale, quantizer.offset), quantizer.metric
        self._codes = quantizer.encode(vectors)
        self._norms = _core.squared_norms(self._codes, *affine, quantizer.bits) if metric == "l2" else None
        self._lengths = _lengths(vectors) if nodes.metric == "angular" else None
        self._present = present if not present.all() else None
        forest = self._forest = Forest.of(nodes)
        self._searcher = _core.ForestSearcher(
            self._codes, self._norms, *affine, forest.plane_codes, forest.plane_scale, forest.plane_bias,
            forest.children, forest.leaf_offsets, forest.leaf_items, forest.roots, metric,
            bits=quantizer.bits,
        )  # fmt: skip
        self._second_level = SecondLevel.of(quantizer, vectors, self._codes, self._searcher)
        self._quantizer, self._metric = quantizer, nodes.metric
        self._format = struct.Struct(f"{self.f}f")
        self._original_bytes = nodes.records.nbytes

    def get_nns_by_vector(self, vector: Any, n: int, search_k: int = -1, include_distances: bool = False) -> Any:
        """Return the ids of the n nearest items, or ``(ids, distances)``; fewer where the trees give fewer.

        Distances are in Annoy's units: ``sqrt(2 - 2 cos)`` for angular, Euclidean, inner product (descending) for dot.

        Args:
            vector: d numbers.
            n: number of neighbours.
            search_k: items to look at; ``n * n_trees`` by default.
            include_distances: whether distances are returned too.

        Raises:
            ItemError: a wrong number of values (an ``IndexError``, as Annoy has it).
            ArgumentError: NaN or infinity, or n below 1.
        """
        values = self._packed(vector)
        if values.shape != (self.f,):
            raise ItemError(str(argument_error("vector", f"must hold {self.f} numbers", values.shape, "pass a list")))
        return self._nearest(values[np.newaxis], n, search_k, include_distances)

    def get_nns_by_item(self, i: int, n: int, search_k: int = -1, include_distances: bool = False) -> Any:
        """Return the items nearest to item i; else as :meth:`get_nns_by_vector`.

        Raises:
            ItemError: i is negative or no item (an ``IndexError``, as Annoy has it).
        """
        return self._nearest(self._decoded([self._item("i", i)]), n, search_k, include_distances)

    def get_item_vector(self, i: int, /) -> list[float]:
        """Return the decoded vector of item i, at its original length.

        Raises:
            ItemError: i is negative or no item.
        """
        item = self._item("i", i)
        vector = self._decoded([item])[0]
        if self._lengths is not None:
            vector = vector * self._lengths[item]
        values: list[float] = vector.tolist()
        return values

    def get_distance(self, i: int, j: int, /) -> float:
        """Return the distance between the decoded items i and j, in Annoy's units.

        Raises:
            ItemError: i or j is negative or no item.
        """
        first, second = self._decoded([self._item("i", i), self._item("j", j)])
        if self._metric == "euclidean":
            return float(np.linalg.norm(first - second))
        return float(self._in_annoys_units(np.float32(first @ second)))

    def get_n_items(self) -> int:
        """Return the number of items, ids that were never added included."""
        return len(self._codes)

    def get_n_trees(self) -> int:
        """Return the number of trees."""
        return len(self._forest.roots)

    def __repr__(self) -> str:
        return f"<knn_adapters.annoy.AnnoyIndex f={self.f} metric={self._metric!r} bits={self._quantizer.bits}>"

    def _nearest(self, queries: npt.NDArray[np.float32], n: int, search_k: int, include_distances: bool) -> Any:
        count = check_k("n", n)
        effort = count * self.get_n_trees() if search_k == -1 else check_k("search_k", search_k)
        # Ids fill from the front; asking for more than all items would only allocate.
        try:
            distances, ids = self._searcher.search(queries, min(count, self.get_n_items()), effort)
        except ValueError:
            check_finite("vector", queries)
            raise
        items: list[int] = ids[0].tolist()
        if items[-1] < 0:
            items = items[: items.index(-1)]
        if not include_distances:
            return items
        return items, self._in_annoys_units(distances[0, : len(items)]).tolist()

    def _packed(self, vector: Any) -> npt.NDArray[np.float32]:
        """Return ``vector`` as an array; a list, which is what Annoy's users have, in a third of numpy's time."""
        if type(vector) is list and len(vector) == self.f:
            try:
                return np.frombuffer(self._format.pack(*vector), np.float32)
            except (struct.error, OverflowError):
                pass  # not numbers, or beyond float32: for the checks to name
        return as_values("vector", vector)

    def _in_annoys_units(self, values: Any) -> Any:
        """Turn inner products, or squared Euclidean distances, into what Annoy reports."""
        if self._metric == "dot":
            return values
        # Rounding may leave a square a little below zero.
        return np.sqrt(np.maximum(values if self._metric == "euclidean" else 2.0 - 2.0 * values, 0.0))

    def _decoded(self, items: list[int]) -> npt.NDArray[np.float32]:
        decoded = self._both_levels(items)
        if self._present is not None:
            decoded[~self._present[items]] = 0.0
        return normalised(decoded) if self._metric == "angular" else decoded

    def _item(self, argument: str, value: Any) -> int:
        try:
            item = operator.index(value)
        except TypeError:
            raise number_error(argument, value) from None
        if not 0 <= item < len(self._codes):
            rule = f"must be an item, 0..{len(self._codes) - 1}"
            raise ItemError(str(argument_error(argument, rule, item, "pass an id that was added")))
        return item

    def _stats(self) -> IndexStats:
        count, quantizer = len(self._codes), self._quantizer
        codes = sum(array.nbytes for array in (self._codes, self._norms, self._second_level) if array is not None)
        others = sum(array.nbytes for array in (self._lengths, self._present) if array is not None)
        return IndexStats(
            kind="annoy.AnnoyIndex",
            metric=quantizer.metric,
            n_vectors=count,
            dim=self.f,
            bits=quantizer.bits,
            clip=quantizer.clip,
            simd_level=_core.simd_level(),
            codes_bytes=codes / count,
            graph_bytes=self._forest.nbytes / count,
            other_bytes=(held_bytes(quantizer) + others) / count,
            original_bytes=self._original_bytes / count,
        )

    def _vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        ids = np.arange(len(self._codes)) if self._present is None else np.flatnonzero(self._present)
        return ids.astype(np.int64), self._both_levels(ids)

    def _both_levels(self, items: Any) -> npt.NDArray[np.float32]:
        residuals = (self._second_level.residuals[items],) if self._second_level else ()
        decoded: npt.NDArray[np.float32] = self._quantizer.decode(self._codes[items], *residuals)
        return decoded


def _lengths(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Return the lengths of ``vectors``, or None where all are 1 within ``float32``'s rounding."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return None if np.allclose(lengths, 1.0, atol=1e-5) else lengths


reject_methods(AnnoyIndex, annoy.AnnoyIndex)
