"""Measures this library beside its peers in one run and says which targets are met.

    python tests/benchmarks/run.py --json figures.json --svg figures.svg

Everything is timed on one thread unless `--threads` says otherwise, in interleaved rounds of which the median counts.
Peers that are not installed are skipped: pip install usearch voyager scalable-vs
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path


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
    add("--groups", nargs="+", default=["graph", "flat", "ivf", "forest"], help="graph, flat, ivf, forest")
    add("--peers", nargs="+", help="only peers whose names hold one of these words, for example hnswlib svs")
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
    add("--svg", type=Path, metavar="OUT", help="write recall against speed here")
    given = parser.parse_args()
    if given.rounds < 1 or given.threads < 1 or given.k < 1 or given.queries < 1:
        parser.error("--rounds, --threads, --k and --queries must be at least 1")
    if given.quick:
        given.n, given.queries, given.rounds = min(given.n or 20_000, 20_000), min(given.queries, 300), 3
    return given


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    # Before the libraries load: they read these once, and threads of BLAS would race with what is timed.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    from mp_bench import data, machine, report
    from mp_bench.session import run_groups

    conditions = machine.describe() | {"load_before": machine.load_average(), "arguments": vars(given) | {}}
    whole = data.load(given.vectors, given.metric, given.n, given.queries)
    results = []
    for dim in given.dims or [whole.base.shape[1]]:
        searched = data.with_dim(whole, dim)
        title = f"{searched.label}: {searched.base.shape[0]} x {dim}, {given.metric}, k = {given.k}"
        print(f"\n## {title}\n", file=sys.stderr)
        subjects, skipped = run_groups(searched, given)
        rows = report.rows(subjects)
        print(f"\n## {title}, {given.threads} thread(s)\n\n{report.table(rows)}\n\n{report.curves_table(subjects)}")
        for reason in skipped:
            print(f"skipped: {reason}")
        results.append(
            {
                "data": title,
                "rows": [asdict(row) | {"met": row.met} for row in rows],
                "engines": report.subjects_data(subjects),
                "skipped": skipped,
            }
        )
        if given.svg:
            report.plot(subjects, given.svg.with_stem(f"{given.svg.stem}-{dim}") if given.dims else given.svg, title)
    conditions["load_after"] = machine.load_average()
    print(f"\n{json.dumps(conditions, default=str)}")
    if given.json:
        text = json.dumps({"conditions": conditions, "results": results}, indent=2, default=str)
        given.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
