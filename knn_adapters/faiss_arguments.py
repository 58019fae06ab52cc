"""Checks of what the stand-in for ``faiss`` is called with."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import as_queries, check_finite, number_error, runtime_error
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, argument_error

__all__ = [
    "as_added", "as_codes", "as_ids", "as_row", "as_rows", "check_output", "check_rescore", "check_results",
    "check_span", "delivered", "options_for_codes",
]  # fmt: skip


def as_added(x: Any, dim: int) -> npt.NDArray[np.float32]:
    """Return vectors ``(n, d)`` to be added or trained on, where n may be 0.

    Raises:
        ArgumentError: a wrong shape or dimension, NaN or infinity.
    """
    vectors = as_queries("x", x, dim, single=False)
    check_finite("x", vectors)
    return vectors


def as_codes(codes: Any, size: int) -> npt.NDArray[np.uint8]:
    """Return stand-alone codes ``(n, size)``.

    Raises:
        ArgumentError: another shape or dtype.
    """
    received: npt.NDArray[Any] = np.ascontiguousarray(codes)
    if received.dtype != np.uint8 or received.ndim != 2 or received.shape[1] != size:
        raise argument_error(
            "codes", f"must be uint8 of shape (n, {size})", f"{received.dtype} of shape {received.shape}",
            "pass what sa_encode() returned",
        )  # fmt: skip
    return received


def as_ids(ids: Any, count: int) -> npt.NDArray[np.int64]:
    """Return ``ids`` ``(count,)`` as FAISS wants them.

    Raises:
        ArgumentError: not integers, or not as many.
    """
    found = np.asarray(ids)
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise argument_error(
            "ids", f"must be integers of shape ({count},)", f"{found.dtype} of shape {found.shape}",
            "pass an int64 array with an id a vector",
        )  # fmt: skip
    return np.ascontiguousarray(found, np.int64)


def as_rows(argument: str, keys: Any, count: int) -> npt.NDArray[np.int64]:
    """Return the numbers of vectors ``(m,)`` that are there.

    Raises:
        RuntimeArgumentError: one is not.
        ArgumentError: not integers.
    """
    rows = np.asarray(keys)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise argument_error(argument, "must be integers (m,)", f"{rows.dtype} of shape {rows.shape}", "pass ids")
    wrong = (rows < 0) | (rows >= count)
    if wrong.any():
        raise runtime_error(
            "Error: 'key >= 0 && key < ntotal' failed", argument, f"must be within 0..{count - 1}",
            int(rows[np.argmax(wrong)]), "pass ids of vectors that are there",
        )  # fmt: skip
    return rows.astype(np.int64)


def as_row(argument: str, key: Any, count: int) -> npt.NDArray[np.int64]:
    """Return the number of one vector as :func:`as_rows` does."""
    try:
        return as_rows(argument, [operator.index(key)], count)
    except TypeError:
        raise number_error(argument, key) from None


def check_span(n0: int, count: int, total: int) -> None:
    """Refuse vectors ``n0`` to ``n0 + count - 1`` of which not all are among ``total``.

    Raises:
        RuntimeArgumentError: they are not.
    """
    if count and not 0 <= n0 <= n0 + count <= total:
        raise runtime_error(
            "Error: 'ni == 0 || (i0 >= 0 && i0 + ni <= ntotal)' failed", "ni", f"must end within {total}",
            f"{count} from {n0} on", "ask for vectors that are there",
        )  # fmt: skip


def options_for_codes(original: Any, options: WrapOptions, bits: int) -> WrapOptions:
    """Return ``options`` for ``original``, which has codes of ``bits`` already; refuse what asks for others."""
    if options.calibration is not None:
        raise argument_error("calibration", "must be left out", "vectors", "codes that exist keep their range")
    if options.asks_for_bits and options.bits != bits:
        raise argument_error("bits", f"must be left out or {bits}", options.bits, "codes that exist stay as they are")
    check_rescore(original, options)
    return replace(options, bits=bits)


def check_rescore(original: Any, options: WrapOptions) -> None:
    """Refuse a second level where there cannot be one: beside inverted lists, or codes whose vectors are gone."""
    if options.rescore != "none":
        raise UnsupportedError(
            f"a FAISS {type(original).__name__} with rescore={options.rescore!r} is not yet supported: "
            "use rescore='none', inside a faiss.IndexRefineFlat to keep the vectors"
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


def check_results(distances: Any, ids: Any, shape: tuple[int, int]) -> None:
    """Refuse arrays ``D`` and ``I`` that results of ``shape`` ``(q, k)`` cannot be written to."""
    check_output("D", distances, shape, np.float32)
    check_output("I", ids, shape, np.int64)


def delivered(values: npt.NDArray[Any], target: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return ``values``, in ``target`` if there is one."""
    if target is None:
        return values
    target[...] = values
    return target
