"""A forest written as Annoy's own file, for :func:`knn_adapters.export`; its layout is in ``annoy_nodes``.

Items hold the vectors that their codes stand for, planes the normals of theirs. Annoy's rule that a node with at most
``capacity`` descendants is a list of them depends on the layout, so trees of another layout are brought to it: a small
tree becomes one list, a list that is too long is parted at random.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import storage
from knn_adapters.annoy_forest import PLANE_ZERO_POINT, Forest
from knn_adapters.annoy_nodes import native_dtype

__all__ = ["write"]

_BLOCK = 8192  # records that are made at once


def write(
    path: str | os.PathLike[str],
    forest: Forest,
    metric: str,
    present: npt.NDArray[np.bool_],
    vectors: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
) -> None:
    """Write the file; it is complete or as it was before.

    Args:
        path: the file.
        forest: the trees.
        metric: Annoy's name of it.
        present: which items were added, ``(n,)``.
        vectors: gives the vectors ``(m, d)`` of m items.

    Raises:
        OSError: it cannot be written.
    """
    dtype = native_dtype(forest.plane_codes.shape[1], metric)
    nodes = _Trees(forest, dtype, metric, len(present)).records()
    largest = _largest_square(present, vectors) if metric == "dot" else 0.0
    with storage.replacing(path) as partial, partial.open("wb") as file:
        for start in range(0, len(present), _BLOCK):
            items = np.arange(start, min(start + _BLOCK, len(present)))
            _item_records(vectors(items), present[items], dtype, metric, largest).tofile(file)
        nodes.tofile(file)


def _largest_square(
    present: npt.NDArray[np.bool_], vectors: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
) -> float:
    blocks = (np.arange(start, min(start + _BLOCK, len(present))) for start in range(0, len(present), _BLOCK))
    return max((float(_squares(vectors(items))[present[items]].max(initial=0.0)) for items in blocks), default=0.0)


def _squares(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    squares: npt.NDArray[np.float32] = np.einsum("ij,ij->i", vectors, vectors)
    return squares


def _item_records(
    vectors: npt.NDArray[np.float32],
    present: npt.NDArray[np.bool_],
    dtype: np.dtype[np.void],
    metric: str,
    largest: float,
) -> npt.NDArray[Any]:
    records = np.zeros(len(vectors), dtype)
    records["n_descendants"] = present
    records["vector"] = np.where(present[:, np.newaxis], vectors, np.float32(0.0))
    squares = _squares(records["vector"])
    if metric == "angular":
        records["squared_norm"] = squares
    elif metric == "dot":
        records["bias"] = np.sqrt(np.maximum(np.float32(largest) - squares, 0.0))
        if "norm" in (dtype.names or ()):
            records["norm"], records["built"] = largest, 1
    return records


class _Trees:
    """Numbers the nodes behind the items: children before parents, one root of the last tree, then all roots.

    Annoy drops the first of the nodes that count all items if it has the children of the last.
    """

    def __init__(self, forest: Forest, dtype: np.dtype[np.void], metric: str, n_items: int) -> None:
        self.forest, self.dtype, self.metric, self.n_items = forest, dtype, metric, n_items
        self.capacity = int(dtype["ids"].shape[0])
        self.made: list[tuple[int, int, list[int] | npt.NDArray[np.int32]]] = []
        """Of each node: descendants, plane (-1 for a list, -2 for a plane without a normal), children or ids."""
        self.counts = self._counts()

    def records(self) -> npt.NDArray[Any]:
        """Return the nodes."""
        roots = [self._root(int(root)) for root in self.forest.roots]
        self.made += [*roots[-1:], *roots]
        records = np.zeros(len(self.made), self.dtype)
        for position, (count, plane, below) in enumerate(self.made):
            records["n_descendants"][position] = count
            records["children" if plane != -1 else "ids"][position, : len(below)] = below
        planes = np.array([plane for _, plane, _ in self.made], np.int64)
        self._fill_planes(records, np.flatnonzero(planes >= 0), planes[planes >= 0])
        return records

    def _fill_planes(
        self, records: npt.NDArray[Any], positions: npt.NDArray[np.int64], planes: npt.NDArray[np.int64]
    ) -> None:
        forest = self.forest
        for start in range(0, len(planes), _BLOCK):
            at, these = positions[start : start + _BLOCK], planes[start : start + _BLOCK]
            normals = forest.plane_codes[these].astype(np.float32) - np.float32(PLANE_ZERO_POINT)
            records["vector"][at] = normals * forest.plane_scale[these, np.newaxis]
            if self.metric != "angular":
                bias = forest.plane_bias[these]
                records["bias"][at] = np.sqrt(bias) if self.metric == "dot" else bias

    def _counts(self) -> list[int]:
        """Return the number of items below each plane; children are not always numbered behind their parents."""
        sizes = np.diff(self.forest.leaf_offsets.astype(np.int64)).tolist()
        children: list[list[int]] = self.forest.children.tolist()
        counts = [-1] * len(children)
        for root in self.forest.roots.tolist():
            stack = [root] if root >= 0 else []
            while stack:
                open_planes = [child for child in children[stack[-1]] if child >= 0 and counts[child] < 0]
                if open_planes:
                    stack += open_planes
                    continue
                plane = stack.pop()
                counts[plane] = sum(counts[child] if child >= 0 else sizes[-1 - child] for child in children[plane])
        return counts

    def _items(self, node: int) -> npt.NDArray[np.int32]:
        """Return the items below ``node``, encoded as children of a forest are."""
        stack, parts = [node], []
        while stack:
            at = stack.pop()
            if at >= 0:
                stack += self.forest.children[at].tolist()
            else:
                begin, end = self.forest.leaf_offsets[-1 - at], self.forest.leaf_offsets[-at]
                parts.append(self.forest.leaf_items[begin:end])
        return np.concatenate(parts)

    def _root(self, node: int) -> tuple[int, int, list[int] | npt.NDArray[np.int32]]:
        """Return a root, which counts gaps among its descendants, without numbering it."""
        if self.n_items <= self.capacity:
            items = self._items(node)
            # The list is as long as there are items and gaps; what stands twice is found once.
            return self.n_items, -1, np.resize(items, self.n_items) if len(items) else items
        if node < 0:
            return self.n_items, -2, self._parted(self._items(node))
        return self.n_items, node, [self._node(child) for child in self.forest.children[node].tolist()]

    def _node(self, node: int) -> int:
        """Number a node with what is below it, deepest first, and return its number."""
        numbers: dict[int, int] = {}
        stack = [node]
        while stack:
            at = stack[-1]
            count = self._count(at)
            if at < 0 or count <= self.capacity:
                numbers[stack.pop()] = self._listed(self._items(at))
                continue
            below = self.forest.children[at].tolist()
            missing = [child for child in below if child not in numbers]
            if missing:
                stack += missing
                continue
            numbers[stack.pop()] = self._add(count, at, [numbers[child] for child in below])
        return numbers[node]

    def _count(self, node: int) -> int:
        if node >= 0:
            return self.counts[node]
        return int(self.forest.leaf_offsets[-node]) - int(self.forest.leaf_offsets[-1 - node])

    def _listed(self, items: npt.NDArray[np.int32]) -> int:
        """Return the number of a node for ``items``: the item itself where it is one."""
        if len(items) == 1:
            return int(items[0])
        if len(items) <= self.capacity:
            return self._add(len(items), -1, items)
        return self._add(len(items), -2, self._parted(items))

    def _parted(self, items: npt.NDArray[np.int32]) -> list[int]:
        return [self._listed(part) for part in np.array_split(items, 2)]

    def _add(self, count: int, plane: int, below: list[int] | npt.NDArray[np.int32]) -> int:
        self.made.append((count, plane, below))
        return self.n_items + len(self.made) - 1
