"""``magic-pyramid wrap``: an index file of FAISS, hnswlib or Annoy becomes one of codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
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
    parser.add_argument(
        "--library", dest="origin", choices=sorted(_METRICS), help="whose file IN is (default: what it looks like)"
    )
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
    library = arguments.origin or _looks_like(source)
    _check_options(library, arguments)
    size = source.stat().st_size
    figures = _wrap(library, arguments)
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


def _wrap(library: str, arguments: argparse.Namespace) -> IndexStats:
    """Read, quantize and write; return the figures of what was written."""
    from knn_adapters import stats, wrap

    _say(f"reading {arguments.source} as a file of {library}")
    try:
        index = _READERS[library](str(arguments.source), arguments)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        message = f"`IN` cannot be read as a file of {library}, got {arguments.source}: {reason}"
        raise MagicPyramidError(message) from error
    _say("quantizing")
    wrapped = wrap(index, bits=arguments.bits, rescore=arguments.rescore)
    figures = stats(wrapped)
    _say(f"writing {arguments.target}")
    _WRITERS[library](wrapped, str(arguments.target))
    return figures


def _read_faiss(path: str, _: argparse.Namespace) -> Any:
    return original("faiss").read_index(path)


def _read_hnswlib(path: str, arguments: argparse.Namespace) -> Any:
    index = original("hnswlib").Index(arguments.metric, dimension_of(path))
    index.load_index(path)
    return index


def _read_annoy(path: str, arguments: argparse.Namespace) -> Any:
    index = original("annoy").AnnoyIndex(arguments.dim, arguments.metric)
    index.load(path)
    return index


def _write_faiss(index: Any, path: str) -> None:
    from knn_adapters import export

    export(index, path)


_READERS = {"faiss": _read_faiss, "hnswlib": _read_hnswlib, "annoy": _read_annoy}
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
