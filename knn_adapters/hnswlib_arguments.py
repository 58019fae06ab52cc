"""What the methods of hnswlib's classes take, checked: the type of exception is hnswlib's, the message says more."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import RuntimeArgumentError, as_queries, check_finite, number_error, runtime_error
from knn_adapters.recall import normalised
from mp_plugins import ArgumentError, ArgumentTypeError, argument_error

__all__ = [
    "as_items",
    "as_known_labels",
    "as_label",
    "as_labels",
    "as_size",
    "as_threads",
    "check_dim",
    "not_contiguous",
    "not_initiated",
    "reading",
    "threads_for",
]

_MOST_DIMENSIONS = 65_536
_ROWS_PER_THREAD = 4  # hnswlib works on at most so many rows a thread in one thread


def as_items(data: Any, space: str, dim: int) -> npt.NDArray[np.float32]:
    """Return ``data``, one vector or several, as vectors ``(n, dim)`` to be stored: of length 1 for cosine."""
    try:
        shape = np.shape(data)
    except ValueError:
        shape = (0, dim)  # rows of unequal length, which as_queries() reports
    if len(shape) not in (1, 2):
        raise runtime_error(
            "Input vector data wrong shape",
            "data",
            "must be a 1D or 2D array",
            f"shape {shape}",
            "pass an array (n, d)",
        )
    if shape[-1] != dim:
        raise runtime_error(
            "Wrong dimensionality of the vectors", "data", f"must have dimension {dim}", shape[-1],
            "pass vectors of the dimension that the index was made for",
        )  # fmt: skip
    items = as_queries("data", data, dim)
    check_finite("data", items)
    return normalised(items) if space == "cosine" else items


def as_labels(ids: Any, n: int, first: int) -> npt.NDArray[np.uint64]:
    """Return the labels ``(n,)`` of n vectors, counted from ``first`` where ``ids`` is None."""
    if ids is None:
        return np.arange(first, first + n, dtype=np.uint64)
    labels = _as_uint64("ids", ids)
    if labels.shape != (n,) and not (labels.ndim == 0 and n == 1):
        raise runtime_error(
            "The input label shape does not match the input data vector shape", "ids", f"must hold {n} labels",
            f"shape {labels.shape}", "pass one label for each row of `data`",
        )  # fmt: skip
    return labels.reshape(n)


def as_known_labels(ids: Any) -> npt.NDArray[np.uint64]:
    """Return the labels ``(n,)`` that elements are asked for by."""
    labels = _as_uint64("ids", () if ids is None else ids)
    if labels.ndim == 0:
        raise argument_error(
            "ids", "must be a list of labels", "a single one",
            "get_items accepts a list of indices and returns a list of vectors",
        )  # fmt: skip
    return labels.reshape(-1)


def as_label(label: Any) -> int:
    """Return one label."""
    return as_size("label", label)


def as_size(argument: str, value: Any) -> int:
    """Return a number that hnswlib takes as ``size_t``."""
    try:
        size = operator.index(value)
    except TypeError:
        size = -1
    if not 0 <= size < 2**64:
        raise ArgumentTypeError(f"`{argument}` must be an integer from 0 to 2^64 - 1, got {value!r}: pass such an int")
    return size


def check_dim(dim: Any) -> int:
    """Return the dimension of an index."""
    try:
        checked = operator.index(dim)
    except TypeError:
        raise ArgumentTypeError(f"`dim` must be an integer, got {dim!r}: pass the dimension of the vectors") from None
    if not 1 <= checked <= _MOST_DIMENSIONS:
        raise argument_error("dim", f"must be 1 to {_MOST_DIMENSIONS}", checked, "pass the dimension of the vectors")
    return checked


def as_threads(num_threads: Any) -> int:
    """Return a number of threads; what one below 1 means is the caller's part."""
    if not isinstance(num_threads, (int, np.integer)):
        raise number_error("num_threads", num_threads)
    return int(num_threads)


def threads_for(n: int, num_threads: Any, default: int) -> int:
    """Return the threads that n rows are worth; below 1 ``num_threads`` asks for the default."""
    asked = as_threads(num_threads)
    threads = asked if asked > 0 else default
    return 1 if n <= threads * _ROWS_PER_THREAD else threads


@contextmanager
def reading() -> Iterator[None]:
    """Turn what reading a file raises into hnswlib's type of exception."""
    try:
        yield
    except RuntimeArgumentError:
        raise
    except OSError as error:
        raise runtime_error(
            "Cannot open file", "path_to_index", "must be a file that can be read", repr(error), "check the path"
        ) from error
    except ArgumentError as error:
        raise RuntimeArgumentError(f"Index seems to be corrupted or unsupported: {error}") from error


def not_initiated(method: str) -> Exception:
    """Return the error for a call that comes too early; hnswlib itself crashes there."""
    return runtime_error(
        "The index is not initiated", "self", f"must be initiated before {method}()", "a new index",
        "call init_index() or load_index() first",
    )  # fmt: skip


def not_contiguous() -> RuntimeError:
    """Return the error for a search that found fewer than k."""
    return RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")


def _as_uint64(argument: str, value: Any) -> npt.NDArray[np.uint64]:
    array = np.asarray(value)
    if array.size == 0:
        return array.astype(np.uint64)
    whole = array.dtype.kind == "u" or (array.dtype.kind in "if" and bool((array == np.floor(array)).all()))
    if not whole or bool((array < 0).any()):
        wrong = [label for label in array.reshape(-1).tolist() if not _is_label(label)]
        received = repr(wrong[0]) if wrong else f"an array of {array.dtype}"
        raise argument_error(argument, "must hold whole numbers from 0 to 2^64 - 1", received, "pass integers")
    return array.astype(np.uint64)


def _is_label(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value // 1 and value >= 0
