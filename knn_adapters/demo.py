"""The part of ``magic-pyramid demo`` that wraps an index of each library and measures it beside its original."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from knn_adapters import _core
from knn_adapters._validation import as_vectors
from knn_adapters.comparison import Comparison, compare, one_faiss_thread, steps
from knn_adapters.demo_figures import bytes_figure, curves_figure
from knn_adapters.demo_subjects import SUBJECTS
from knn_adapters.recall import exact_neighbours
from mp_plugins import Check, DemoContext, Figure, Section, Table

__all__ = ["IndexesPart"]

K = 10
_MAX_VECTORS = 20_000
_MAX_QUERIES = 200
_MAX_BYTES_RATIO = 0.45
_MAX_RECALL_LOSS = 0.02


class IndexesPart:
    """Builds and wraps a flat and a graph index of FAISS, a graph of hnswlib and a forest of Annoy."""

    requires: frozenset[str] = frozenset({"embeddings", "query_embeddings"})
    provides: frozenset[str] = frozenset()

    def run(self, context: DemoContext) -> Section:
        """Measure on ``embeddings`` and ``query_embeddings``, normalised ``float32`` ``(n, d)`` and ``(q, d)``."""
        from tqdm import tqdm

        vectors = as_vectors("embeddings", context.artifacts["embeddings"])[:_MAX_VECTORS]
        queries = as_vectors("query_embeddings", context.artifacts["query_embeddings"])[:_MAX_QUERIES]
        comparisons, build_seconds = [], []
        true_ids = exact_neighbours(vectors, queries, K, "ip")
        total = sum(1 + steps(subject) for subject in SUBJECTS)
        with one_faiss_thread(), tqdm(total=total, desc="indexes", unit="step", file=sys.stderr) as bar:
            for subject in SUBJECTS:
                bar.set_postfix_str(subject.name)
                started = time.perf_counter()
                original = subject.build(vectors, seed=context.seed, num_threads=context.num_threads)
                build_seconds.append(time.perf_counter() - started)
                bar.update()
                comparisons.append(compare(subject, original, queries, true_ids, advance=bar.update))
        with_knob = [comparison for comparison in comparisons if comparison.subject.effort_name]
        return Section(
            title="Quantized indexes",
            summary=_summary(comparisons, vectors.shape, len(queries)),
            tables=(_speed_table(comparisons), _memory_table(comparisons, build_seconds)),
            figures=(
                Figure("Recall@10 against exact search, and queries per second, as the knob of each index is turned. "
                       "Up and to the right is better.", curves_figure(with_knob)),
                Figure("Memory per vector of each index and of its wrapped form.", bytes_figure(comparisons)),
            ),
            checks=tuple(check for comparison in comparisons for check in _checks(comparison)),
            data={
                comparison.subject.name: {**comparison.as_data(), "build_seconds": seconds}
                for comparison, seconds in zip(comparisons, build_seconds, strict=True)
            },
        )  # fmt: skip


def _summary(comparisons: Sequence[Comparison], shape: tuple[int, ...], n_queries: int) -> str:
    speedups = [_speedup(comparison) for comparison in comparisons]
    ratios = [comparison.figures.ratio for comparison in comparisons]
    return (
        f"{shape[0]} vectors of {shape[1]} dimensions, {n_queries} queries, k = {K}, one thread, SIMD level "
        f"{_core.simd_level()}. The wrapped indexes take {min(ratios):.0%} to {max(ratios):.0%} of the originals' "
        f"bytes and answer {min(speedups):.1f} to {max(speedups):.1f} times as many queries a second at the same "
        "settings."
    )


def _speedup(comparison: Comparison) -> float:
    return comparison.at_effort("wrapped").queries_per_second / comparison.at_effort("original").queries_per_second


def _speed_table(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for comparison in comparisons:
        subject = comparison.subject
        for kind in ("original", "wrapped"):
            point = comparison.at_effort(kind)
            batch = comparison.batch.get(kind)
            rows.append(
                (
                    subject.name,
                    kind,
                    f"{subject.effort_name} {subject.effort}" if subject.effort_name else "-",
                    f"{point.recall:.2%}",
                    f"{point.queries_per_second:,.0f}",
                    "-" if batch is None else f"{batch:,.0f}",
                )
            )
    columns = ("index", "", "setting", f"recall@{K}", "queries/s, one by one", "queries/s, one batch")
    return Table("Speed and recall, one thread (medians of interleaved rounds)", columns, tuple(rows))


def _memory_table(comparisons: Sequence[Comparison], build_seconds: Sequence[float]) -> Table:
    rows = tuple(
        (
            comparison.subject.name,
            f"{comparison.figures.original_bytes:.0f}",
            f"{comparison.figures.total_bytes:.0f}",
            f"{comparison.figures.ratio:.1%}",
            f"{seconds:.1f}",
            f"{comparison.wrap_seconds:.1f}",
            comparison.figures.clip,
        )
        for comparison, seconds in zip(comparisons, build_seconds, strict=True)
    )
    columns = ("index", "bytes/vector", "wrapped", "ratio", "build (s)", "wrap (s)", "clip range picked")
    return Table("Memory and time to build", columns, rows)


def _checks(comparison: Comparison) -> Iterator[Check]:
    name, ratio = comparison.subject.name, comparison.figures.ratio
    original, wrapped = comparison.at_effort("original"), comparison.at_effort("wrapped")
    loss = original.recall - wrapped.recall
    yield Check(
        f"{name}: at most {_MAX_BYTES_RATIO:.0%} of the original's bytes a vector",
        f"{ratio:.1%}",
        ratio <= _MAX_BYTES_RATIO,
    )
    yield Check(
        f"{name}: recall@{K} within {100 * _MAX_RECALL_LOSS:.0f} points of the original's",
        f"{wrapped.recall:.2%} against {original.recall:.2%}",
        loss <= _MAX_RECALL_LOSS,
    )
    yield Check(
        f"{name}: faster than the original",
        f"{_speedup(comparison):.2f} times as many queries a second",
        _speedup(comparison) > 1.0,
    )
