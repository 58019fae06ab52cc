"""``magic-pyramid wrap``: an index file of FAISS, hnswlib or Annoy becomes one of codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knn_adapters.index_files import add_file_arguments, library_of, read_index
from knn_adapters.settings import RESCORE_MODES
from mp_plugins import Subcommand, UsageError

if TYPE_CHECKING:
    from knn_adapters.evaluation import IndexStats

__all__ = ["SUBCOMMAND"]

_DESCRIPTION = """\
Quantizes an index file: reads what FAISS, hnswlib or Annoy wrote and writes an index of 8-bit codes, about a third of
the size, that `from knn_adapters import faiss` (or hnswlib, or annoy) reads and searches by the same calls. What it
writes for FAISS is a stock FAISS file, which plain FAISS reads too. Neither hnswlib's nor Annoy's files say which
metric they are for, and Annoy's not even the dimension, so that you have to.

  magic-pyramid wrap flat.faiss codes.faiss
      a FAISS index of any kind that can be quantized
  magic-pyramid wrap index.bin codes.mp --metric cosine
      an hnswlib index
  magic-pyramid wrap trees.ann codes.mp --metric angular --dim 384
      an Annoy index
  magic-pyramid wrap index.bin codes.mp --metric l2 --bits 4 --rescore residual --json
      other codes, and the figures for programs"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", type=Path, help="index file of FAISS, hnswlib or Annoy")
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write")
    add_file_arguments(parser)
    parser.add_argument("--bits", type=int, choices=(4, 8), help="bits per dimension (default: 8)")
    parser.add_argument("--rescore", choices=RESCORE_MODES, help="keep more than codes to rescore by (default: none)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _run(arguments: argparse.Namespace) -> int:
    source, target = arguments.source, arguments.target
    library = library_of(source, arguments, "IN")
    if target.exists() and not arguments.overwrite:
        raise UsageError(f"`OUT` must not exist, got {target}: pass --overwrite to replace it")
    size = source.stat().st_size
    figures = _wrap(library, arguments)
    sizes = {"bytes_in": size, "bytes_out": target.stat().st_size}
    if arguments.json:
        print(json.dumps({"library": library, **sizes, **asdict(figures)}, indent=2))
    else:
        print(figures)
        print(f"{source}: {size:,} bytes -> {target}: {sizes['bytes_out']:,} bytes ({sizes['bytes_out'] / size:.1%})")
    return 0


def _wrap(library: str, arguments: argparse.Namespace) -> IndexStats:
    """Read, quantize and write; return the figures of what was written."""
    from knn_adapters import stats, wrap

    _say(f"reading {arguments.source} as a file of {library}")
    index = read_index(library, arguments.source, arguments, "IN")
    _say("quantizing")
    wrapped = wrap(index, bits=arguments.bits, rescore=arguments.rescore)
    figures = stats(wrapped)
    _say(f"writing {arguments.target}")
    _WRITERS[library](wrapped, str(arguments.target))
    return figures


def _write_faiss(index: Any, path: str) -> None:
    from knn_adapters import export

    export(index, path)


_WRITERS: dict[str, Callable[[Any, str], object]] = {
    "faiss": _write_faiss,
    "hnswlib": lambda index, path: index.save_index(path),
    "annoy": lambda index, path: index.save(path),
}


def _say(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


SUBCOMMAND = Subcommand(
    summary="quantize an index file of FAISS, hnswlib or Annoy",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
