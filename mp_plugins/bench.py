"""``magic-pyramid bench``: measurements on the user's own model, texts or index. They come in through a hook."""

from __future__ import annotations

import argparse

from mp_plugins.manager import load_registry
from mp_plugins.subcommands import Subcommand, add_subcommand

__all__ = ["SUBCOMMAND"]

_DESCRIPTION = """\
Measures what Magic Pyramid and quantized indexes give on your own model, texts or index.

  magic-pyramid bench model fast-bert held-out.csv
      accuracy, arithmetic and time of a Magic Pyramid beside the plain model
  magic-pyramid bench index vectors.faiss queries.npy
      memory, recall and time of an index file beside its quantized form"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="what is measured", metavar="KIND", required=True)
    for name, benchmark in sorted(load_registry("benchmarks").items()):
        add_subcommand(kinds, name, benchmark)


def _run(arguments: argparse.Namespace) -> int:
    raise RuntimeError("argparse lets nobody in without a KIND, which has a `run` of its own")


SUBCOMMAND = Subcommand(
    summary="measure your own model or index beside the original",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
