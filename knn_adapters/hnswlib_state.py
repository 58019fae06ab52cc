"""hnswlib's pickle state as arrays: the only way to its graph besides a saved file.

``hnswlib.Index.__getstate__`` (0.7 and 0.8, ``python_bindings/bindings.cpp``) returns a 1-tuple with a dict of copies.
``data_level0`` holds a record for each element: the link block of level 0 (``uint32``: link count in the low 16 bits,
delete mark in bit 16; then 2M ids), the vector, the label. ``link_lists`` holds the blocks of the upper levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_plugins import UnsupportedError, argument_error

__all__ = ["HnswState"]

# Held for each element beside its record, in hnswlib.h and hnswalg.h: a mutex, an upper-level pointer, a level, and an
# entry of the label map (node of 24 bytes and a bucket).
_ELEMENT_OVERHEAD = 40 + 8 + 4 + 24 + 8


@dataclass(frozen=True)
class HnswState:
    """The content of an ``hnswlib.Index``.

    Attributes:
        space: ``"l2"``, ``"ip"`` or ``"cosine"``.
        settings: ``max_elements``, ``M``, ``ef_construction``, ``ef``, ``num_threads``, ``seed``.
        level0: ``(n, 1 + 2M)`` ``uint32``.
        element_levels: ``(n,)`` ``int32``, the highest level of each element.
        link_lists: ``uint32``, ``1 + M`` for each element and upper level.
        vectors: ``(n, d)`` ``float32``, normalised by hnswlib for cosine.
        labels: ``(n,)`` ``uint64``.
        entry_point: position of the node that searches start from.
        max_level: its level.
        original_bytes: what hnswlib holds for all elements.
    """

    space: str
    settings: dict[str, int]
    level0: npt.NDArray[np.uint32]
    element_levels: npt.NDArray[np.int32]
    link_lists: npt.NDArray[np.uint32]
    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint64]
    entry_point: int
    max_level: int
    original_bytes: int

    @classmethod
    def of(cls, index: Any) -> HnswState:
        """Read ``index``, an ``hnswlib.Index``, without changing it.

        Raises:
            ArgumentError: nothing in the index.
            UnsupportedError: elements are marked as deleted.
        """
        (state,) = index.__getstate__()
        if not state["index_inited"] or not state["cur_element_count"]:
            raise argument_error("index", "must hold at least one vector", repr(index), "call add_items() first")
        if state["has_deletions"]:
            raise UnsupportedError(
                "an hnswlib.Index with elements marked as deleted is not yet supported: "
                "unmark them, or build an index without them"
            )
        return cls._from_dict(state)

    @classmethod
    def _from_dict(cls, state: dict[str, Any]) -> HnswState:
        count = state["cur_element_count"]
        records = state["data_level0"].view(_record_dtype(state))
        levels = np.ascontiguousarray(state["element_levels"][:count], np.int32)
        names = ("max_elements", "M", "ef_construction", "ef", "num_threads", "seed")
        link_lists = state["link_lists"].view(np.uint32)
        return cls(
            space=state["space"],
            settings={name: int(state[name]) for name in names},
            level0=np.ascontiguousarray(records["links"]),
            element_levels=levels,
            link_lists=np.ascontiguousarray(link_lists),
            vectors=np.ascontiguousarray(records["vector"]),
            labels=np.ascontiguousarray(records["label"]),
            entry_point=int(state["enterpoint_node"]),
            max_level=int(state["max_level"]),
            original_bytes=records.nbytes + link_lists.nbytes + count * _ELEMENT_OVERHEAD,
        )


def _record_dtype(state: dict[str, Any]) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": ["links", "vector", "label"],
            "formats": [("<u4", (1 + state["max_M0"],)), ("<f4", (state["dim"],)), "<u8"],
            "offsets": [state["offset_level0"], state["offset_data"], state["label_offset"]],
            "itemsize": state["size_data_per_element"],
        }
    )
