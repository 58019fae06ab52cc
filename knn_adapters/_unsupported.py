"""Methods of a library's class that a wrapped index does not answer yet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mp_plugins import UnsupportedError

__all__ = ["UnsupportedAttributeError", "protect_properties", "public_methods", "reject_methods", "unsupported"]

C = TypeVar("C", bound=type)

_PICKLING = ("__getstate__", "__setstate__", "__reduce_ex__")


class UnsupportedAttributeError(UnsupportedError, AttributeError):
    """An attribute that a wrapped index lacks, or that cannot be set; ``hasattr`` understands it."""


def unsupported(what: str) -> UnsupportedError:
    """Return the error for ``what``, a method or argument in words."""
    return UnsupportedError(
        f"{what} is not yet supported on a wrapped index: call it on the original index and wrap the result"
    )


def public_methods(cls: type) -> Iterator[str]:
    """Yield the names of the public methods that ``cls`` has or inherits."""
    for name in dir(cls):
        if not name.startswith("_") and callable(inspect.getattr_static(cls, name)):
            yield name


def reject_methods(cls: C, *library_classes: type) -> C:
    """Give ``cls`` a method that raises for every public method of ``library_classes`` that our own code leaves open.

    Introspection instead of a list: the method that a new release of the library adds would otherwise run on an object
    whose data are elsewhere. Pickling is rejected too unless ``cls`` has a ``__getstate__``: it would leave the codes
    behind.
    """
    ours = [base for base in cls.__mro__ if not any(issubclass(library, base) for library in library_classes)]
    pickles = any("__getstate__" in vars(base) for base in ours)
    for library in library_classes:
        for name in (*public_methods(library), *(() if pickles else _PICKLING)):
            if not any(name in vars(base) for base in ours):
                setattr(cls, name, _rejecting(cls.__name__, name))
    return cls


def _rejecting(class_name: str, name: str) -> Callable[..., Any]:
    def method(self: Any, *_: Any, **__: Any) -> Any:
        raise unsupported(f"{class_name}.{name}()")

    method.__name__ = name
    method.__qualname__ = f"{class_name}.{name}"
    method.__doc__ = "Raise ``UnsupportedError``: not yet supported on a wrapped index."
    return method


def protect_properties(cls: C, held: type, shown: type, *, writable: tuple[str, ...]) -> C:
    """Guard the properties of ``cls``, whose C++ object is of class ``held`` and which stands for class ``shown``.

    They become read-only but for those named ``writable``: assigning a structure such as ``index.hnsw`` would move the
    memory that a searcher reads. Those that only ``shown`` has are absent: there is no such memory.
    """
    for name in sorted({*_properties(held), *_properties(shown)} - {*writable}):
        owner = held if name in _properties(held) else shown
        member = inspect.getattr_static(owner, name)
        absent, fixed = _rejecting_access(cls.__name__, name), _rejecting_access(f"assigning {cls.__name__}", name)
        setattr(cls, name, property(member.fget if owner is held else absent, fixed, doc=member.__doc__))
    return cls


def _properties(cls: type) -> set[str]:
    return {name for name in dir(cls) if isinstance(inspect.getattr_static(cls, name), property)}


def _rejecting_access(owner: str, name: str) -> Callable[..., Any]:
    def access(self: Any, *_: Any) -> Any:
        raise UnsupportedAttributeError(str(unsupported(f"{owner}.{name}")))

    return access
