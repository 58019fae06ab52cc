"""From how few tokens on does taking them out pay? The rows that stay are copied, and fewer go through the layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_integration.layouts import CompactLayout
from hf_integration.packing import Packing
from hf_integration.registration import attach

__all__ = ["compaction_rows", "compaction_table"]

_TEXT = 64  # tokens of each text


def compaction_rows(bert: Any, row_counts: Sequence[int], *, repeats: int) -> list[dict[str, Any]]:
    """Time dropping tokens, letting texts leave, and what a layer takes, for each number of packed tokens.

    Args:
        bert: a plain model, on the device and in the dtype to measure.
        row_counts: multiples of 64.
        repeats: of which the median counts.
    """
    model = attach(bert)
    layer = model.family.layers(model.base_model)[0]
    made = []
    for rows in row_counts:
        layout = _layout(model, rows)
        start = dict(layout.__dict__)
        # One token in a hundred, and one text: nearly all rows are copied, which is what it costs at most.
        keep = torch.arange(rows, device=layout.hidden.device) % 100 != 1
        stay = [text != 0 for text in range(rows // _TEXT)]

        def seconds(call: Callable[[], Any], layout: CompactLayout = layout, start: dict[str, Any] = start) -> float:
            taken = []
            for _ in range(repeats):
                layout.__dict__.update(start)
                _wait(layout.hidden.device)
                begun = time.perf_counter()
                call()
                _wait(layout.hidden.device)
                taken.append(time.perf_counter() - begun)
            return statistics.median(taken[repeats // 5 :])

        with torch.inference_mode():
            dropping = seconds(lambda layout=layout, keep=keep: layout.keep_tokens(keep))
            leaving = seconds(lambda layout=layout, stay=stay: layout.leave(stay)) if len(stay) > 1 else None
            attending = seconds(lambda layout=layout: layout.attend(layer, importance=None))
            rest = seconds(lambda layout=layout: layout.transform(layer))
        made.append(
            {
                "device": str(layout.hidden.device), "dtype": str(layout.hidden.dtype), "width": layout.hidden.shape[1],
                "tokens": rows, "dropping_us": dropping * 1e6, "rest_of_layer_us": rest * 1e6,
                "drop_pays_from": dropping / rest, "leaving_us": None if leaving is None else leaving * 1e6,
                "layer_us": (attending + rest) * 1e6,
                "leave_pays_from": None if leaving is None else leaving / (attending + rest),
            }
        )  # fmt: skip
    return made


def compaction_table(made: Sequence[dict[str, Any]]) -> str:
    """Return the costs as Markdown; shares are those from which on it pays within a single layer."""
    lines = [
        "| width | tokens | dropping some | rest of the layer | pays from | texts leaving | a layer | pays from |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in made:
        cells = [f"{row['dropping_us']:.0f} us", f"{row['rest_of_layer_us']:.0f} us", f"{row['drop_pays_from']:.1%}"]
        if row["leaving_us"] is None:
            cells += ["-", f"{row['layer_us']:.0f} us", "-"]
        else:
            cells += [f"{row['leaving_us']:.0f} us", f"{row['layer_us']:.0f} us", f"{row['leave_pays_from']:.1%}"]
        lines.append(f"| {row['width']} | {row['tokens']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _layout(model: Any, rows: int) -> CompactLayout:
    embedding = model.get_input_embeddings().weight
    packing = Packing((_TEXT,) * (rows // _TEXT), torch.arange(rows // _TEXT, device=embedding.device))
    hidden = torch.randn(rows, model.config.hidden_size, device=embedding.device, dtype=embedding.dtype)
    protected = torch.zeros(rows, dtype=torch.bool, device=embedding.device)
    layout = CompactLayout(
        model.family, model.config.num_attention_heads, packing, hidden, protected, backbone=model.base_model
    )
    layout.context = torch.randn_like(hidden)
    return layout


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
