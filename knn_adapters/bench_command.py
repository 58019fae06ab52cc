"""``magic-pyramid bench index``: an index file beside its quantized form, on the user's queries."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knn_adapters.index_files import add_file_arguments, library_of, read_index
from knn_adapters.settings import RESCORE_MODES
from mp_plugins import MagicPyramidError, Subcommand, Table, argument_error, check_counts
from mp_plugins.report import render_table

if TYPE_CHECKING:
    from knn_adapters.comparison import Comparison

__all__ = ["SUBCOMMAND"]

_DESCRIPTION = """\
Measures an index file of FAISS, hnswlib or Annoy beside its quantized form: bytes a vector, recall against exact search
over the vectors of the index, and queries a second in one thread, medians of rounds in turns, as the knob of the
index is turned (efSearch, nprobe, ef, search_k). Nothing is written. Neither hnswlib's nor Annoy's files say which
metric they are for, and Annoy's not even the dimension, so that you have to.

  magic-pyramid bench index vectors.faiss queries.npy
      queries are a float32 array (q, d), as numpy.save() writes it
  magic-pyramid bench index index.bin queries.npy --metric cosine --k 100
      an hnswlib index, 100 neighbours
  magic-pyramid bench index index.bin queries.npy --metric l2 --bits 4 --rescore residual --json
      other codes, and the figures for programs"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", type=Path, help="index file of FAISS, hnswlib or Annoy")
    parser.add_argument("queries", metavar="QUERIES", type=Path, help=".npy file of vectors (q, d)")
    add_file_arguments(parser)
    parser.add_argument("--k", type=int, default=10, help="neighbours of each query (default: 10)")
    parser.add_argument("--max-queries", type=int, default=1000, metavar="N", help="of the file's (default: 1000)")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="bits per dimension (default: 8)")
    parser.add_argument("--rescore", choices=RESCORE_MODES, help="keep more than codes to rescore by (default: none)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _run(arguments: argparse.Namespace) -> int:
    check_counts(arguments, "k", "max_queries")
    library = library_of(arguments.index, arguments, "INDEX")
    found = _compare(library, arguments)
    print(json.dumps(found.as_data(), indent=2) if arguments.json else _described(found, arguments.k))
    return 0


def _compare(library: str, arguments: argparse.Namespace) -> Comparison:
    from tqdm import tqdm

    from knn_adapters._validation import as_vectors
    from knn_adapters.comparison import compare, one_faiss_thread, steps
    from knn_adapters.recall import exact_neighbours
    from knn_adapters.subjects import subject_of
    from knn_adapters.wrapping import find_adapter

    index = read_index(library, arguments.index, arguments, "INDEX")
    adapter = find_adapter(index)
    ids, vectors = adapter.vectors(index)
    if arguments.k > len(ids):
        raise argument_error(
            "--k", f"must be at most the {len(ids)} vectors of the index", arguments.k, "ask for fewer"
        )
    queries = as_vectors("QUERIES", _array(arguments.queries), dim=vectors.shape[1])[: arguments.max_queries]
    true_ids = ids[exact_neighbours(vectors, queries, arguments.k, adapter.metric(index))]
    subject = subject_of(index, library, arguments.k)
    with one_faiss_thread(), tqdm(total=steps(subject), desc="measuring", unit="step", file=sys.stderr) as bar:
        return compare(
            subject, index, queries, true_ids, advance=bar.update, bits=arguments.bits, rescore=arguments.rescore
        )


def _array(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise MagicPyramidError(f"`QUERIES` must be a .npy file of numbers, got {path}: {error}") from error


def _described(found: Comparison, k: int) -> str:
    knob = found.subject.effort_name
    rows = []
    for original, wrapped in zip(found.curves["original"], found.curves["wrapped"], strict=True):
        speeds = [point.queries_per_second for point in (original, wrapped)]
        recalls = [f"{point.recall:.2%}" for point in (original, wrapped)]
        rows.append(
            (str(original.effort) if knob else "-", *recalls, *(f"{speed:,.0f}" for speed in speeds), _times(speeds))
        )
    columns = (knob or "setting", f"recall@{k}", "quantized", "queries/s", "quantized", "")
    table = render_table(Table(f"{found.subject.name}, one query at a time, one thread", columns, tuple(rows)))
    lines = [str(found.figures), "", table, f"Quantized in {found.wrap_seconds:.1f} s."]
    if found.batch:
        speeds = [found.batch["original"], found.batch["wrapped"]]
        at = f" at {knob} {found.subject.effort}" if knob else ""
        lines.append(f"One batch{at}: {speeds[0]:,.0f} -> {speeds[1]:,.0f} queries/s ({_times(speeds)}).")
    return "\n".join(lines)


def _times(speeds: list[float]) -> str:
    return f"{speeds[1] / speeds[0]:.2f}x"


SUBCOMMAND = Subcommand(
    summary="an index file beside its quantized form: memory, recall, time",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
