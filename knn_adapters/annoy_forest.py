"""Annoy's forest as the arrays that :class:`knn_adapters._core.ForestSearcher` walks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knn_adapters.annoy_nodes import Nodes

__all__ = ["PLANE_ZERO_POINT", "Forest"]

PLANE_ZERO_POINT = 128
_PLANE_LEVELS = 127
_BLOCK = 8192  # nodes converted at once, to bound the float copies


@dataclass(frozen=True)
class Forest:
    """Split planes as codes, and leaves as lists of items.

    Attributes:
        plane_codes: ``(p, d)`` ``uint8``; ``v ~ plane_scale * (code - 128)``.
        plane_scale: ``(p,)`` ``float32``.
        plane_bias: ``(p,)`` ``float32``.
        children: ``(p, 2)`` ``int32``; a plane, or leaf ``-1 - value``.
        leaf_offsets: ``(leaves + 1,)`` ``uint32``.
        leaf_items: ``int32``.
        roots: ``(n_trees,)`` ``int32``, encoded as children are.
    """

    plane_codes: npt.NDArray[np.uint8]
    plane_scale: npt.NDArray[np.float32]
    plane_bias: npt.NDArray[np.float32]
    children: npt.NDArray[np.int32]
    leaf_offsets: npt.NDArray[np.uint32]
    leaf_items: npt.NDArray[np.int32]
    roots: npt.NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values())

    @classmethod
    def of(cls, nodes: Nodes) -> Forest:
        """Convert ``nodes``.

        Only what can be reached from the roots is taken over: a built tree holds each root twice.
        """
        records = nodes.records
        descendants = np.asarray(records["n_descendants"])
        is_plane = descendants > nodes.capacity
        is_plane[: nodes.n_items] = False
        roots = nodes.roots
        # Every node but the roots' first copies is the child of a plane.
        reachable = np.zeros(len(records), np.bool_)
        reachable[roots] = True
        all_planes = np.flatnonzero(is_plane)
        reachable[records["children"][all_planes]] = True
        planes = np.flatnonzero(is_plane & reachable)
        leaves = np.flatnonzero(~is_plane & reachable)
        encoded = np.zeros(len(records), np.int32)
        encoded[planes] = np.arange(len(planes))
        encoded[leaves] = -1 - np.arange(len(leaves))
        offsets, items = _leaf_lists(nodes, leaves, descendants)
        codes, scale = _plane_codes(nodes, planes)
        return cls(
            plane_codes=codes,
            plane_scale=scale,
            plane_bias=np.ascontiguousarray(nodes.plane_bias(planes)),
            children=np.ascontiguousarray(encoded[records["children"][planes]].reshape(-1, 2)),
            leaf_offsets=offsets,
            leaf_items=items,
            roots=np.ascontiguousarray(encoded[roots]),
        )


def _leaf_lists(
    nodes: Nodes, leaves: npt.NDArray[np.int64], descendants: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
    """Return ``(leaf_offsets, leaf_items)``; an item that is the child of a plane becomes a leaf of one.

    A root counts holes among its descendants, so its list may be longer than what was written to it: ids that are no
    item are left out, as Annoy leaves them out when it scores.
    """
    present, lists, counts = nodes.present, [], []
    for start in range(0, len(leaves), _BLOCK):
        block = leaves[start : start + _BLOCK]
        ids = np.array(nodes.records["ids"][block])
        listed = np.arange(nodes.capacity) < descendants[block, np.newaxis]
        is_item = block < nodes.n_items
        ids[is_item, 0] = block[is_item]
        listed &= (ids >= 0) & (ids < nodes.n_items)
        listed &= present[np.where(listed, ids, 0)]
        lists.append(ids[listed])
        counts.append(listed.sum(axis=1))
    offsets = np.zeros(len(leaves) + 1, np.uint32)
    if lists:
        np.cumsum(np.concatenate(counts), out=offsets[1:])
    items = np.concatenate(lists) if lists else np.empty(0, np.int32)
    return offsets, np.ascontiguousarray(items, np.int32)


def _plane_codes(nodes: Nodes, planes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return codes 1..255 and the step of each plane, its largest coordinate over 127."""
    codes = np.empty((len(planes), nodes.records["vector"].shape[1]), np.uint8)
    scale = np.empty(len(planes), np.float32)
    for start in range(0, len(planes), _BLOCK):
        vectors = nodes.records["vector"][planes[start : start + _BLOCK]]
        step = np.abs(vectors).max(axis=1) / np.float32(_PLANE_LEVELS)
        # A plane of zeros, which Annoy writes when it found none, has no step; its codes are all the zero point.
        divisor = np.where(step > 0.0, step, np.float32(1.0))[:, np.newaxis]
        scale[start : start + _BLOCK] = step
        codes[start : start + _BLOCK] = np.rint(vectors / divisor) + PLANE_ZERO_POINT
    return codes, scale
