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

from mp_plugins import argument_error

__all__ = ["HnswState", "held_bytes"]

# Held for each element beside its record, in hnswlib.h and hnswalg.h: a mutex, an upper-level pointer, a level, and an
# entry of the label map (node of 24 bytes and a bucket).
_ELEMENT_OVERHEAD = 40 + 8 + 4 + 24 + 8


@dataclass(frozen=True)
class HnswState:
    """The content of an ``hnswlib.Index``.

    Attributes:
        space: ``"l2"``, ``"ip"`` or ``"cosine"``.
        settings: ``max_elements``, ``M``, ``ef_construction``, ``ef``, ``num_threads``, ``seed`` and
            ``allow_replace_deleted``.
        level0: ``(n, 1 + 2M)`` ``uint32``, delete marks included.
        element_levels: ``(n,)`` ``int32``, the highest level of each element.
        link_lists: ``uint32``, ``1 + M`` for each element and upper level.
        vectors: ``(n, d)`` ``float32``, normalised by hnswlib for cosine.
        labels: ``(n,)`` ``uint64``.
        entry_point: position of the node that searches start from.
        max_level: its level.
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

    @classmethod
    def of(cls, index: Any) -> HnswState:
        """Read ``index``, an ``hnswlib.Index``, without changing it.

        Raises:
            ArgumentError: nothing in the index.
        """
        (state,) = index.__getstate__()
        if not state["index_inited"] or not state["cur_element_count"]:
            raise argument_error("index", "must hold at least one vector", repr(index), "call add_items() first")
        return cls.of_dict(state)

    @classmethod
    def of_dict(cls, state: dict[str, Any]) -> HnswState:
        """Read the dict of an initiated index, of any number of elements."""
        count = state["cur_element_count"]
        records = state["data_level0"].view(_record_dtype(state))
        levels = np.ascontiguousarray(state["element_levels"][:count], np.int32)
        names = ["max_elements", "M", "ef_construction", "ef", "num_threads", "seed"]
        link_lists = state["link_lists"].view(np.uint32)
        names += ["allow_replace_deleted"] if "allow_replace_deleted" in state else []  # since 0.7
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
        )

    @property
    def deleted(self) -> npt.NDArray[np.bool_]:
        """Whether each element is marked as deleted, ``(n,)``."""
        marked: npt.NDArray[np.bool_] = (self.level0[:, 0] & 0x10000) != 0
        return marked


def held_bytes(dim: int, max_m: int) -> float:
    """Return what hnswlib holds for an element: record, links above level 0 on average, and the overhead."""
    record = 4 * (1 + 2 * max_m) + 4 * dim + 8
    return record + 4 * (1 + max_m) / (max_m - 1) + _ELEMENT_OVERHEAD


def _record_dtype(state: dict[str, Any]) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": ["links", "vector", "label"],
            "formats": [("<u4", (1 + state["max_M0"],)), ("<f4", (state["dim"],)), "<u8"],
            "offsets": [state["offset_level0"], state["offset_data"], state["label_offset"]],
            "itemsize": state["size_data_per_element"],
        }
    )
