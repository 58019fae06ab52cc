"""The table, its verdicts, the JSON data and the plot."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mp_bench.curves import ratio, speed_at
from mp_bench.measuring import Subject
from mp_bench.plan import TARGETS, Target

__all__ = ["Row", "curves_table", "plot", "rows", "subjects_data", "table"]


@dataclass(frozen=True)
class Row:
    """One promise and what became of it. ``limit`` is a least ratio for speeds and a largest one for the others."""

    peer: str
    ours: str
    what: str
    peer_value: float | None
    our_value: float | None
    ratio: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the promise is kept; sizes and build times in whole percent, as they are promised."""
        return self.ratio >= self.limit if self.what.startswith("queries") else round(self.ratio, 2) <= self.limit


def rows(subjects: dict[str, Subject]) -> list[Row]:
    """Return the rows of the targets whose engines were both measured."""
    made: list[Row] = []
    for target in TARGETS:
        if target.peer in subjects and target.ours in subjects:
            made += _rows_of(target, subjects[target.peer], subjects[target.ours])
    return made


def _rows_of(target: Target, peer: Subject, ours: Subject) -> list[Row]:
    def row(what: str, peers: float | None, our: float | None, limit: float) -> Row:
        return Row(target.peer, target.ours, what, peers, our, ratio(our, peers), limit)

    made: list[Row] = []
    mode = "one by one" if target.mode == "one" else "in a batch"
    pair = [subject.points.get(target.mode, []) for subject in (peer, ours)]
    if all(pair):
        for level in target.levels:
            speeds = [speed_at(points, level) for points in pair]
            made.append(row(f"queries/s {mode} at {level}", *speeds, target.speed))
        if not target.levels:
            made.append(row(f"queries/s {mode}", pair[0][0].speed, pair[1][0].speed, target.speed))
    if target.size is not None:
        made.append(row("bytes a vector", peer.bytes_a_vector, ours.bytes_a_vector, target.size))
    if target.build is not None:
        made.append(row("build seconds", peer.build_seconds, ours.build_seconds, target.build))
    return made


def table(made: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| against | ours | what | peer | ours | ratio | target | |", "|---|---|---|--:|--:|--:|--:|---|"]
    for row in made:
        sign = ">=" if row.what.startswith("queries") else "<="
        verdict = "met" if row.met else "MISSED"
        found = "peer never" if math.isinf(row.ratio) else f"{row.ratio:.2f}"
        cells = (row.peer, row.ours, row.what, _number(row.peer_value), _number(row.our_value), found)
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
            "bytes_a_vector": subject.bytes_a_vector,
            "points": {mode: [asdict(point) for point in points] for mode, points in subject.points.items()},
        }
        for name, subject in subjects.items()
    }


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


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
