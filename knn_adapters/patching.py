"""``patch()``: programs that say ``import hnswlib``, ``import faiss`` or ``import annoy`` get what stands in for it.

The names of the library's own module get other values: each name in ``__all__`` of our stand-in module that the library
has too. So it does not matter whether a program imports the library before or after, submodules stay what they are, and
undoing it is putting the values back. The libraries are imported for it: a stand-in imports its library, and a hook
that did it the other way round would make two threads wait for each other's imports.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from knn_adapters.libraries import INNER_MODULES, original
from mp_plugins import MagicPyramidError, argument_error

__all__ = ["LIBRARIES", "patch", "patched", "unpatch"]

LIBRARIES = ("hnswlib", "faiss", "annoy")


def patch(*, libraries: Collection[str] = LIBRARIES) -> None:
    """Put our classes and functions in the place of the libraries' own, in all threads, until :func:`unpatch`.

    Calls may be nested: a library is as it was when each call that named it is undone. The libraries that are installed
    are imported, the others skipped. What is made meanwhile stays ours afterwards, and goes on working.

    What was made before stays the library's: it is no instance of the class that its name stands for meanwhile, and
    pickle, which looks classes up by name, refuses it. Names that a program bound to the library's classes before
    (``from hnswlib import Index``) keep their values, and so do names inside submodules of a library.

    Args:
        libraries: which, out of ``"hnswlib"``, ``"faiss"`` and ``"annoy"``.

    Raises:
        ArgumentError: another library.
        ImportError: a library that is installed cannot be imported; nothing is patched then.

    Example:
        >>> knn_adapters.patch()
        >>> import hnswlib
        >>> hnswlib.Index
        <class 'knn_adapters.hnswlib.Index'>
    """
    _patcher.add(_checked(libraries))


def unpatch() -> None:
    """Undo the latest :func:`patch` that is not undone yet.

    Raises:
        MagicPyramidError: there is none.
    """
    _patcher.remove_latest()


@contextmanager
def patched(*, libraries: Collection[str] = LIBRARIES) -> Iterator[None]:
    """Be patched within a ``with`` block, see :func:`patch`; undone at its end, also by an error.

    Example:
        >>> with knn_adapters.patched():
        ...     build_search_engine()  # says `import faiss`
    """
    request = _checked(libraries)
    _patcher.add(request)
    try:
        yield
    finally:
        _patcher.remove(request)


class _Request:
    """One call of :func:`patch`: an object, because equal ones are told apart."""

    def __init__(self, libraries: Collection[str]) -> None:
        self.libraries = frozenset(libraries)


class _Replaced:
    """A name of a module that has another value for a while."""

    def __init__(self, module: Any, name: str, value: object) -> None:
        self._module, self._name, self._value = module, name, value
        self._before = getattr(module, name)
        setattr(module, name, value)

    def put_back(self) -> None:
        """Give the name its own value, unless somebody else has given it another one meanwhile."""
        if getattr(self._module, self._name, None) is self._value:
            setattr(self._module, self._name, self._before)


class _Patcher:
    """Keeps what is asked for and what was replaced for it in step.

    Args:
        stand_ins: the module that stands in for each library, by name.
    """

    def __init__(self, stand_ins: Mapping[str, str]) -> None:
        self._stand_ins = stand_ins
        self._requests: list[_Request] = []
        self._replaced: dict[str, list[_Replaced]] = {}
        self._turn = threading.Lock()

    def add(self, request: _Request) -> None:
        """Replace what ``request`` names; nothing if a module cannot be imported."""
        # Before the lock is taken: who imports may wait for another thread, which may wait for its turn here.
        modules = {library: self._imported(library) for library in request.libraries if _is_installed(library)}
        with self._turn:
            self._requests.append(request)
            for library, pair in modules.items():
                if library not in self._replaced:
                    self._replaced[library] = _replace(*pair)

    def remove(self, request: _Request) -> None:
        """Undo what no other request names."""
        with self._turn:
            self._remove(request)

    def remove_latest(self) -> None:
        """Undo the latest request."""
        with self._turn:
            if not self._requests:
                raise MagicPyramidError("unpatch() found nothing to undo: call it once for each call of patch()")
            self._remove(self._requests[-1])

    def _remove(self, request: _Request) -> None:
        self._requests.remove(request)
        wanted = {library for other in self._requests for library in other.libraries}
        for library in self._replaced.keys() - wanted:
            for replaced in self._replaced.pop(library):
                replaced.put_back()

    def _imported(self, library: str) -> tuple[Any, Any]:
        stand_in = import_module(self._stand_ins[library])
        return import_module(library), stand_in


def _is_installed(library: str) -> bool:
    if library in sys.modules:
        return sys.modules[library] is not None  # None: somebody forbids to import it
    return find_spec(library) is not None


def _replace(library: Any, stand_in: Any) -> list[_Replaced]:
    # What only we have is nothing that a program of theirs asks for; what the stand-in passes on is there already.
    values = {name: getattr(stand_in, name) for name in stand_in.__all__}
    own = {name: getattr(library, name) for name in values if hasattr(library, name)}
    replaced = [_Replaced(library, name, values[name]) for name in own if own[name] is not values[name]]
    return replaced + [
        _Replaced(sys.modules[inner], library.__name__, original(library.__name__))
        for inner in INNER_MODULES.get(library.__name__, ())
        if hasattr(sys.modules.get(inner), library.__name__)
    ]


def _checked(libraries: Collection[str]) -> _Request:
    names = (libraries,) if isinstance(libraries, str) else tuple(libraries)
    for name in names:
        if name not in LIBRARIES:
            raise argument_error("libraries", f"must be among {', '.join(LIBRARIES)}", repr(name), "leave it out")
    return _Request(names)


_patcher = _Patcher({library: f"knn_adapters.{library}" for library in LIBRARIES})
