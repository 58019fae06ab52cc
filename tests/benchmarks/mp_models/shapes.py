"""Does time follow the arithmetic? BERT-base shapes with random weights, at fixed keep rates and fixed exit rates.

Random weights answer nothing, so this is about speed alone: how many tokens stay and how many texts leave is set.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from hf_integration.early_exit import ExitCriterion, ExitEvidence
from hf_integration.flops import baseline_flops
from hf_integration.prepacking import prepack
from hf_integration.registration import attach
from mp_models.contenders import Contender
from mp_models.measuring import time_in_turns
from mp_models.tasks import Rows

__all__ = ["SHAPES", "Shape", "base_model", "cuda_rows", "shape_rows", "shapes_table", "with_own_share"]

TOLERANCE = 0.25
"""By how much time may go down otherwise than arithmetic does."""

_LABELS = 8
_EXITS = (3, 6, 9)
_PRUNING = (2, 4, 6, 8)


@dataclass(frozen=True)
class Shape:
    """What stays: tokens of a text after the pruning layers, and texts at each exit."""

    keep_rates: tuple[float, ...]
    stay_rate: float

    @property
    def name(self) -> str:
        """For the table."""
        kept = "all tokens" if not self.keep_rates else f"tokens to {self.keep_rates[-1]:.0%}"
        return f"{kept}, {1 - self.stay_rate:.0%} leave at each exit"


SHAPES = (
    Shape((), 1.0),
    Shape((0.8, 0.6, 0.4, 0.25), 1.0),
    Shape((), 0.6),
    Shape((0.8, 0.6, 0.4, 0.25), 0.6),
)


class FixedRate(ExitCriterion):
    """Lets texts go by a draw from their own pooled state, at a given rate at every exit."""

    def __init__(self, config: Any, rate: float) -> None:
        super().__init__(config)
        self.rate = rate

    def judge(self, evidence: ExitEvidence) -> Tensor:
        """Return 0 for those who leave and 1 for the others."""
        # Digits of the state far behind the point are as good as drawn.
        draw = (evidence.pooled[:, :8].float().sum(1) * 1e4).frac().abs()
        return (draw >= self.rate).float()


def base_model(seed: int = 0) -> BertForSequenceClassification:
    """Return BERT-base with random weights."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(num_labels=_LABELS)).eval()


def shaped(bert: BertForSequenceClassification, shape: Shape) -> Any:
    """Return a copy as a Magic Pyramid of this shape."""
    settings: dict[str, Any] = {"exit_layers": list(_EXITS), "token_pruner": None}
    if shape.keep_rates:
        settings |= {
            "token_pruner": "top-k", "pruning_layers": list(_PRUNING), "keep_rate": list(shape.keep_rates)
        }  # fmt: skip
    model = attach(copy.deepcopy(bert), **settings)
    if shape.stay_rate < 1:
        model.exit_criterion = FixedRate(model.config, 1 - shape.stay_rate)
        model.config.exit_threshold = 0.5
    return model.eval()


def shape_rows(rows: Rows, batch_sizes: Sequence[int], *, rounds: int, prepacked: bool) -> list[dict[str, Any]]:
    """Time every shape beside plain BERT on ``rows`` at each batch size, and compare with the arithmetic.

    Args:
        prepacked: all of them, plain BERT too, have prepacked weights.
    """
    bert = base_model()
    models = {shape.name: shaped(bert, shape) for shape in SHAPES}
    if prepacked:
        bert, models = prepack(bert), {name: prepack(model) for name, model in models.items()}
    contenders = [Contender("BERT", bert), *(Contender(name, model) for name, model in models.items())]
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    full = float(baseline_flops(lengths, bert.config).mean())
    made = []
    for batch_size in batch_sizes:
        times = time_in_turns(
            contenders, rows, batch_size, rounds=rounds, title=f"BERT-base shapes, batches of {batch_size}"
        )
        made += with_own_share(
            [
                {
                    "shape": contender.name,
                    "batch_size": batch_size,
                    "prepacked": prepacked,
                    "work_left": _mean_flops(contender, rows, batch_size) / full,
                    "time_left": times[contender.name].seconds / times["BERT"].seconds,
                    "seconds": times[contender.name].rounds,
                    "bert_seconds": times["BERT"].rounds,
                }
                for contender in contenders[1:]
            ]
        )
    return made


def _mean_flops(contender: Contender, rows: Rows, batch_size: int) -> float:
    flops = contender.answers(rows, batch_size).flops
    if flops is None:
        raise TypeError("a plain model does not count its operations")
    return float(flops.mean())


def with_own_share(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add whether the time goes down as the arithmetic does, from the first shape, which drops nothing.

    Beside plain BERT other things differ too, such as how much memory a layer takes at once.
    """
    whole = made[0]
    for row in made:
        time, work = row["time_left"] / whole["time_left"], row["work_left"] / whole["work_left"]
        row["met"] = abs(time / work - 1) <= TOLERANCE
        row["time_by_arithmetic"] = time / work
    return made


def shapes_table(made: Sequence[dict[str, Any]], title: str) -> str:
    """Return the shapes as Markdown."""
    lines = [
        f"| {title} | batch | arithmetic left | time left | as from the first shape | within 25 % |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in made:
        work, time, ratio = row["work_left"], row["time_left"], row["time_by_arithmetic"]
        verdict = "met" if row["met"] else "MISSED"
        lines.append(f"| {row['shape']} | {row['batch_size']} | {work:.3f} | {time:.3f} | {ratio:.2f} | {verdict} |")
    return "\n".join(lines)


def cuda_rows(tokens: int, batch_sizes: Sequence[int], *, rounds: int) -> list[dict[str, Any]]:
    """Time every shape beside plain BERT-base on a CUDA device in bfloat16, on batches of random ids of one length."""
    device = torch.device("cuda")
    bert = base_model().to(device, torch.bfloat16)
    models = {shape.name: shaped(bert, shape) for shape in SHAPES}
    full = float(baseline_flops(torch.tensor([tokens]), bert.config).mean())
    made = []
    for batch_size in batch_sizes:
        ids = torch.randint(1000, 30000, (batch_size, tokens), device=device)
        reference = _cuda_seconds(bert, ids, rounds)
        shapes = []
        for name, model in models.items():
            with torch.inference_mode():
                work = float(model(input_ids=ids).flops.mean()) / full
            seconds = _cuda_seconds(model, ids, rounds)
            shapes.append(
                {
                    "shape": name, "batch_size": batch_size, "tokens": tokens, "work_left": work,
                    "time_left": seconds / reference, "seconds": seconds, "bert_seconds": reference,
                }
            )  # fmt: skip
        made += with_own_share(shapes)
    return made


def _cuda_seconds(model: Any, ids: Tensor, rounds: int) -> float:
    """Return the median seconds of one call."""
    with torch.inference_mode():
        for _ in range(3):
            model(input_ids=ids)
        taken = []
        for _ in range(rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            model(input_ids=ids)
            end.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(end) / 1e3)
    return sorted(taken)[len(taken) // 2]
