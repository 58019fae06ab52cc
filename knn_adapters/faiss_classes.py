"""Which class of ours stands for which class of FAISS, and how an index of FAISS becomes one of ours."""

from __future__ import annotations

import warnings
from typing import Any

from knn_adapters import faiss_storage as storage
from knn_adapters.faiss_contents import CALIBRATION_ROWS
from knn_adapters.settings import RESCORE_MODES
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError

__all__ = [
    "STAND_INS",
    "Ours",
    "class_for",
    "configured_for",
    "taken_over",
    "taken_over_or_original",
    "warn_of_original",
]


class Ours:
    """What all our classes of indexes have in common; FAISS' own come beside it in their bases."""

    @classmethod
    def _made_of(cls, original: Any, options: WrapOptions, *, exact_below: int, copy: bool) -> Any:
        """Return an index of this class for ``original``, see :func:`taken_over`."""
        raise NotImplementedError

    def _prepare(self, vectors: Any) -> None:
        """Make ready for ``vectors`` ``(n, d)``, which C++ is about to add."""
        raise NotImplementedError

    def _took(self, vectors: Any) -> None:
        """Note that C++ has added ``vectors``."""
        raise NotImplementedError

    def _stock(self) -> Any:
        """Return an index of FAISS' own classes with the same content, which may share memory with this one."""
        raise NotImplementedError


STAND_INS: dict[type, type[Ours]] = {}
"""Class of FAISS -> class of ours; the modules that define these fill it."""

_warned: set[str] = set()


def class_for(index: Any) -> type[Ours]:
    """Return the class that stands for the class of ``index``, which must be it exactly: a subclass may store more.

    Raises:
        UnsupportedError: another index type.
    """
    try:
        return STAND_INS[type(index)]
    except KeyError:
        names = ", ".join(cls.__name__ for cls in STAND_INS)
        raise UnsupportedError(
            f"a FAISS {type(index).__name__} cannot be quantized by ours: use one of {names}"
        ) from None


def taken_over(original: Any, options: WrapOptions, *, exact_below: int = 1, copy: bool = True) -> Any:
    """Return an index of ours in place of ``original``.

    Args:
        original: an index of FAISS' own.
        options: of the quantizer.
        exact_below: number of ``float32`` vectors from which on a quantizer is trained at once.
        copy: whether ``original`` goes on being used, and is not to share anything.

    Raises:
        UnsupportedError: a class, metric, type of codes or state that ours has not.
    """
    return class_for(original)._made_of(original, options, exact_below=exact_below, copy=copy)


def taken_over_or_original(original: Any) -> Any:
    """Return an index of ours in place of ``original``, which is dropped; or, with a warning, itself.

    Raises:
        UnsupportedError: see :func:`configured_for`.
    """
    options = configured_for(original)
    try:
        return taken_over(original, options, exact_below=CALIBRATION_ROWS, copy=False)
    except UnsupportedError as error:
        warn_of_original(original, error)
        return original


def configured_for(original: Any) -> WrapOptions:
    """Return what :func:`knn_adapters.configure` says, for an index of ours in place of ``original``.

    Raises:
        ArgumentError: an environment variable has a value that is not allowed.
        UnsupportedError: a mode of rescoring that an index of its kind cannot have.
    """
    inside = original
    while type(inside) in STAND_INS and (nested := getattr(inside, "base_index", getattr(inside, "index", None))):
        inside = storage.stock_of(nested)
    keeps_nothing_more = type(inside) in STAND_INS and not storage.holds_floats_by_row(inside)
    return WrapOptions.configured(("none",) if keeps_nothing_more else RESCORE_MODES)


def warn_of_original(original: Any, error: UnsupportedError) -> None:
    """Warn, once for each class and reason, that FAISS' own index serves."""
    message = f"a faiss.{type(original).__name__} is FAISS' own, not quantized: {error}"
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=3)
