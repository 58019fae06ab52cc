"""What searches of the stand-in for ``faiss`` take beside queries and k, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters.libraries import original
from mp_plugins import argument_error

__all__ = ["as_assignment", "as_numeric", "as_radius"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_NUMERIC_TYPES: dict[Any, type] = {
    getattr(faiss, name): dtype
    for name, dtype in {"Float32": np.float32, "Float16": np.float16, "UInt8": np.uint8, "Int8": np.int8}.items()
    if hasattr(faiss, name)  # those of the newest versions
}


def as_numeric(argument: str, value: Any, numeric_type: Any) -> Any:
    """Return ``value`` as what ``numeric_type`` says that it is.

    FAISS' own indexes of these classes refuse all but ``faiss.Float32``.

    Raises:
        ArgumentError: another type, or numbers that an integer type cannot hold.
    """
    if numeric_type is None:
        return value
    if numeric_type not in _NUMERIC_TYPES:
        known = "faiss.Float32, Float16, UInt8 or Int8"
        raise argument_error("numeric_type", f"must be {known}", repr(numeric_type), "leave it out for float32")
    dtype = _NUMERIC_TYPES[numeric_type]
    given = np.asarray(value)
    if given.dtype == dtype or dtype == np.float32:
        return given
    if dtype != np.float16 and given.size:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if given.dtype.kind not in "iuf" or not np.all((given >= least) & (given <= most) & (given == np.rint(given))):
            raise argument_error(
                argument, f"must hold whole numbers from {least} to {most}", f"{given.dtype} with others",
                "leave numeric_type out",
            )  # fmt: skip
    return given.astype(dtype)


def as_radius(argument: str, value: Any) -> float:
    """Return ``value`` as a ``float32`` number in a ``float``; infinity is one.

    Raises:
        ArgumentError: no number, or NaN.
    """
    try:
        with np.errstate(over="ignore"):
            radius = float(np.float32(value))
    except (TypeError, ValueError):
        raise argument_error(argument, "must be a number", repr(value), "pass a distance or similarity") from None
    if radius != radius:
        raise argument_error(argument, "must be a number", "nan", "pass a distance or similarity")
    return radius


def as_assignment(argument: str, value: Any, shape: tuple[int, int], dtype: type) -> npt.NDArray[Any]:
    """Return ``value``, what a coarse quantizer found, as an array ``(q, nprobe)``.

    Raises:
        ArgumentError: another shape, or no numbers.
    """
    try:
        array: npt.NDArray[Any] = np.ascontiguousarray(value, dtype=dtype)
    except (TypeError, ValueError):
        raise argument_error(argument, "must be numbers", f"a {type(value).__name__}", "pass an array") from None
    if array.shape != shape:
        raise argument_error(
            argument,
            f"must have shape {shape}, (queries, nprobe)",
            array.shape,
            "search the coarse quantizer for nprobe",
        )
    return array
