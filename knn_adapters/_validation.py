"""Checks of user input, shared by all adapters; each message names argument, rule, value received and remedy."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_plugins import ArgumentError, argument_error

__all__ = [
    "ItemError",
    "RuntimeArgumentError",
    "as_queries",
    "as_values",
    "as_vectors",
    "check_choice",
    "check_finite",
    "check_k",
    "has_missing",
    "number_error",
    "runtime_error",
]


class ItemError(ArgumentError, IndexError):
    """An argument breaks a rule for which the library that it is meant for raises ``IndexError``."""


class RuntimeArgumentError(ArgumentError, RuntimeError):
    """An argument breaks a rule for which the library that it is meant for raises ``RuntimeError``."""


def runtime_error(says: str, argument: str, rule: str, received: object, remedy: str) -> RuntimeArgumentError:
    """Return the error for a broken rule, in the words of the library, which callers may look for, then in ours."""
    return RuntimeArgumentError(f"{says}: `{argument}` {rule}, got {received}: {remedy}")


def as_vectors(argument: str, value: Any, *, dim: int | None = None) -> npt.NDArray[np.float32]:
    """Return ``value`` as a non-empty C-contiguous ``float32`` matrix ``(n, d)`` of finite numbers.

    Raises:
        ArgumentError: not numeric, not two-dimensional, without rows or columns, of another dimension than ``dim``, or
            holding NaN or infinity.
    """
    vectors = as_values(argument, value)
    if vectors.ndim != 2 or vectors.size == 0:
        raise argument_error(
            argument, "must be a matrix of at least one vector", f"shape {vectors.shape}", "pass an array (n, d)"
        )
    _check_dim(argument, vectors, dim)
    check_finite(argument, vectors)
    return vectors


def as_queries(argument: str, value: Any, dim: int, *, single: bool = True) -> npt.NDArray[np.float32]:
    """Return ``value`` as a C-contiguous ``float32`` matrix ``(q, d)``, where q may be 0.

    Whether the numbers are finite is left to what reads them: :func:`check_finite`, or the core, which refuses them.

    Args:
        argument: name for the messages.
        value: the queries.
        dim: dimension of the index.
        single: whether one vector ``(d,)`` is taken too, as one row.

    Raises:
        ArgumentError: not numeric, or of another dimension than ``dim``.
    """
    queries = as_values(argument, value)
    if single and queries.ndim == 1:
        queries = queries[np.newaxis]
    if queries.ndim != 2:
        raise argument_error(
            argument, "must be a matrix of vectors", f"shape {queries.shape}", f"pass an array (q, {dim})"
        )
    _check_dim(argument, queries, dim)
    return queries


def has_missing(ids: npt.NDArray[np.int64]) -> bool:
    """Whether a search found fewer than k for any row of ``ids`` ``(q, k)``: slots fill from the front."""
    # A look at one number instead of a reduction, which costs more than the rest of a single query's wrapper.
    return bool(ids[0, -1] < 0) if len(ids) == 1 else bool((ids[:, -1] < 0).any())


def as_values(argument: str, value: Any) -> npt.NDArray[np.float32]:
    """Return ``value`` as a C-contiguous ``float32`` array of any shape.

    Raises:
        ArgumentError: not numeric, or rows of unequal length.
    """
    if type(value) is np.ndarray and value.dtype == np.float32 and value.flags.c_contiguous:
        return value
    try:
        # Values beyond float32's range become infinite here and are reported by check_finite.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise argument_error(
            argument, "must be numbers in a rectangular array", f"a {type(value).__name__}", "pass a float32 array"
        ) from None


def check_finite(argument: str, vectors: npt.NDArray[np.float32]) -> None:
    """Raise an ``ArgumentError`` that says where ``vectors`` first holds NaN or infinity."""
    finite = np.isfinite(vectors)
    if not finite.all():
        position = np.unravel_index(int(np.argmin(finite)), vectors.shape)
        where = ", ".join(str(int(axis)) for axis in position)
        raise argument_error(
            argument, "must hold finite numbers", f"{vectors[position]} at [{where}]", "remove or repair that vector"
        )


def check_k(argument: str, value: Any) -> int:
    """Return ``value`` as an ``int`` of at least 1."""
    try:
        k = operator.index(value)
    except TypeError:
        raise number_error(argument, value) from None
    if k < 1:
        raise argument_error(argument, "must be at least 1", k, "pass the number of neighbours that you want")
    return k


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise argument_error(argument, f"must be one of {', '.join(choices)}", repr(value), "choose one of them")
    return value


def number_error(argument: str, value: object) -> ArgumentError:
    """Return the error for a value that is no integer."""
    return argument_error(argument, "must be an integer", repr(value), "pass an int")


def _check_dim(argument: str, vectors: npt.NDArray[np.float32], dim: int | None) -> None:
    if dim is not None and vectors.shape[1] != dim:
        raise argument_error(
            argument, f"must have dimension {dim}", vectors.shape[1], "pass vectors of the same model as the index's"
        )
