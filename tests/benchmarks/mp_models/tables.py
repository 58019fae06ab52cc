"""The tables as Markdown, and the plot of accuracy against work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mp_models.choosing import Point, frontier
from mp_models.results import LOSSES, TaskResult
from mp_models.targets import Outcome

__all__ = [
    "contenders_table", "equal_accuracy_table", "plot", "targets_table", "training_table", "variants_table",
]  # fmt: skip

_WHAT = {
    "loss": "loss in points",
    "gflops": "less work, unpadded",
    "batch": "faster, batches of 32",
    "one": "faster, one by one",
}


def targets_table(found: Sequence[Outcome], titles: Mapping[str, str]) -> str:
    """Return the promises and what became of them."""
    lines = ["| data | what | target | measured | |", "|---|---|--:|--:|---|"]
    for outcome in found:
        target = outcome.target
        loss = target.what == "loss"
        limit, value = (f"{number:.2f}" if loss else f"{number:.2f}x" for number in (target.limit, outcome.value))
        cells = (titles.get(target.task, target.task), _WHAT[target.what], f"{'<=' if loss else '>='} {limit}", value)
        lines.append(f"| {' | '.join(cells)} | {outcome.verdict} |")
    return "\n".join(lines)


def contenders_table(result: TaskResult) -> str:
    """Return every contender of one task; times as seconds a document and as speed over BERT's."""
    work = result.work
    lines = [
        f"BERT computes {work.unpadded:.3f} GFLOPs a document without padding, {work.longest:.3f} padded to the "
        f"longest of a batch of 32, {work.maximum:.3f} padded to the maximum.",
        "",
        "| model | accuracy | loss | GFLOPs | less work: unpadded, longest, maximum | documents/s, 32 | | alone | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, measured in result.measured.items():
        ratios = [result.less_work(name, against) for against in ("unpadded", "longest", "maximum")]
        cells = [
            name,
            f"{100 * measured.accuracy:.2f} %",
            f"{result.loss(name):.2f}",
            "-" if measured.gflops is None else f"{measured.gflops:.3f}",
            ", ".join(_times(ratio) for ratio in ratios),
        ]
        for mode in ("batch", "one"):
            timing = getattr(measured, mode)
            cells += ["-" if timing is None else f"{timing.speed:.1f}", _times(result.faster(name, mode))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"skipped: {line}" for line in result.skipped)])


def training_table(result: TaskResult) -> str:
    """Return the seconds that each model's training took, and when."""
    lines = ["| trained | stages, seconds | on | when | load |", "|---|---|---|---|--:|"]
    for name, made in result.facts["models"].items():
        stages = ", ".join(f"{report['stage']} {report['seconds']:.0f}" for report in made["stages"])
        # Of a training that was interrupted, each stage counts since it last went on.
        note = " (interrupted: each stage since it went on)" if made["resumed"] else ""
        when = made["made_at"] if made["earlier"] else "this run"
        devices = ", ".join(sorted({report["device"] for report in made["stages"]}))
        lines.append(f"| {name} | {stages}{note} | {devices} | {when} | {made['load']} |")
    return "\n".join(lines)


def equal_accuracy_table(result: TaskResult) -> str:
    """Return the least work of each idea at equal loss, over all of its settings, on the test documents."""
    lines = [
        f"| least GFLOPs at a loss of | {' | '.join(f'{loss:g} points' for loss in LOSSES)} |",
        f"|---{'|--:' * len(LOSSES)}|",
    ]
    for name, points in result.equal_accuracy().items():
        cells = [
            "never" if point is None else f"{point.gflops:.3f} ({_times(result.curve_reference.gflops / point.gflops)})"
            for point in points
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def variants_table(rows: Sequence[Mapping[str, Any]], head: str) -> str:
    """Return variants of one part (exit criteria, pruners), each with settings picked on held-out documents."""
    lines = [
        f"| {head} | keep scale | exit threshold | accuracy | loss | less work, unpadded |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = (
            row["name"], f"{row['keep_scale']:g}", f"{row['exit_threshold']:.4g}",
            f"{100 * row['accuracy']:.2f} %", f"{row['loss_points']:.2f}", _times(row["less_work"]),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Mapping[str, TaskResult], path: Path) -> None:
    """Write accuracy against work, one panel a task, as SVG; the setting picked on held-out documents is marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(results), 5), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, result in zip(panels, results.values(), strict=True):
        for name, points in result.curves.items():
            best = frontier(points)
            (line,) = axes.plot(
                [point.gflops for point in best], [100 * point.accuracy for point in best], marker="o", markersize=2,
                linewidth=2.4 if name == result.ours else 1.2, label=name,
            )  # fmt: skip
            picked = _picked(points, result.chosen[name])
            axes.plot(picked.gflops, 100 * picked.accuracy, marker="*", markersize=12, color=line.get_color())
        full = 100 * result.curve_reference.accuracy
        axes.plot(result.curve_reference.gflops, full, "ks", label=result.reference)
        axes.axhline(full - 0.5, color="grey", linestyle=":", linewidth=1)
        axes.set(
            title=result.title, xlabel="GFLOPs a document", ylabel="accuracy on the test documents, %", xscale="log"
        )
        axes.set_ylim(full - 4, full + 1)
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, format="svg")


def _picked(points: Sequence[Point], chosen: Point) -> Point:
    """Return the point of the test curve that is nearest to the setting picked on held-out documents."""
    same = [point for point in points if point.keep_scale == chosen.keep_scale]
    return min(same, key=lambda point: abs(point.exit_threshold - chosen.exit_threshold))


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"
