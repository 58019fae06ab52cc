"""What the methods of an ``AnnoyIndex`` take, checked: the type of exception is Annoy's, the message says more."""

from __future__ import annotations

import operator
import os
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import ItemError, check_finite
from mp_plugins import ArgumentError, ArgumentTypeError, argument_error

__all__ = [
    "FileArgumentError",
    "as_finite_vector",
    "as_flag",
    "as_int",
    "as_item",
    "as_jobs",
    "as_new_item",
    "as_path",
    "as_trees",
    "as_vector",
    "file_error",
    "opening",
    "packer",
    "refused",
]

_LARGEST = 2**31 - 1


class FileArgumentError(ArgumentError, OSError):
    """A file that cannot be what it should; Annoy raises ``OSError`` for it."""


class RangeArgumentError(ArgumentError, OverflowError):
    """An integer beyond 32 bits; Annoy raises ``OverflowError`` for it."""


def refused(says: str, rule: str, received: str, remedy: str) -> ArgumentError:
    """Return the error for a call that the state of the index forbids, in Annoy's words first."""
    return ArgumentError(f"{says}: the index {rule}, got {received}: {remedy}")


def file_error(says: str, rule: str, received: object, remedy: str) -> FileArgumentError:
    """Return the error for a file, in Annoy's words first."""
    return FileArgumentError(f"{says}: `fn` {rule}, got {received}: {remedy}")


@contextmanager
def opening(path: str) -> Iterator[None]:
    """Turn what the system, or a file of ours, answers into Annoy's type of exception."""
    try:
        yield
    except FileArgumentError:
        raise
    except OSError as error:
        says = f"Unable to open: {error.strerror} ({error.errno})" if error.strerror else str(error)
        raise file_error(says, "must be a file that can be opened", repr(path), "check the path") from error
    except ValueError as error:  # the core's, or an ArgumentError
        raise FileArgumentError(f"Unable to load {path!r}: {error}") from error


def as_path(fn: Any) -> str:
    """Return the name of a file."""
    path = fn if isinstance(fn, str) else os.fspath(fn) if isinstance(fn, os.PathLike) else None
    if not isinstance(path, str):
        raise ArgumentTypeError(f"`fn` must be str, not {type(fn).__name__}: pass the name of the file as text")
    return path


def as_int(argument: str, value: Any) -> int:
    """Return an integer of 32 bits, which is what Annoy takes."""
    if type(value) is int and -_LARGEST <= value <= _LARGEST:
        return value  # at once: a search asks three times
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"`{argument}` must be an integer, got {value!r}: pass an int") from None
    if not -_LARGEST - 1 <= number <= _LARGEST:
        raise RangeArgumentError(f"`{argument}` must be -2^31 to 2^31 - 1, got {number}: pass a smaller number")
    return number


def as_flag(argument: str, value: Any) -> bool:
    """Return a truth value that came as a bool or an integer."""
    return value if type(value) is bool else as_int(argument, value) != 0


def as_item(argument: str, value: Any, n_items: int) -> int:
    """Return the id of an item that is there, or of a gap between items."""
    item = as_int(argument, value)
    if item < 0:
        raise ItemError(f"Item index can not be negative: `{argument}` must be 0..{n_items - 1}, got {item}: {_PASS}")
    if item >= n_items:
        raise ItemError(
            f"Item index larger than the largest item index: `{argument}` must be "
            f"{f'0..{n_items - 1}' if n_items else 'an item, of which there is none'}, got {item}: {_PASS}"
        )
    return item


_PASS = "pass an id that was added"  # noqa: S105  # a remedy


def as_new_item(value: Any) -> int:
    """Return the id of an item to be added."""
    item = as_int("i", value)
    if not 0 <= item < _LARGEST:
        rule = f"`i` must be 0..{_LARGEST - 1}, got {item}: number the items from 0"
        raise ItemError(f"Item index can not be {'negative' if item < 0 else 'so large'}: {rule}")
    return item


def as_trees(n_trees: Any) -> int:
    """Return a number of trees; of -1 Annoy builds as many as take the room of the items."""
    number = as_int("n_trees", n_trees)
    if number < -1:  # Annoy would not end
        raise argument_error("n_trees", "must be at least 0, or -1", number, "pass 10, for one")
    return number


def as_jobs(n_jobs: Any) -> int:
    """Return a number of threads; -1 is one for each processor."""
    number = as_int("n_jobs", n_jobs)
    if number < 1 and number != -1:  # Annoy would divide by zero, or abort
        raise argument_error("n_jobs", "must be at least 1, or -1", number, "pass the number of threads")
    return number


def packer(f: int) -> Callable[..., bytes]:
    """Return what :func:`as_vector` takes to turn ``f`` numbers into ``float32``."""
    return struct.Struct(f"{f}f").pack


def as_vector(vector: Any, f: int, pack: Callable[..., bytes]) -> npt.NDArray[np.float32]:
    """Return ``vector``, f numbers in anything that has a length and items, as ``(f,)`` ``float32``.

    Raises:
        ItemError: another length (an ``IndexError``).
        TypeError: no length, no items, or one that is no number, in Python's own words as Annoy has it.
    """
    if type(vector) is list or type(vector) is tuple:
        if len(vector) == f:
            try:
                return np.frombuffer(pack(*vector), np.float32)  # a third of the time that numpy takes
            except (struct.error, OverflowError):
                pass  # not numbers, or beyond float32: for what follows to name
    elif isinstance(vector, np.ndarray) and vector.shape == (f,) and vector.dtype.kind in "fiub":
        return _as_float32(vector)
    if len(vector) != f:
        raise ItemError(
            f"Vector has wrong length (expected {f}, got {len(vector)}): `vector` must hold {f} numbers, "
            f"got {len(vector)}: pass a vector of the index's dimension"
        )
    return _as_float32(np.array(array("d", [vector[z] for z in range(f)])))


def _as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    # Values beyond float32's range become infinite here and are reported by check_finite.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def as_finite_vector(vector: Any, f: int, pack: Callable[..., bytes]) -> npt.NDArray[np.float32]:
    """Return ``vector`` as :func:`as_vector` does, or raise an ``ArgumentError`` where it holds NaN or infinity."""
    values = as_vector(vector, f, pack)
    check_finite("vector", values)
    return values
