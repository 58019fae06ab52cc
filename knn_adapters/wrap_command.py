"""``magic-pyramid wrap``: an index file of FAISS, hnswlib or Annoy becomes one of codes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knn_adapters.hnswlib_file import dimension_of
from knn_adapters.libraries import original
from knn_adapters.settings import RESCORE_MODES
from knn_adapters.storage import is_ours
from mp_plugins import MagicPyramidError, Subcommand, UsageError

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

_METRICS = {"faiss": (), "hnswlib": ("l2", "ip", "cosine"), "annoy": ("angular", "euclidean", "dot")}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", type=Path, help="index file of FAISS, hnswlib or Annoy")
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write")
    parser.add_argument("--library", choices=sorted(_METRICS), help="whose file IN is (default: what it looks like)")
    parser.add_argument("--metric", help="hnswlib: l2, ip or cosine; Annoy: angular, euclidean or dot")
    parser.add_argument("--dim", type=int, metavar="D", help="dimension of the vectors; Annoy only")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="bits per dimension (default: 8)")
    parser.add_argument("--rescore", choices=RESCORE_MODES, help="keep more than codes to rescore by (default: none)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _run(arguments: argparse.Namespace) -> int:
    source, target = arguments.source, arguments.target
    if not source.is_file():
        raise UsageError(f"`IN` must be a file, got {source}: see --help")
    if target.exists() and not arguments.overwrite:
        raise UsageError(f"`OUT` must not exist, got {target}: pass --overwrite to replace it")
    library = arguments.library or _looks_like(source)
    _check_options(library, arguments)
    size = source.stat().st_size
    _say(f"reading {source} as a file of {library}")
    figures = _WRAPPERS[library](arguments)
    sizes = {"bytes_in": size, "bytes_out": target.stat().st_size}
    if arguments.json:
        print(json.dumps({"library": library, **sizes, **asdict(figures)}, indent=2))
    else:
        print(figures)
        print(f"{source}: {size:,} bytes -> {target}: {sizes['bytes_out']:,} bytes ({sizes['bytes_out'] / size:.1%})")
    return 0


def _looks_like(path: Path) -> str:
    """Return the library whose files begin like this one: FAISS' have a name of four letters, the first an I."""
    if is_ours(path):
        raise UsageError(f"`IN` must be a file of FAISS, hnswlib or Annoy, got {path}, which holds codes already")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:1] == b"I" and head[:4].isalnum():
        return "faiss"
    # hnswlib's begin with an offset of 0, Annoy's with the number of items below its first node, which is 1 or more.
    return "hnswlib" if head == bytes(8) else "annoy"


def _check_options(library: str, arguments: argparse.Namespace) -> None:
    metrics = _METRICS[library]
    if metrics and arguments.metric not in metrics:
        received = arguments.metric or "none"
        raise UsageError(f"`--metric` must be one of {', '.join(metrics)} for {library}, got {received}: see --help")
    if not metrics and arguments.metric:
        raise UsageError(f"`--metric` must be left out for FAISS, whose files have it, got {arguments.metric}")
    if library == "annoy" and (arguments.dim is None or arguments.dim < 1):
        received = "none" if arguments.dim is None else arguments.dim
        raise UsageError(f"`--dim` must be at least 1 for annoy, got {received}: pass the dimension of the vectors")
    if library != "annoy" and arguments.dim is not None:
        raise UsageError(f"`--dim` must be left out for {library}, whose files have it, got {arguments.dim}")


def _wrapped(index: Any, arguments: argparse.Namespace) -> Any:
    from knn_adapters import wrap

    _say("quantizing")
    made = wrap(index, bits=arguments.bits, rescore=arguments.rescore)
    _say(f"writing {arguments.target}")
    return made


def _wrap_faiss(arguments: argparse.Namespace) -> IndexStats:
    from knn_adapters import export, stats

    try:
        index = original("faiss").read_index(str(arguments.source))
    except RuntimeError as error:
        raise _unreadable("FAISS", arguments.source, error) from error
    wrapped = _wrapped(index, arguments)
    export(wrapped, arguments.target)
    return stats(wrapped)


def _wrap_hnswlib(arguments: argparse.Namespace) -> IndexStats:
    from knn_adapters import stats

    try:
        index = original("hnswlib").Index(arguments.metric, dimension_of(arguments.source))
        index.load_index(str(arguments.source))
    except RuntimeError as error:
        raise _unreadable("hnswlib", arguments.source, error) from error
    wrapped = _wrapped(index, arguments)
    wrapped.save_index(arguments.target)
    return stats(wrapped)


def _wrap_annoy(arguments: argparse.Namespace) -> IndexStats:
    from knn_adapters import stats

    index = original("annoy").AnnoyIndex(arguments.dim, arguments.metric)
    try:
        index.load(str(arguments.source))
    except OSError as error:
        raise _unreadable("Annoy", arguments.source, error) from error
    wrapped = _wrapped(index, arguments)
    figures = stats(wrapped)
    wrapped.save(str(arguments.target))
    return figures


_WRAPPERS = {"faiss": _wrap_faiss, "hnswlib": _wrap_hnswlib, "annoy": _wrap_annoy}


def _say(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


def _unreadable(library: str, path: Path, error: Exception) -> MagicPyramidError:
    reason = (str(error).strip().splitlines() or [""])[-1]
    return MagicPyramidError(f"`IN` cannot be read as a file of {library}, got {path}: {reason}")


SUBCOMMAND = Subcommand(
    summary="quantize an index file of FAISS, hnswlib or Annoy",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
