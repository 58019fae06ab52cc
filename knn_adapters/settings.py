"""What new and wrapped indexes are made with where nothing else is said: :func:`configure` and environment variables.

A setting is, in this order: what :func:`configure` was given last; its environment variable, ``MP_KNN_BITS``,
``MP_KNN_RESCORE`` or ``MP_KNN_NUM_THREADS``, read when an index is made; the value that :class:`Settings` shows. All
threads share them. An index keeps what it was made with.
"""

from __future__ import annotations

import enum
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal

import numpy as np

from knn_adapters._validation import check_choice, number_error
from knn_adapters.quantizer import check_bits
from mp_plugins import argument_error

__all__ = ["RESCORE_MODES", "Settings", "check_rescore", "configure", "current_settings"]

RESCORE_MODES = ("none", "residual", "original")
_MOST_THREADS = 2**31 - 1


class _Left(enum.Enum):
    """The default of an argument that leaves a setting as it is; None is a value."""

    AS_IT_IS = "as it is"


_AS_IT_IS: Final = _Left.AS_IT_IS


@dataclass(frozen=True)
class Settings:
    """The settings at one moment.

    Attributes:
        bits: bits per dimension of the codes, 8 or 4.
        rescore: what the last candidates are compared by, see :func:`knn_adapters.wrap`.
        num_threads: threads for a large batch, many additions or building a forest; None leaves that to the library's
            own default: hnswlib's of an index, FAISS' ``omp_set_num_threads``, Annoy's ``n_jobs=-1``.
    """

    bits: int = 8
    rescore: str = "none"
    num_threads: int | None = None


class _Configured:
    """What :func:`configure` returns: as a context manager it puts the settings back that were there before."""

    def __init__(self, before: Mapping[str, Any]) -> None:
        self._before = before

    def __enter__(self) -> Settings:
        return current_settings()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _replace(self._before)


# The one piece of state: what configure() was given. It is replaced as a whole, never changed, so readers need no lock.
_configured: Mapping[str, Any] = MappingProxyType({})
_turn = threading.Lock()


def configure(
    bits: int | Literal[_Left.AS_IT_IS] = _AS_IT_IS,
    rescore: str | Literal[_Left.AS_IT_IS] = _AS_IT_IS,
    num_threads: int | Literal[_Left.AS_IT_IS] | None = _AS_IT_IS,
) -> _Configured:
    """Set the defaults of :func:`knn_adapters.wrap` and of indexes that the stand-in modules make, in all threads.

    An argument that is left out leaves its setting as it is: 8 bits, ``"none"`` and None at first, or what the
    environment variables ``MP_KNN_BITS``, ``MP_KNN_RESCORE`` and ``MP_KNN_NUM_THREADS`` say. Indexes that exist stay as
    they are.

    Args:
        bits: bits per dimension of the codes, 8 or 4.
        rescore: ``"none"``, ``"residual"`` or ``"original"``, see :func:`knn_adapters.wrap`.
        num_threads: threads for a large batch, 1 or more; None for the library's own default. What a call or an index
            is told itself comes first: ``num_threads`` of hnswlib's, ``n_jobs`` of Annoy's.

    Returns:
        A context manager: a ``with`` block ends with the settings that were there before the call.

    Raises:
        ArgumentError: a value that is none of these; nothing is set then.

    Example:
        >>> knn_adapters.configure(bits=8, rescore="none", num_threads=None)
        >>> with knn_adapters.configure(bits=4):
        ...     small = knn_adapters.wrap(index)
    """
    given = {"bits": bits, "rescore": rescore, "num_threads": num_threads}
    checked = {name: _CHECKS[name](name, value) for name, value in given.items() if value is not _AS_IT_IS}
    return _Configured(_replace(checked, over_present=True))


def current_settings() -> Settings:
    """Return the settings that an index would be made with now.

    Raises:
        ArgumentError: an environment variable that counts has a value that is not allowed.
    """
    configured = _configured
    return Settings(
        **{
            field.name: configured[field.name] if field.name in configured else _from_environment(field.name)
            for field in fields(Settings)
        }
    )


def check_rescore(argument: str, value: Any) -> str:
    """Return ``value`` if it is a mode of rescoring."""
    return check_choice(argument, value, RESCORE_MODES)


def _replace(values: Mapping[str, Any], *, over_present: bool = False) -> Mapping[str, Any]:
    """Put ``values`` in the place of what is configured, or over it; return what was."""
    global _configured
    with _turn:
        before = _configured
        _configured = MappingProxyType({**before, **values} if over_present else dict(values))
    return before


def _from_environment(name: str) -> Any:
    variable = f"MP_KNN_{name.upper()}"
    text = os.environ.get(variable, "").strip()
    if not text:
        return getattr(Settings, name)
    if name == "rescore":
        return _CHECKS[name](variable, text)
    try:
        number = int(text)
    except ValueError:
        raise number_error(variable, text) from None
    return _CHECKS[name](variable, number)


def _check_threads(argument: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise number_error(argument, value)
    if not 1 <= value <= _MOST_THREADS:
        raise argument_error(argument, "must be at least 1, or None", value, "leave it out for the library's default")
    return int(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "bits": check_bits,
    "rescore": check_rescore,
    "num_threads": _check_threads,
}
