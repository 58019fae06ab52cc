"""The exceptions that the three packages raise on purpose.

Each child also inherits from the built-in exception that callers would expect, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "MagicPyramidError",
    "MissingDependencyError",
    "PluginError",
    "UnsupportedError",
    "UsageError",
    "argument_error",
    "missing_dependency",
]


class MagicPyramidError(Exception):
    """Root of every exception raised on purpose by this project."""


class ArgumentError(MagicPyramidError, ValueError):
    """An argument breaks a rule; :func:`argument_error` writes the message."""


class ArgumentTypeError(MagicPyramidError, TypeError):
    """An argument is of a type that cannot be used."""


class UnsupportedError(MagicPyramidError, NotImplementedError):
    """The request is meaningful, but this release does not support it."""


class MissingDependencyError(MagicPyramidError, ImportError):
    """An optional library is not installed; :func:`missing_dependency` names the extra that brings it."""


class PluginError(MagicPyramidError):
    """A plug-in cannot be loaded, or a registry is asked for a name that it does not hold."""


class UsageError(MagicPyramidError):
    """The command line was used wrongly (exit code 2)."""


def argument_error(argument: str, rule: str, received: object, remedy: str) -> ArgumentError:
    """Return the error for a broken rule, with its four parts in a fixed order.

    >>> str(argument_error("k", "must be at least 1", 0, "pass the number of neighbours that you want"))
    '`k` must be at least 1, got 0: pass the number of neighbours that you want'
    """
    return ArgumentError(f"`{argument}` {rule}, got {received}: {remedy}")


def missing_dependency(module: str, extra: str, *, wanted_by: str) -> MissingDependencyError:
    """Return the error for an absent optional library, naming the extra of this distribution that installs it."""
    return MissingDependencyError(
        f"{wanted_by} needs the library `{module}`, which is not installed: pip install 'magic-pyramid[{extra}]'",
        name=module,
    )
