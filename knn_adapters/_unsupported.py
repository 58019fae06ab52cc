"""Methods of a library's class that a wrapped index does not answer yet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mp_plugins import UnsupportedError

__all__ = ["protect_properties", "public_methods", "reject_methods", "unsupported"]

C = TypeVar("C", bound=type)


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
    whose data are elsewhere. Pickling is rejected too, because it would leave the codes behind.
    """
    ours = [base for base in cls.__mro__ if not any(issubclass(library, base) for library in library_classes)]
    for library in library_classes:
        for name in (*public_methods(library), "__getstate__", "__setstate__", "__reduce_ex__"):
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


def protect_properties(cls: C, *library_classes: type, writable: tuple[str, ...]) -> C:
    """Make the properties of ``library_classes`` read-only on ``cls``, but for those named ``writable``.

    Writing a structure such as ``index.hnsw`` would move the memory that a searcher reads.
    """
    for library in library_classes:
        for name, member in vars(library).items():
            if isinstance(member, property) and member.fset is not None and name not in writable:
                setattr(cls, name, property(member.fget, _rejecting_setter(cls.__name__, name), doc=member.__doc__))
    return cls


def _rejecting_setter(class_name: str, name: str) -> Callable[[Any, Any], None]:
    def setter(self: Any, _: Any) -> None:
        raise unsupported(f"assigning {class_name}.{name}")

    return setter
