"""The plots of the demo, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from knn_adapters.comparison import Comparison

__all__ = ["bytes_figure", "curves_figure"]

# Two colours of Okabe and Ito that differ in lightness too; markers and hatches repeat the distinction.
_STYLES = {
    "original": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "wrapped": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
}
_PARTS = (("codes or vectors", "#0072B2", ""), ("graph or trees", "#56B4E9", "//"), ("other", "#999999", "xx"))


def curves_figure(comparisons: Sequence[Comparison]) -> str:
    """Return recall against queries a second, one panel for each index that has a knob."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(4.0 * len(comparisons), 3.8), layout="constrained")
        axes = figure.subplots(1, len(comparisons), squeeze=False)[0]
        for axis, comparison in zip(axes, comparisons, strict=True):
            for kind, points in comparison.curves.items():
                recalls = [100.0 * point.recall for point in points]
                axis.plot(recalls, [point.queries_per_second for point in points], label=kind, **_STYLES[kind])
            axis.set_title(f"{comparison.subject.name}\n{_knob(comparison)}", fontsize=10)
            axis.set_yscale("log")
            axis.set_xlabel("recall@10 (%)")
            axis.grid(visible=True, which="both", alpha=0.3)
        axes[0].set_ylabel("queries per second, one thread")
        axes[0].legend()
        return _svg(figure)


def bytes_figure(comparisons: Sequence[Comparison]) -> str:
    """Return the bytes per vector of each index, original above wrapped."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "hatch.linewidth": 0.5}):
        figure = Figure(figsize=(8.0, 1.2 + 0.75 * len(comparisons)), layout="constrained")
        axis = figure.subplots()
        names: list[str] = []
        for comparison in comparisons:
            figures = comparison.figures
            wrapped = (figures.codes_bytes, figures.graph_bytes, figures.other_bytes)
            _bar(axis, len(names), (figures.original_bytes,), f"{figures.original_bytes:.0f}", "#D55E00")
            _bar(axis, len(names) + 1, wrapped, f"{figures.total_bytes:.0f} ({figures.ratio:.0%})")
            names += [f"{comparison.subject.name}, original", "wrapped"]
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlabel("bytes per vector")
        axis.margins(x=0.1)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, fontsize=8)
        return _svg(figure)


def _knob(comparison: Comparison) -> str:
    first, last = comparison.subject.efforts[0], comparison.subject.efforts[-1]
    return f"{comparison.subject.effort_name} from {first} to {last}"


def _bar(axis: Any, row: int, parts: Sequence[float], label: str, color: str | None = None) -> None:
    left = 0.0
    for size, (_, part_color, hatch) in zip(parts, _PARTS, strict=False):
        axis.barh(row, size, left=left, color=color or part_color, hatch="" if color else hatch, edgecolor="white")
        left += size
    axis.annotate(label, (left, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    wrapped = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=f"wrapped: {part}")
        for part, color, hatch in _PARTS
    ]
    return [Patch(facecolor="#D55E00", label="original, all parts"), *wrapped]


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    # Into an HTML page goes the element alone, without the XML prologue.
    return svg[svg.index("<svg") :]
