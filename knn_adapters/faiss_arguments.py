"""Checks of what the stand-in for ``faiss`` is called with."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, argument_error

__all__ = ["check_8_bits", "check_output", "delivered"]


def check_8_bits(original: Any, options: WrapOptions) -> None:
    """Refuse what indexes with inverted lists, or with codes of their own, cannot have."""
    if options.bits != 8 or options.rescore != "none":
        raise UnsupportedError(
            f"a FAISS {type(original).__name__} with bits={options.bits}, rescore={options.rescore!r} is not yet "
            "supported: use bits=8 and rescore='none'"
        )


def check_output(name: str, array: npt.NDArray[Any] | None, shape: tuple[int, int], dtype: type) -> None:
    """Refuse an array that results cannot be written to."""
    if array is not None and (array.shape != shape or array.dtype != dtype):
        raise argument_error(
            name, f"must be {dtype.__name__} of shape {shape}", f"{array.dtype} of shape {array.shape}", "leave it out"
        )


def delivered(values: npt.NDArray[Any], target: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return ``values``, in ``target`` if there is one."""
    if target is None:
        return values
    target[...] = values
    return target
