"""The models of one task: BERT fine-tuned, and from it the pruned one, the one with exits, and the one with both."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

from hf_integration.demo_checkpoint import checkpoint_path
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from hf_integration.recipe import RECIPE, run_stages
from hf_integration.registration import attach, detach
from mp_models.keeping import Kept, ModelShelf
from mp_models.tasks import Rows, Task

__all__ = ["Recipe", "Trainer", "recipe_of"]

_SAVE_STEPS = 100


@dataclass(frozen=True)
class Recipe:
    """How the models of a task are trained, beyond :data:`hf_integration.recipe.RECIPE`.

    Attributes:
        train_tokens: documents are cut to so many to fine-tune.
        pruning_tokens: and to so many for the stages ``soft`` and ``hard``: cuts do not depend on the length.
        stages: changes to the arguments of :class:`transformers.TrainingArguments`, by stage.
        options: of :class:`hf_integration.MagicPyramidTrainer`.
        seed: of every random choice.
    """

    train_tokens: int
    stages: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    pruning_tokens: int = 128
    seed: int = 42


_FINETUNE = {"num_train_epochs": 2, "learning_rate": 2e-4, "per_device_train_batch_size": 16}
# About as many steps as the demo takes, which the defaults are for: its documents are a quarter as many, or less.
_SOFT = {"num_train_epochs": 0.2}
# As many epochs in one stage as the others have together, give or take a tenth.
_STAGES = {"finetune": _FINETUNE, "soft": _SOFT, "joint": {**_FINETUNE, "num_train_epochs": 2.4}}
_RECIPES = {
    "r8": Recipe(192, _STAGES),
    "20ng": Recipe(
        128,
        {
            **_STAGES,
            "finetune": {**_FINETUNE, "num_train_epochs": 1.5},
            "joint": {**_FINETUNE, "num_train_epochs": 1.7},
            "soft": {"num_train_epochs": 0.1},
        },
    ),
    "tweets": Recipe(256, _STAGES),
    "pairs": Recipe(256, _STAGES),
}


def recipe_of(task: str, *, quick: bool) -> Recipe:
    """Return the recipe of a task; ``quick`` makes one epoch of every stage that runs the backbone."""
    recipe = _RECIPES[task]
    if not quick:
        return recipe
    one_epoch = {**_FINETUNE, "num_train_epochs": 1}
    once = {**recipe.stages, "finetune": one_epoch, "joint": one_epoch}
    return replace(recipe, train_tokens=64, pruning_tokens=64, stages=once)


class Trainer:
    """Makes the models of one task, each at most once.

    Args:
        task: its documents.
        recipe: how.
        shelf: where they are kept.
        tokenizer: of the checkpoint.
        bfloat16: train in mixed precision, which is faster where the processor multiplies bfloat16.
        cuda: train on a CUDA device.
    """

    def __init__(
        self, task: Task, recipe: Recipe, shelf: ModelShelf, tokenizer: Any, *, bfloat16: bool, cuda: bool = False
    ) -> None:
        self._task, self._recipe, self._shelf = task, recipe, shelf
        self._bfloat16, self._cuda = bfloat16, cuda
        self._collate = DataCollatorWithPadding(tokenizer)
        self._separator = tokenizer.sep_token_id

    def bert(self) -> Kept:
        """Return plain BERT, fine-tuned."""

        def make(work: Path) -> tuple[Any, Any]:
            pyramid = attach(self._checkpoint())
            reports = self._run(pyramid, ("finetune",), work)
            return detach(pyramid), reports

        return self._shelf.get(f"{self._task.name}-bert", self._facts("finetune"), make)

    def pruned(self, bert: Kept, *, pruner: str = "attention", settings: Mapping[str, Any] | None = None) -> Kept:
        """Return a model that prunes, without exits: stages ``soft``, if the pruner learns anything, and ``hard``."""
        settings = {"token_pruner": pruner, **(settings or {})}

        def make(work: Path) -> tuple[Any, Any]:
            pyramid = _attached(bert.model, settings)
            learns = any(True for _ in pyramid.token_pruner.parameters())
            return pyramid, self._run(pyramid, ("soft", "hard") if learns else ("hard",), work)

        facts = {**self._facts("soft", "hard"), "from": bert.name, "settings": settings}
        return self._shelf.get(f"{self._task.name}-pruned-{pruner}", facts, make)

    def joint(self) -> Kept:
        """Return the model of the one-stage recipe, trained from the checkpoint in which nothing is fine-tuned."""

        def make(work: Path) -> tuple[Any, Any]:
            pyramid = attach(self._checkpoint())
            return pyramid, self._run(pyramid, ("joint",), work)

        return self._shelf.get(f"{self._task.name}-joint", self._facts("joint"), make)

    def with_exits(self, kept: Kept, title: str, settings: Mapping[str, Any] | None = None) -> Kept:
        """Return a copy of a model with internal classifiers: the quick recipe, the backbone stays as it is."""
        settings = dict(settings or {})

        def make(work: Path) -> tuple[Any, Any]:
            pyramid = _attached(kept.model, settings)
            return pyramid, self._run(pyramid, ("exits",), work)

        facts = {**self._facts("exits"), "from": kept.name, "settings": settings}
        return self._shelf.get(f"{self._task.name}-{title}", facts, make)

    def _checkpoint(self) -> Any:
        names = dict(enumerate(self._task.label_names))
        set_seed(self._recipe.seed)
        bert = AutoModelForSequenceClassification.from_pretrained(
            checkpoint_path(), id2label=names, label2id={name: index for index, name in names.items()}
        )
        # Half of the parameters are word vectors that this few documents hardly change.
        bert.bert.embeddings.requires_grad_(False)
        return bert

    def _run(self, model: Any, stages: Sequence[str], work: Path) -> list[dict[str, Any]]:
        shared = {"use_cpu": not self._cuda, "bf16": self._bfloat16}
        # Trainer logs on standard output, which is for the tables alone.
        with redirect_stdout(sys.stderr):
            reports = run_stages(
                model,
                self._rows(stages),
                output_dir=work,
                stages=stages,
                training_arguments={stage: {**shared, **self._recipe.stages.get(stage, {})} for stage in stages},
                trainer_options={**self._recipe.options, "calibration_dataset": self._task.held_out},
                seed=self._recipe.seed,
                save_steps=_SAVE_STEPS,
                data_collator=self._collate,
            )
        # All is measured on the CPU.
        model.cpu()
        device = torch.cuda.get_device_name() if self._cuda else "CPU"
        return [{**asdict(report), "device": device} for report in reports]

    def _rows(self, stages: Sequence[str]) -> Rows:
        """Return the documents as long as the stages take them; exits are trained on whole ones."""
        if "exits" in stages:
            return self._task.train
        from_checkpoint = "finetune" in stages or "joint" in stages
        tokens = self._recipe.train_tokens if from_checkpoint else self._recipe.pruning_tokens
        return [_cut(row, tokens, self._separator) for row in self._task.train]

    def _facts(self, *stages: str) -> dict[str, Any]:
        return {
            "rows": _digest(self._rows(stages)),
            "stages": {stage: {**RECIPE[stage], **self._recipe.stages.get(stage, {})} for stage in stages},
            "options": dict(self._recipe.options),
            "seed": self._recipe.seed,
            "bfloat16": self._bfloat16,
            **({"held out": _digest(self._task.held_out)} if {"exits", "joint"} & set(stages) else {}),
        }


def _attached(model: Any, settings: Mapping[str, Any]) -> Any:
    """Return a copy as a Magic Pyramid with ``settings``; a pruner that it has learned stays."""
    if not isinstance(model, MagicPyramidForSequenceClassification):
        return attach(copy.deepcopy(model), **settings)
    made = type(model)(model.config.updated(settings))
    # Another criterion has other parameters, which start untrained.
    made.load_state_dict(model.state_dict(), strict=False)
    return made.eval()


def _digest(rows: Rows) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _cut(row: dict[str, Any], tokens: int, separator: int) -> dict[str, Any]:
    """Return a row of at most ``tokens`` tokens, of which the last one stays the separator. Pairs are left whole."""
    if len(row["input_ids"]) <= tokens or "token_type_ids" in row:
        return row
    return {**row, "input_ids": [*row["input_ids"][: tokens - 1], separator]}
