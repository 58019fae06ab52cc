"""Training internal classifiers without running the backbone again and again.

The backbone is frozen in that stage, so the states that the classifiers read never change: they are collected in one
pass and the classifiers are trained on them, at microseconds a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_integration.losses import class_loss
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from mp_plugins import argument_error

__all__ = ["CachedExits", "collect_exit_states", "distillation_loss"]


class CachedExits(Dataset[dict[str, Tensor]]):
    """The collected states of a data set.

    Args:
        columns: ``pooled`` ``[N, exits, features]``, ``teacher_logits`` ``[N, labels]``, ``attended`` and
            ``kept`` int64 ``[N, layers]``, and, if the data set has them, ``labels``. All are on the host.
        token_ids: of all texts, packed, int64 ``[T]``; ``None`` if the data set has embeddings instead.
    """

    def __init__(self, columns: dict[str, Tensor], token_ids: Tensor | None = None) -> None:
        self.columns = columns
        self.token_ids = token_ids

    def __len__(self) -> int:
        return len(self.columns["pooled"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return a whole batch; collating thousands of single rows would cost more than the training step."""
        rows = torch.as_tensor(indices)
        return {name: column[rows] for name, column in self.columns.items()}


@torch.no_grad()
def collect_exit_states(
    model: MagicPyramidForSequenceClassification, batches: Iterable[Mapping[str, Any]], *, description: str
) -> CachedExits:
    """Run all layers over ``batches`` once, in compact execution and evaluation mode, and keep what the exits read.

    Args:
        model: left in the mode that it was in.
        batches: what :meth:`MagicPyramidForSequenceClassification.forward` takes, with or without ``labels``.
        description: shown beside the progress bar.
    """
    training, execution = model.training, model.config.execution
    columns: dict[str, list[Tensor]] = {}
    tokens: list[Tensor] = []
    model.eval()
    model.config.execution = "compact"
    try:
        for batch in tqdm(batches, desc=description, leave=False, mininterval=0.5):
            inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            states = model.exit_states(**inputs)
            found = {
                "pooled": states.pooled.float(),
                "teacher_logits": states.logits.float(),
                "attended": states.attended,
                "kept": states.kept,
            }
            if batch.get("labels") is not None:
                found["labels"] = batch["labels"]
            if "input_ids" in inputs:
                live = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) != 0
                tokens.append(inputs["input_ids"][live].cpu())
            for name, value in found.items():
                columns.setdefault(name, []).append(value.cpu())
    finally:
        model.train(training)
        model.config.execution = execution
    if not columns:
        raise argument_error("batches", "must hold at least one batch", "none", "pass a data set that is not empty")
    joined = {name: torch.cat(values) for name, values in columns.items()}
    return CachedExits(joined, torch.cat(tokens) if tokens else None)


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    problem_type: str,
    weight: float,
    temperature: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of all internal classifiers: self-distillation from the last layer, and the labels.

    Args:
        logits: ``[n, exits, labels]``.
        teacher_logits: ``[n, labels]``, of the last layer.
        labels: as for the model, or ``None`` to learn from the last layer alone.
        problem_type: one of BERT's three.
        weight: share of the distillation term, 0 to 1.
        temperature: both sides of the Kullback-Leibler divergence are softened by it (single label).
        class_weights: float32 ``[labels]``, of the classes in the loss of the labels (single label).

    Returns:
        scalar, mean over samples and exits.
    """
    teacher = teacher_logits[:, None].expand(logits.shape)
    if problem_type == "single_label_classification":
        divergence = functional.kl_div(
            (logits / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none"
        ).sum(-1)
        soft = divergence.mean() * temperature**2
    elif problem_type == "multi_label_classification":
        soft = functional.binary_cross_entropy_with_logits(logits, teacher.sigmoid())
    else:
        soft = functional.mse_loss(logits, teacher)
    if labels is None:
        return soft
    return weight * soft + (1 - weight) * _label_loss(logits, labels, problem_type, class_weights)


def _label_loss(logits: Tensor, labels: Tensor, problem_type: str, class_weights: Tensor | None) -> Tensor:
    if problem_type == "single_label_classification":
        every = labels.reshape(len(labels), 1).expand(logits.shape[:2])
        return class_loss(logits, every, class_weights)
    targets = labels.to(logits.dtype).reshape(len(labels), 1, -1).expand(logits.shape)
    if problem_type == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, targets)
    return functional.mse_loss(logits, targets)
