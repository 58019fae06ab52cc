"""What a subcommand of ``magic-pyramid`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Subcommand", "add_subcommand"]


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
