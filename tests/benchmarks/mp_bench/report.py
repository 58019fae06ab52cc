"""The tables, the JSON data and the plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mp_bench.measuring import Subject
from mp_bench.rows import Row
from mp_bench.scale import Growth

__all__ = [
    "curves_table",
    "growth_data",
    "growth_table",
    "plot",
    "plot_growth",
    "rows_data",
    "subjects_data",
    "table",
    "write_json",
]


def table(made: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| against | ours | what | peer | ours | compared | target | |", "|---|---|---|--:|--:|--:|--:|---|"]
    for row in made:
        verdict = "met" if row.met else "MISSED"
        cells = (row.peer, row.ours, row.what, _number(row.peer_value), _number(row.our_value), row.compared_text)
        sign = ">=" if row.at_least else "<="
        lines.append(f"| {' | '.join(cells)} | {sign} {row.limit:g} | {verdict} |")
    return "\n".join(lines)


def curves_table(subjects: dict[str, Subject]) -> str:
    """Return every point that was measured, as a Markdown table."""
    lines = ["| engine | mode | effort: recall@k, queries/s |", "|---|---|---|"]
    for name, subject in subjects.items():
        for mode, points in subject.points.items():
            cells = "; ".join(f"{point.effort}: {point.recall:.4f}, {point.speed:.0f}" for point in points)
            lines.append(f"| {name} | {mode} | {cells} |")
    return "\n".join(lines)


def subjects_data(subjects: dict[str, Subject]) -> dict[str, Any]:
    """Return everything measured, in full precision."""
    return {
        name: {
            "build_seconds": subject.build_seconds,
            "built_at": subject.built_at or "this run",
            "bytes_a_vector": subject.bytes_a_vector,
            "points": {mode: [asdict(point) for point in points] for mode, points in subject.points.items()},
        }
        for name, subject in subjects.items()
    }


def rows_data(made: list[Row]) -> list[dict[str, Any]]:
    """Return the rows, in full precision, with their verdicts."""
    return [asdict(row) | {"met": row.met} for row in made]


def growth_data(growths: Sequence[Growth]) -> dict[str, Any]:
    """Return microseconds by size, and the exponent, of each engine."""
    return {growth.engine: {"by_size": growth.microseconds, "exponent": growth.exponent} for growth in growths}


def growth_table(growths: Sequence[Growth]) -> str:
    """Return microseconds a query by size and the exponent of their growth, as a Markdown table."""
    sizes = sorted({size for growth in growths for size in growth.microseconds})
    lines = [
        f"| engine | {' | '.join(f'{size:,}' for size in sizes)} | grows as n^ |",
        f"|---{'|--:' * len(sizes)}|--:|",
    ]
    for growth in growths:
        cells = [_number(growth.microseconds.get(size)) for size in sizes]
        exponent = "-" if growth.exponent is None else f"{growth.exponent:.2f}"
        lines.append(f"| {growth.engine} | {' | '.join(cells)} | {exponent} |")
    return "\n".join(lines)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` in one step: a run that is cut off leaves what was written before."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
    part.replace(path)


def plot(subjects: dict[str, Subject], path: Path, title: str) -> None:
    """Write recall against queries a second, one by one, as SVG; ours drawn heavier."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for name, subject in subjects.items():
        points = subject.points.get("one", [])
        axes.plot(
            [point.recall for point in points], [point.speed for point in points], marker="o", markersize=3, label=name,
            linewidth=2.4 if name.startswith("ours") else 1.0,
        )  # fmt: skip
    axes.set(xlabel="recall@k", ylabel="queries a second, one by one", title=title, yscale="log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, format="svg")


def plot_growth(growths: Sequence[Growth], path: Path, title: str) -> None:
    """Write microseconds a query against the number of vectors, both logarithmic, as SVG; ours drawn heavier."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for growth in growths:
        axes.plot(
            list(growth.microseconds), list(growth.microseconds.values()), marker="o", markersize=3,
            label=growth.engine, linewidth=2.4 if growth.engine.startswith("ours") else 1.0,
        )  # fmt: skip
    axes.set(xlabel="vectors", ylabel="microseconds a query, one by one", title=title, xscale="log", yscale="log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, format="svg")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value > 1 else f"{value:.4f}"
