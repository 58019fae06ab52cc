"""A table from names to objects that plug-ins fill once, at registration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from mp_plugins.errors import PluginError, argument_error

__all__ = ["Registry"]

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


class Registry(Mapping[str, T]):
    """Name -> object of one kind. A duplicate or unknown name raises and lists what is known.

    Args:
        kind: what the objects are, in words, for the messages (``"token pruner"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._objects: dict[str, T] = {}

    def register(self, name: str, obj: T) -> None:
        """Add ``obj`` under ``name`` (lower case letters, digits, ``_``, ``-``, ``.``)."""
        if not _NAME.fullmatch(name):
            raise argument_error(
                "name",
                f"must match {_NAME.pattern} to name a {self.kind}",
                repr(name),
                "choose a lower-case name that starts with a letter",
            )
        if name in self._objects:
            raise PluginError(
                f"{self.kind} `{name}` is registered twice, as {self._objects[name]!r} and as {obj!r}: "
                "rename one of them or uninstall one of the plug-ins"
            )
        self._objects[name] = obj

    def __getitem__(self, name: str) -> T:
        try:
            return self._objects[name]
        except KeyError:
            known = ", ".join(sorted(self._objects)) or "none"
            raise PluginError(f"unknown {self.kind} `{name}`: known names are {known}") from None

    def __contains__(self, name: object) -> bool:
        # Mapping's default asks __getitem__ and expects KeyError, which the message above replaces.
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {sorted(self._objects)})"
