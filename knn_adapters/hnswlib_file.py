"""hnswlib's own file format (0.7 and 0.8, ``hnswlib/hnswalg.h``): what it must hold, and how it is written.

Little-endian, without a magic: the header below, a record for each element (links of level 0, vector, label), then for
each element the size of its links above level 0 in bytes, ``uint32``, and these links.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import runtime_error

__all__ = ["check_header", "dimension_of", "write"]

_HEADER = np.dtype(
    [
        ("offset_level0", "<u8"),
        ("max_elements", "<u8"),
        ("count", "<u8"),
        ("record_size", "<u8"),
        ("label_offset", "<u8"),
        ("data_offset", "<u8"),
        ("max_level", "<i4"),
        ("entry_point", "<u4"),
        ("max_m", "<u8"),
        ("max_m0", "<u8"),
        ("m", "<u8"),
        ("level_factor", "<f8"),
        ("ef_construction", "<u8"),
    ]
)


def check_header(path: str | os.PathLike[str], dim: int) -> None:
    """Raise a ``RuntimeArgumentError`` unless the file can be an index of this dimension, which hnswlib doesn't ask."""
    found = dimension_of(path)
    if found != dim:
        raise runtime_error(
            "Wrong dimensionality of the vectors", "path_to_index", f"must hold vectors of dimension {dim}",
            str(found), "make the index with the dimension that it was saved with",
        )  # fmt: skip


def dimension_of(path: str | os.PathLike[str]) -> int:
    """Return the dimension of the vectors in the file; raise a ``RuntimeArgumentError`` unless it can be an index."""
    size = Path(path).stat().st_size
    content = np.fromfile(path, _HEADER, 1) if size >= _HEADER.itemsize else np.empty(0, _HEADER)
    if not len(content):
        raise _corrupted(f"a file of {size} bytes")
    header = {name: content[name][0].item() for name in _HEADER.names or ()}
    links = 4 + 4 * header["max_m0"]
    expected = {"offset_level0": 0, "data_offset": links, "max_m0": 2 * header["m"], "max_m": header["m"]}
    wrong = [name for name, value in expected.items() if header[name] != value]
    dim, rest = divmod(header["label_offset"] - header["data_offset"], 4)
    if wrong or rest or dim < 1 or header["record_size"] != header["label_offset"] + 8 or header["count"] > size:
        raise _corrupted(f"a header whose {(wrong or ['record_size'])[0]} makes no sense")
    return int(dim)


def write(
    path: str | os.PathLike[str],
    *,
    vectors: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint64],
    arrays: dict[str, Any],
    max_m: int,
    ef_construction: int,
    capacity: int,
) -> None:
    """Write vectors ``(n, d)``, labels ``(n,)`` and a graph, ``arrays`` as ``_core.HnswGraph.arrays`` returns it."""
    n, dim = vectors.shape
    links = 4 * (1 + 2 * max_m)
    record = np.dtype(
        [("links", "<u4", (1 + 2 * max_m,)), ("vector", "<f4", (dim,)), ("label", "<u8")]
    )  # packed, as hnswlib has it
    header = np.array(
        (
            0, capacity, n, record.itemsize, links + 4 * dim, links, arrays["max_level"],
            arrays["entry_point"] % 2**32, max_m, 2 * max_m, max_m, 1 / math.log(max_m), ef_construction,
        ),
        _HEADER,
    )  # fmt: skip
    records = np.empty(n, record)
    records["links"], records["vector"], records["label"] = arrays["level0"], vectors, labels
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(header.tobytes())
            records.tofile(file)
            _upper_blocks(arrays["element_levels"], arrays["link_lists"], 1 + max_m).tofile(file)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _upper_blocks(
    levels: npt.NDArray[np.int32], link_lists: npt.NDArray[np.uint32], block: int
) -> npt.NDArray[np.uint32]:
    """Return the links above level 0, each element's behind their size in bytes."""
    words = levels.astype(np.int64) * block
    size_at = np.cumsum(1 + words) - 1 - words
    merged = np.empty(len(levels) + len(link_lists), "<u4")
    is_link = np.ones(len(merged), np.bool_)
    is_link[size_at] = False
    merged[size_at] = 4 * words
    merged[is_link] = link_lists
    return merged


def _corrupted(received: str) -> Exception:
    return runtime_error(
        "Index seems to be corrupted or unsupported", "path_to_index", "must be an index of hnswlib or of this package",
        received, "save it again",
    )  # fmt: skip
