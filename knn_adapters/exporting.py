"""``export()``: a wrapped index as a file that the library itself reads."""

from __future__ import annotations

import os
from typing import Any

from knn_adapters.wrapping import find_adapter
from mp_plugins import argument_error

__all__ = ["export"]


def export(index: Any, path: str | os.PathLike[str]) -> None:
    """Write ``index`` to ``path`` in the format of the library that it stands in for.

    The file holds the graph and, in place of the original vectors, those that the codes stand for, so that the library
    finds the same neighbours in it. The file is complete or as it was before.

    Raises:
        ArgumentError: the index is not wrapped.
        UnsupportedError: no adapter handles it, or its adapter can't export.
        OSError: the file cannot be written.

    Example:
        >>> knn_adapters.export(index, "index.bin")
        >>> plain = hnswlib.Index("cosine", dim)
        >>> plain.load_index("index.bin")
    """
    adapter = find_adapter(index)
    if not adapter.is_wrapped(index):
        raise argument_error("index", "must be wrapped", repr(index), "save it with its own library")
    adapter.export(index, path)
