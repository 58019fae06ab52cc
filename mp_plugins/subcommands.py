"""What a subcommand of ``magic-pyramid`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Subcommand"]


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
