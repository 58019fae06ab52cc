"""Index files of the three libraries, as commands read them: whose they are, what has to be said, the index."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knn_adapters.hnswlib_file import dimension_of
from knn_adapters.libraries import original
from knn_adapters.storage import is_ours
from mp_plugins import MagicPyramidError, UsageError

__all__ = ["add_file_arguments", "library_of", "read_index"]

_METRICS = {"faiss": (), "hnswlib": ("l2", "ip", "cosine"), "annoy": ("angular", "euclidean", "dot")}


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what a file does not."""
    parser.add_argument(
        "--library", dest="origin", choices=sorted(_METRICS), help="whose file it is (default: what it looks like)"
    )
    parser.add_argument("--metric", help="hnswlib: l2, ip or cosine; Annoy: angular, euclidean or dot")
    parser.add_argument("--dim", type=int, metavar="D", help="dimension of the vectors; Annoy only")


def library_of(path: Path, arguments: argparse.Namespace, argument: str) -> str:
    """Return whose file ``path`` is, with the flags of :func:`add_file_arguments` checked.

    Raises:
        mp_plugins.UsageError: there is no such file, or a flag is missing or too many; names ``argument``.
    """
    if not path.is_file():
        raise UsageError(f"`{argument}` must be a file, got {path}: see --help")
    library = arguments.origin or _looks_like(path, argument)
    _check_options(library, arguments)
    return str(library)


def read_index(library: str, path: Path, arguments: argparse.Namespace, argument: str) -> Any:
    """Return the library's own index.

    Raises:
        mp_plugins.MagicPyramidError: the library cannot read it; names ``argument``.
    """
    try:
        return _READERS[library](str(path), arguments)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise MagicPyramidError(f"`{argument}` cannot be read as a file of {library}, got {path}: {reason}") from error


def _looks_like(path: Path, argument: str) -> str:
    """Return the library whose files begin like this one: FAISS' have a name of four letters, the first an I."""
    if is_ours(path):
        raise UsageError(
            f"`{argument}` must be a file of FAISS, hnswlib or Annoy, got {path}, which holds codes already"
        )
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


_READERS = {"faiss": _read_faiss, "hnswlib": _read_hnswlib, "annoy": _read_annoy}
