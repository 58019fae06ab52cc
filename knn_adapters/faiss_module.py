"""The functions of FAISS that make, write or unwrap indexes, for indexes of ours and of FAISS."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters.faiss_classes import Ours, taken_over_or_original
from knn_adapters.libraries import original

__all__ = [
    "clone_index", "deserialize_index", "downcast_index", "extract_index_ivf", "index_factory", "read_index",
    "serialize_index", "try_extract_index_ivf", "write_index",
]  # fmt: skip

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")


def index_factory(*arguments: Any, **named: Any) -> Any:
    """Return what ``faiss.index_factory`` makes of ``(d, description, metric)``, as an index of ours.

    What we have no class for is FAISS' own, with one warning.
    """
    return taken_over_or_original(faiss.index_factory(*arguments, **named))


def read_index(*arguments: Any) -> Any:
    """Return the index of a file or reader, as ``faiss.read_index`` takes it, as one of ours.

    Codes of 8 or 4 bits are searched as they are. Float vectors are encoded, unless they are too few to find a range
    for. What we have no class for is FAISS' own, with one warning.
    """
    return taken_over_or_original(faiss.read_index(*arguments))


def write_index(index: Any, *arguments: Any) -> None:
    """Write ``index`` to a file or writer, in the format of FAISS, which finds the same neighbours in it.

    An index that holds too few vectors for a quantizer, or keeps them beside their codes (``rescore="original"``), is
    written as the index of float vectors that it stands for.
    """
    faiss.write_index(_stock(index), *arguments)


def serialize_index(index: Any, *arguments: Any) -> npt.NDArray[np.uint8]:
    """Return what :func:`write_index` writes, as an array."""
    written: npt.NDArray[np.uint8] = faiss.serialize_index(_stock(index), *arguments)
    return written


def deserialize_index(data: npt.NDArray[np.uint8], *arguments: Any) -> Any:
    """Return the index of what :func:`serialize_index` returned, as :func:`read_index` does."""
    return taken_over_or_original(faiss.deserialize_index(data, *arguments))


def clone_index(index: Any) -> Any:
    """Return a copy of ``index``, of its own class."""
    if not isinstance(index, Ours):
        return faiss.clone_index(index)
    return copy.deepcopy(index)


def downcast_index(index: Any) -> Any:
    """Return ``index`` as its own class, which an index of ours is already."""
    return index if isinstance(index, Ours) else faiss.downcast_index(index)


def extract_index_ivf(index: Any) -> Any:
    """Return the index of inverted lists that is in ``index``.

    Raises:
        RuntimeError: there is none.
    """
    found = _find_ivf(index)
    return faiss.extract_index_ivf(index) if found is None else found


def try_extract_index_ivf(index: Any) -> Any:
    """Return the index of inverted lists that is in ``index``; None if there is none."""
    found = _find_ivf(index)
    return faiss.try_extract_index_ivf(index) if found is None else found


def _find_ivf(index: Any) -> Any:
    while isinstance(index, Ours) and not isinstance(index, faiss.IndexIVF):
        index = getattr(index, "_inner", None)
    return index if isinstance(index, Ours) else None


def _stock(index: Any) -> Any:
    return index._stock() if isinstance(index, Ours) else index
