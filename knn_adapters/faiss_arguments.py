"""Checks of what the stand-in for ``faiss`` is called with."""

from __future__ import annotations

from typing import Any

import numpy as np
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


def check_output(name: str, array: npt.NDArray[Any] | None, shape: tuple[int, ...], dtype: type) -> None:
    """Refuse what results cannot be written to."""
    if array is None:
        return
    rule = f"must be {dtype.__name__} of shape {shape}"
    if not isinstance(array, np.ndarray):
        raise argument_error(name, rule, f"a {type(array).__name__}", "pass a numpy array or leave it out")
    if array.shape != shape or array.dtype != dtype:
        raise argument_error(name, rule, f"{array.dtype} of shape {array.shape}", "leave it out")
    if not array.flags.writeable:
        raise argument_error(name, "must be writeable", "a read-only array", "leave it out")


def delivered(values: npt.NDArray[Any], target: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return ``values``, in ``target`` if there is one."""
    if target is None:
        return values
    target[...] = values
    return target
