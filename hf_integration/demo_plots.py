"""Plots of the demo's model side, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from mp_plugins import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_depth_and_width", "plot_trade_off"]

# Two colours that stay apart for every kind of colour vision, and in print.
_PYRAMID, _BERT = "#0072B2", "#D55E00"


def plot_trade_off(points: Sequence[dict[str, Any]], bert: dict[str, Any]) -> Figure:
    """Plot accuracy against the work per document, one point per exit threshold, beside plain BERT.

    Args:
        points: dicts with ``exit_threshold``, ``gflops`` and ``accuracy`` (0 to 1).
        bert: the same for plain BERT, without the threshold.
    """
    canvas, axes = _new_plot()
    ordered = sorted(points, key=lambda point: float(point["gflops"]))
    axes.plot(
        [point["gflops"] for point in ordered],
        [100 * point["accuracy"] for point in ordered],
        "o-",
        color=_PYRAMID,
        label="Magic Pyramid",
    )
    for point in ordered:
        axes.annotate(
            f"{point['exit_threshold']:g}",
            (point["gflops"], 100 * point["accuracy"]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
    axes.plot(bert["gflops"], 100 * bert["accuracy"], "s", color=_BERT, markersize=9, label="BERT")
    axes.set_xlabel("GFLOPs per document (unpadded)")
    axes.set_ylabel("accuracy, %")
    axes.set_xlim(left=0)
    axes.legend()
    return Figure("Accuracy against work per document; the numbers are exit thresholds.", _as_svg(canvas))


def plot_depth_and_width(exit_shares: Sequence[float], kept_shares: Sequence[float]) -> Figure:
    """Plot where documents leave and how many tokens each layer still computes.

    Args:
        exit_shares: share of the documents that leave after 0, 1, ... layers.
        kept_shares: tokens that go through each layer, as a share of BERT's.
    """
    canvas, axes = _new_plot()
    depths = range(len(exit_shares))
    axes.bar([depth - 0.2 for depth in depths], [100 * share for share in exit_shares], 0.4, color=_PYRAMID)
    axes.bar(
        [layer + 0.2 for layer in range(1, len(kept_shares) + 1)],
        [100 * share for share in kept_shares],
        0.4,
        color=_BERT,
    )
    axes.set_xticks(list(depths))
    axes.set_xlabel("layers run (0 = the embeddings alone)")
    axes.set_ylabel("%")
    axes.legend(["documents that leave here", "tokens that this layer computes, of BERT's"])
    return Figure("Depth and width: where documents leave, and what is left to compute.", _as_svg(canvas))


def _new_plot() -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(7.0, 3.6), layout="constrained")
    axes = canvas.add_subplot()
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return canvas, axes


def _as_svg(canvas: Canvas) -> str:
    text = io.StringIO()
    # Letters stay text: the page can be searched and the file stays small.
    with mpl.rc_context({"svg.fonttype": "none"}):
        canvas.savefig(text, format="svg")
    return text.getvalue()
