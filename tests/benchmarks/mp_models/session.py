"""Runs one task: trains or loads its models, picks their settings on held-out documents, and measures them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hf_integration.exit_selection import RecordedExits
from hf_integration.measuring import spread
from hf_integration.prepacking import prepack
from mp_models.choosing import Point, choose, points_of, records_of
from mp_models.contenders import Answers, Contender, bfloat16, int8
from mp_models.keeping import Kept, ModelShelf
from mp_models.measuring import time_in_turns
from mp_models.onnx_int8 import OnnxInt8
from mp_models.results import Baselines, Measured, TaskResult, baselines
from mp_models.tasks import Rows, Task
from mp_models.training import Recipe, Trainer

__all__ = ["BERT", "EXITS", "OURS", "PRUNING", "Settings", "run_task", "train_models"]

BERT, PRUNING, EXITS, OURS = "BERT", "token pruning alone", "early exit alone", "Magic Pyramid"
_BATCH = 32
_KEEP_SCALES = (0.0, 0.5, 1.0)
_PREPACKED = "prepacked"


@dataclass(frozen=True)
class Settings:
    """How a task is measured.

    Attributes:
        rounds: of every timing.
        batch_documents: test documents timed in batches.
        one_documents: test documents timed one by one.
        curve_documents: test documents, evenly spread, that the curves are of; None = all.
        max_loss: accuracy that the chosen settings may lose on the held-out documents, 0 to 1.
        bfloat16: train in mixed precision.
        cuda: train on a CUDA device.
        threads: of torch and of ONNX Runtime.
        others: also the contenders beside BERT and the three ideas (other precisions, padding).
    """

    rounds: int
    batch_documents: int
    one_documents: int
    curve_documents: int | None
    max_loss: float
    bfloat16: bool
    threads: int
    cuda: bool = False
    others: bool = True


def train_models(task: Task, recipe: Recipe, shelf: ModelShelf, tokenizer: Any, settings: Settings) -> dict[str, Kept]:
    """Return plain BERT and the three ideas, from the shelf or trained now."""
    trainer = Trainer(task, recipe, shelf, tokenizer, bfloat16=settings.bfloat16, cuda=settings.cuda)
    bert = trainer.bert()
    pruned = trainer.pruned(bert)
    kept = {BERT: bert, PRUNING: pruned, EXITS: trainer.with_exits(bert, "exits")}
    return {**kept, OURS: trainer.with_exits(pruned, "pyramid")}


def run_task(task: Task, kept: Mapping[str, Kept], settings: Settings) -> TaskResult:
    """Measure one task with the models of :func:`train_models`."""
    bert = kept[BERT]
    scales = {EXITS: (0.0,), OURS: _KEEP_SCALES}
    held_out = {name: records_of(kept[name].model, task.held_out, those) for name, those in scales.items()}
    # Exits alone sit on BERT as it is, so their last layer is BERT's.
    least = held_out[EXITS][0.0].full_accuracy - settings.max_loss
    curve = task.test[:: _step(len(task.test), settings.curve_documents)]
    on_curve = {name: records_of(kept[name].model, curve, those) for name, those in scales.items()}
    full = on_curve[EXITS][0.0].full_accuracy
    result = TaskResult(
        title=task.title,
        facts=_facts(task, kept, len(curve)),
        work=_work(task.test, bert.model.config, task.max_tokens),
        reference=BERT,
        ours=OURS,
        curve_reference=Point(0.0, 0.0, full, _work(curve, bert.model.config, task.max_tokens).unpadded),
        measured={},
    )
    for name in scales:
        _settle(name, kept, held_out[name], on_curve[name], least, result)
    contenders = [Contender(name, kept[name].model) for name in kept]
    if settings.others:
        contenders += _others(bert.model, kept[OURS].model, task, settings, least, result)
    _measure(contenders, task, settings, result)
    return result


def _work(rows: Rows, config: Any, max_tokens: int) -> Baselines:
    return baselines([len(row["input_ids"]) for row in rows], config, batch_size=_BATCH, max_tokens=max_tokens)


def _settle(
    name: str,
    kept: Mapping[str, Kept],
    held_out: Mapping[float, RecordedExits],
    test: Mapping[float, RecordedExits],
    least: float,
    result: TaskResult,
) -> None:
    """Set the exits, and the pruning, that the held-out documents say, and note the curves on test documents."""
    model = kept[name].model
    # The backbone of both is the same, so pruning alone is what it does without exits.
    for idea, thresholds in ((name, None), (PRUNING, [0.0])) if name == OURS else ((name, None),):
        chosen = choose(points_of(model, held_out, thresholds), least)
        result.chosen[idea] = chosen
        result.curves[idea] = points_of(model, test, thresholds)
        _set(kept[idea].model, chosen)


def _set(model: Any, chosen: Point) -> None:
    model.config.keep_scale, model.config.exit_threshold = chosen.keep_scale, chosen.exit_threshold


def _step(documents: int, wanted: int | None) -> int:
    return 1 if wanted is None else max(1, documents // wanted)


def _others(
    bert: Any, pyramid: Any, task: Task, settings: Settings, least: float, result: TaskResult
) -> list[Contender]:
    """Return the contenders that are not compared by the targets; note which could not be made.

    What is computed in less precision is sure of other answers, so the exits of a Magic Pyramid are chosen anew.
    """
    makers: Mapping[str, Callable[[], Any]] = {
        f"{BERT}, {_PREPACKED}": lambda: prepack(bert),
        f"{BERT}, bfloat16": lambda: bfloat16(bert),
        f"{BERT}, int8": lambda: int8(bert),
        f"{BERT}, int8, ONNX Runtime": lambda: OnnxInt8(bert, settings.threads),
        f"{OURS}, {_PREPACKED}": lambda: prepack(pyramid),
        f"{OURS}, bfloat16": lambda: bfloat16(pyramid),
        f"{OURS}, int8": lambda: int8(pyramid),
    }
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        # It would be emulated, at a fraction of the speed of float32.
        makers = {name: make for name, make in makers.items() if "bfloat16" not in name}
        result.skipped.append("bfloat16: this processor does not compute in it")
    made = [Contender(f"{BERT}, padded to {task.max_tokens}", bert, pad_to=task.max_tokens)]
    for name, make in makers.items():
        try:
            made.append(Contender(name, make()))
        except ImportError as error:
            result.skipped.append(f"{name}: not available here ({error})")
            continue
        if name.startswith(OURS) and not name.endswith(_PREPACKED):
            records = records_of(made[-1].model, task.held_out, _KEEP_SCALES)
            result.chosen[name] = choose(points_of(made[-1].model, records, None), least)
            _set(made[-1].model, result.chosen[name])
    return made


def _measure(contenders: list[Contender], task: Task, settings: Settings, result: TaskResult) -> None:
    """Take the accuracy on all test documents and the times on a part of them."""
    answers = {contender.name: contender.answers(task.test) for contender in contenders if contender.pad_to is None}
    batch = time_in_turns(
        contenders, spread(task.test, settings.batch_documents), _BATCH,
        rounds=settings.rounds, title=f"{task.name}: batches of {_BATCH}",
    )  # fmt: skip
    alone = [contender for contender in contenders if contender.pad_to is None]
    one = time_in_turns(
        alone, spread(task.test, settings.one_documents), 1, rounds=settings.rounds, title=f"{task.name}: one by one"
    )
    for contender in contenders:
        # Padding changes nothing about the answers.
        name, found = contender.name, answers.get(contender.name, answers[BERT])
        gflops = None if found.flops is None else float(found.flops.double().mean()) / 1e9
        result.measured[name] = Measured(found.accuracy(task.test), gflops, batch[name], one.get(name))
        if found.exit_layer is not None:
            result.depths[name] = _depths(found, task)


def _depths(answers: Answers, task: Task) -> dict[str, Any]:
    """Return the share of documents that left at each depth, and of all tokens that each layer kept."""
    if answers.exit_layer is None or answers.tokens_kept is None:
        raise TypeError("a plain model has no exits")
    layers = answers.tokens_kept.shape[1]
    tokens = sum(len(row["input_ids"]) for row in task.test)
    return {
        "exit_shares": (torch.bincount(answers.exit_layer, minlength=layers + 1) / len(answers.predicted)).tolist(),
        "kept_shares": (answers.tokens_kept.sum(0) / tokens).tolist(),
    }


def _facts(task: Task, kept: Mapping[str, Kept], curve: int) -> dict[str, Any]:
    lengths = [len(row["input_ids"]) for row in task.test]
    return {
        "documents": {
            "train": len(task.train),
            "held out": len(task.held_out),
            "test": len(task.test),
            "curves": curve,
        },
        "classes": len(task.label_names),
        "max_tokens": task.max_tokens,
        "mean_tokens": statistics.fmean(lengths),
        "models": {
            name: {"name": found.name, "earlier": found.earlier, **found.record} for name, found in kept.items()
        },
    }
