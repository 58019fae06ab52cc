"""The libraries as they are without :func:`knn_adapters.patch`, for our own modules."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from mp_plugins import missing_dependency

__all__ = ["original"]


@cache
def original(library: str) -> ModuleType:
    """Return a copy of the module ``library`` whose names stay the library's own.

    ``patch()`` gives the names of the module itself other values; whoever stands in for a library has to go on using
    the library. Stand-in modules are imported before anything is replaced, so that the copy is made in time. For type
    checkers they say ``import`` as well, behind ``TYPE_CHECKING``.

    Raises:
        MissingDependencyError: the library is not installed.
    """
    try:
        module = import_module(library)
    except ImportError as error:
        raise missing_dependency(library, library, wanted_by=f"knn_adapters.{library}") from error
    copy = ModuleType(library, module.__doc__)
    vars(copy).update(vars(module))
    return copy
