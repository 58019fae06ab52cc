"""The report of the demo's model side: tables, plots and checks over what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_integration.demo_plots import plot_depth_and_width, plot_trade_off
from hf_integration.recipe import StageReport
from mp_plugins import Check, Section, Table

__all__ = ["classification_section"]

_BASELINES = (
    ("padded to the maximum", "bert_padded_to_maximum"),
    ("padded to the longest of a batch", "bert_padded_to_longest"),
    ("unpadded", "bert_unpadded"),
)


def classification_section(data: dict[str, Any], stages: Sequence[StageReport]) -> Section:
    """Return the section; ``data`` is what :mod:`hf_integration.demo_classification` measured."""
    seconds = data["seconds"]
    return Section(
        title="Text classification: BERT against Magic Pyramid",
        summary=f"Reuters R8, {data['test_documents']} test documents of at most {data['max_tokens']} tokens. Time "
        "includes everything between token ids and logits, on length-sorted batches of 32 and on one document at a "
        f"time, the two models in turn, median of {seconds['rounds']} rounds.",
        tables=(
            Table(
                "Accuracy, work and speed",
                ("model", "accuracy", "GFLOPs/document", "documents/s, batch 32", "documents/s, batch 1"),
                (*_rows(data), _ratios(data)),
            ),
            _baselines(data["gflops_per_document"]),
            Table(
                "Training",
                ("stage", "seconds", "loss"),
                tuple((stage.stage, f"{stage.seconds:.0f}", f"{stage.training_loss:.3f}") for stage in stages),
            ),
        ),
        figures=(
            plot_trade_off(data["curve"]["points"], data["curve"]["bert"]),
            plot_depth_and_width(data["exit_shares"], data["kept_shares"]),
        ),
        checks=_checks(data),
        data={**data, "stages": [vars(stage) for stage in stages]},
    )


def _rows(data: dict[str, Any]) -> list[tuple[str, ...]]:
    accuracy, gflops, seconds = data["accuracy"], data["gflops_per_document"], data["seconds"]
    return [
        (
            name,
            f"{100 * accuracy[key]:.2f} %",
            f"{gflops[work]:.3f}",
            f"{seconds['documents_in_batches'] / seconds['batches'][key]:.0f}",
            f"{seconds['documents_alone'] / seconds['alone'][key]:.0f}",
        )
        for name, key, work in (
            ("BERT, fine-tuned", "bert", "bert_unpadded"),
            ("Magic Pyramid", "magic_pyramid", "magic_pyramid"),
        )
    ]


def _ratios(data: dict[str, Any]) -> tuple[str, ...]:
    faster = _faster(data)
    return (
        "ratio",
        f"{_gain(data):+.2f} points",
        f"1/{_work_ratio(data):.1f}",
        f"{faster['batches']:.1f}x",
        f"{faster['alone']:.1f}x",
    )


def _baselines(gflops: dict[str, float]) -> Table:
    return Table(
        "BERT's GFLOPs by what is counted",
        ("BERT", "GFLOPs/document", "times Magic Pyramid's"),
        tuple((name, f"{gflops[key]:.3f}", f"{gflops[key] / gflops['magic_pyramid']:.1f}") for name, key in _BASELINES),
    )


def _checks(data: dict[str, Any]) -> tuple[Check, ...]:
    difference, gain, ratio, faster = data["neutral_difference"], _gain(data), _work_ratio(data), _faster(data)
    return (
        Check(
            "a neutral Magic Pyramid gives BERT's logits (within 1e-5)",
            f"largest difference {difference:.1e}",
            difference <= 1e-5,
        ),
        Check("accuracy within 1 point of BERT's", f"{gain:+.2f} points", gain >= -1.0),
        Check("less than half of BERT's unpadded GFLOPs", f"1/{ratio:.1f}", ratio > 2),
        Check("faster in batches of 32", f"{faster['batches']:.1f} times", faster["batches"] > 1),
        Check("faster one document at a time", f"{faster['alone']:.1f} times", faster["alone"] > 1),
    )


def _gain(data: dict[str, Any]) -> float:
    """Accuracy of Magic Pyramid less BERT's, in points."""
    return 100 * float(data["accuracy"]["magic_pyramid"] - data["accuracy"]["bert"])


def _work_ratio(data: dict[str, Any]) -> float:
    gflops = data["gflops_per_document"]
    return float(gflops["bert_unpadded"] / gflops["magic_pyramid"])


def _faster(data: dict[str, Any]) -> dict[str, float]:
    seconds = data["seconds"]
    return {kind: seconds[kind]["bert"] / seconds[kind]["magic_pyramid"] for kind in ("batches", "alone")}
