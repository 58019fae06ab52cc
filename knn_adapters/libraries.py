"""The libraries as they are without :func:`knn_adapters.patch`, for our own modules."""

from __future__ import annotations

from functools import cache, partial, update_wrapper
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

from mp_plugins import missing_dependency

__all__ = ["INNER_MODULES", "original", "passed_on"]

INNER_MODULES = {"faiss": ("faiss.class_wrappers", "faiss.extra_wrappers")}
"""Modules of a library that say ``import`` of it for their own work on its objects: they need it as it is.

FAISS' ``Index.__setstate__``, for one, gives the index the C++ object of what ``faiss.deserialize_index`` returns,
which may be of no other class.
"""


@cache
def original(library: str) -> ModuleType:
    """Return a copy of the module ``library`` whose names stay the library's own.

    ``patch()`` gives the names of the module itself other values; whoever stands in for a library has to go on using
    the library. Stand-in modules are imported before anything is replaced, so that the copy is made in time. For type
    checkers they say ``import`` as well, behind ``TYPE_CHECKING``. What the module gets later, submodules above all, is
    found here too. The module's own functions call each other here.

    Raises:
        MissingDependencyError: the library is not installed.
    """
    try:
        module = import_module(library)
    except ImportError as error:
        raise missing_dependency(library, library, wanted_by=f"knn_adapters.{library}") from error
    copy = ModuleType(library, module.__doc__)
    vars(copy).update({"__getattr__": partial(getattr, module), **vars(module)})
    for name, value in vars(module).items():
        if isinstance(value, FunctionType) and value.__globals__ is vars(module):
            vars(copy)[name] = _seeing(value, vars(copy))
    return copy


def passed_on(library: str, name: str) -> Any:
    """Return what ``name`` stands for in the module ``library`` itself, the very object, whatever is patched.

    Raises:
        AttributeError: the library has no such name.
    """
    copy = original(library)
    value = getattr(copy, name)
    is_copied = isinstance(value, FunctionType) and value.__globals__ is vars(copy)
    return vars(value)["__wrapped__"] if is_copied else value


def _seeing(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    """Return ``function`` with ``names`` as its global ones: FAISS' ``deserialize_index`` calls ``read_index``."""
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    update_wrapper(made, function)
    return made
