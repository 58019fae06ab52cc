"""What a subcommand of ``magic-pyramid`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mp_plugins.errors import UsageError

__all__ = ["Subcommand", "add_subcommand", "check_counts"]


@dataclass(frozen=True)
class Subcommand:
    """One subcommand.

    Attributes:
        summary: one line, shown by ``magic-pyramid --help``.
        description: the paragraph at the top of ``magic-pyramid NAME --help``, with an example.
        add_arguments: adds the flags to the parser that it is given.
        run: does the work and returns the exit code; raises :class:`mp_plugins.MagicPyramidError` for what the user
            can mend and :class:`mp_plugins.UsageError` for wrong flags.
    """

    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_subcommand(commands: Any, name: str, subcommand: Subcommand) -> None:
    """Add ``subcommand`` to what :meth:`argparse.ArgumentParser.add_subparsers` returned."""
    command = commands.add_parser(
        name,
        help=subcommand.summary,
        description=subcommand.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subcommand.add_arguments(command)
    command.set_defaults(run=subcommand.run)


def check_counts(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse flags, named as in ``arguments``, whose number is given and below 1.

    Raises:
        mp_plugins.UsageError: there is one.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"`--{name.replace('_', '-')}` must be at least 1, got {value}: leave it out")
