"""Measures this library beside its peers in one run and says which targets are met.

    python tests/benchmarks/run.py --json figures.json --svg figures.svg
    python tests/benchmarks/run.py --groups --scale --threads 2 --peers hnswlib ivf --svg growth.svg

Everything is timed on one thread unless `--threads` says otherwise, in interleaved rounds of which the median counts.
The JSON file is written again after each group, so that a run that is cut off loses no more than that group.
Peers that are not installed are skipped: pip install usearch voyager scalable-vs
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

GROUPS = ("graph", "flat", "ivf", "forest", "ceiling", "overhead")
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--vectors", default="sentences", help="sentences (116 000 x 384, made once), words, or an .npy or .npz file")
    add("--metric", choices=("ip", "l2"), default="ip", help="ip normalises (default: ip)")
    add("--n", type=int, help="search among the first N vectors only")
    add("--queries", type=int, default=1000, metavar="N", help="number of queries (default: 1000)")
    add("--k", type=int, default=10, help="neighbours (default: 10)")
    add("--dims", type=int, nargs="+", help="also other dimensions, for example 100 128 768 1536 (cut or joined rows)")
    add("--groups", nargs="*", choices=GROUPS, default=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}; or none")
    add(
        "--scale",
        type=int,
        nargs="*",
        metavar="N",
        help="also how the time of a query grows from 10 000 to 1 000 000 vectors, or by the sizes given here; "
        "vectors are mixtures of two real ones each (the graphs of a million take tens of minutes)",
    )
    add("--peers", nargs="+", metavar="WORD", help="only peers whose names hold one of these words, for example annoy")
    add("--keep", type=Path, metavar="FOLDER", help="keep the peers' indexes here, and take those of earlier runs")
    add("--rounds", type=int, default=5, help="rounds whose median counts (default: 5)")
    add("--threads", type=int, default=1, help="threads of builds and batches (default: 1)")
    add(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: time of this process on its core, for a machine "
        "that does other work; it hides neither the caches nor the memory that the others use (default: wall)",
    )
    add("--quick", action="store_true", help="20 000 vectors, 300 queries, 3 short rounds: a look, not a measurement")
    add("--json", type=Path, metavar="OUT", help="write every figure here")
    add("--svg", type=Path, metavar="OUT", help="write recall against speed here, and growth to OUT-growth.svg")
    given = parser.parse_args()
    if min(given.rounds, given.threads, given.k, given.queries, *(given.scale or [1]), given.n or 1) < 1:
        parser.error("--rounds, --threads, --k, --queries, --n and --scale must be at least 1")
    if given.scale is not None:
        given.scale = given.scale or list(SIZES)
    if given.quick:
        given.n, given.queries, given.rounds = min(given.n or 20_000, 20_000), min(given.queries, 300), 3
    return given


def run_table(
    searched: Any, given: argparse.Namespace, shelf: Any, results: list[Any], write: Callable[[], None]
) -> None:
    """Measure the groups on ``searched``; each is added to ``results``, and written, when it is finished."""
    from mp_bench import report
    from mp_bench.curves import Truth
    from mp_bench.session import run_group

    title = f"{searched.label}: {len(searched.base)} x {searched.base.shape[1]}, {searched.metric}, k = {given.k}"
    print(f"\n## {title}, {given.threads} thread(s)")
    truth = Truth.of(searched.base, searched.queries, given.k, searched.metric)
    result: dict[str, Any] = {"data": title, "rows": [], "engines": {}, "skipped": []}
    results.append(result)
    subjects: dict[str, Any] = {}
    for group in given.groups:
        outcome = run_group(group, searched, truth, given, shelf)
        subjects |= outcome.subjects
        result["rows"] += report.rows_data(outcome.rows)
        result["engines"] |= report.subjects_data(outcome.subjects)
        result["skipped"] += outcome.skipped
        write()
        print(
            f"\n### {group}\n\n{report.table(outcome.rows)}\n",
            *(f"skipped: {line}" for line in outcome.skipped),
            sep="\n",
        )
    if subjects:
        print(f"\n{report.curves_table(subjects)}", flush=True)
    if given.svg and subjects:
        dims = f"-{searched.base.shape[1]}" if given.dims else ""
        report.plot(subjects, given.svg.with_stem(f"{given.svg.stem}{dims}"), title)


def run_growth(data: Any, given: argparse.Namespace, shelf: Any, results: list[Any], write: Callable[[], None]) -> None:
    """Measure how time grows with size, and write after each group of each size."""
    from mp_bench import report, scale

    result: dict[str, Any] = {"engines": {}}
    results.append(result)
    for step in scale.grow(data, given, shelf):
        title = f"{step.label}, {data.base.shape[1]} dimensions, {data.metric}, recall@{given.k} of {scale.RECALL}"
        result |= {"data": title, "microseconds": report.growth_data(step.growths), "skipped": step.skipped}
        result["engines"].setdefault(step.size, {}).update(report.subjects_data(step.subjects))
        write()
        if given.svg:
            report.plot_growth(step.growths, given.svg.with_stem(f"{given.svg.stem}-growth"), title)
    print(f"\n## {title}: microseconds a query, one by one\n\n{report.growth_table(step.growths)}\n")
    for line in step.skipped:
        print(f"skipped: {line}")


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    # Before the libraries load: they read these once, and threads of BLAS would race with what is timed.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    from mp_bench import data, machine, report, session
    from mp_bench.keeping import Shelf

    whole = data.load(given.vectors, given.metric, given.n, given.queries)
    if given.k > len(whole.base):
        raise SystemExit(f"--k: {given.k} neighbours of {len(whole.base)} vectors; ask for fewer")
    results: list[dict[str, Any]] = []
    conditions = machine.describe() | {"load_before": machine.load_average(), "arguments": vars(given) | {}}

    def write() -> None:
        conditions["load_after"] = machine.load_average()
        if given.json:
            report.write_json(given.json, {"conditions": conditions, "results": results})

    shelf = Shelf(given.keep, session.CLOCKS[given.clock], given.clock)
    for dim in (given.dims or [whole.base.shape[1]]) if given.groups else ():
        run_table(data.with_dim(whole, dim), given, shelf, results, write)
    if given.scale:
        run_growth(whole, given, shelf, results, write)
    write()
    print(f"\n{json.dumps(conditions, default=str)}")


if __name__ == "__main__":
    main()
