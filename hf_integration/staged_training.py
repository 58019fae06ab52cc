"""Training stage by stage into a folder, resumable: what was learned is on disk after each stage, and within it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import DataCollatorWithPadding, set_seed

from hf_integration.checkpoint_files import (
    load_checkpoint,
    publish_folder,
    save_checkpoint,
    tokenise,
    usable_length,
    write_json,
)
from hf_integration.configuration_magic_pyramid import MagicPyramidConfig
from hf_integration.recipe import StageReport, run_stages
from hf_integration.text_data import LabelledTexts, label_ids, label_names
from hf_integration.training import JOINT
from mp_plugins import ArgumentError, argument_error

__all__ = ["STATE_FILE", "TrainingPlan", "train_into"]

STATE_FILE = "training_state.json"
_FORMAT = 1
# Stages that train a head that is new.
_FROM_THE_HEAD = ("finetune", JOINT)


@dataclass(frozen=True)
class TrainingPlan:
    """What one run is made of; a run resumes only under the same plan.

    Attributes:
        model: checkpoint to start from.
        stages: in the order of running.
        epochs: changes to the recipe, by stage.
        max_length: texts are cut to so many tokens; ``None`` = the tokenizer's limit, at most 256.
        seed: of every random choice.
        balanced: weigh the classes by the inverse of their frequency.
    """

    model: str
    stages: tuple[str, ...]
    epochs: Mapping[str, float] = field(default_factory=dict)
    max_length: int | None = None
    seed: int = 42
    balanced: bool = False


def train_into(
    plan: TrainingPlan,
    data: LabelledTexts,
    out: Path,
    *,
    held_out: LabelledTexts | None = None,
    save_steps: int = 500,
) -> dict[str, Any]:
    """Train, or go on with a training that was interrupted, and leave model and tokenizer in ``out``.

    Args:
        plan: what to do.
        data: training texts.
        out: empty or absent, or the folder of an earlier run of the same plan on the same texts.
        held_out: texts that nothing is trained on, as for ``calibration_dataset`` of
            :class:`~hf_integration.MagicPyramidTrainer`.
        save_steps: an interruption loses at most so many steps of a stage.

    Returns:
        The state that is also in ``out``, with the reports of the stages.

    Raises:
        mp_plugins.ArgumentError: ``out`` holds something else, or data and model do not fit together.
    """
    texts = {"texts": _digest(data), "held_out": None if held_out is None else _digest(held_out)}
    state = _read_state(out, {**asdict(plan), "stages": list(plan.stages), **texts})
    if state["complete"]:
        return state
    stages_folder = out / "stages"
    finished = [report["stage"] for report in state["finished"]]
    set_seed(plan.seed)
    if finished:
        model, tokenizer, _ = load_checkpoint(stages_folder / finished[-1])
    else:
        model, tokenizer = _start(plan, data)
    length = usable_length(model, tokenizer, plan.max_length)
    # Remembered with the tokenizer, so that calibration and pipelines cut where training did.
    tokenizer.model_max_length = length

    def rows_of(labelled: LabelledTexts) -> Any:
        labels = label_ids(labelled.labels, model.config.label2id)
        return tokenise(tokenizer, labelled.texts, labelled.pairs, labels, length)

    rows = rows_of(data)
    options: dict[str, Any] = {"class_weights": "balanced"} if plan.balanced else {}
    if held_out is not None:
        options["calibration_dataset"] = rows_of(held_out)

    def keep(report: StageReport) -> None:
        save_checkpoint(model, tokenizer, stages_folder / report.stage)
        state["finished"].append(asdict(report))
        write_json(out / STATE_FILE, state)
        shutil.rmtree(stages_folder / "work" / report.stage, ignore_errors=True)

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / STATE_FILE, state)
    stages_folder.mkdir(exist_ok=True)
    run_stages(
        model,
        rows,
        output_dir=stages_folder / "work",
        stages=plan.stages[len(finished) :],
        training_arguments={stage: {"num_train_epochs": epochs} for stage, epochs in plan.epochs.items()},
        trainer_options=options,
        after_stage=keep,
        seed=plan.seed,
        save_steps=save_steps,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    publish_folder(stages_folder / plan.stages[-1], out)
    state["complete"] = True
    write_json(out / STATE_FILE, state)
    shutil.rmtree(stages_folder)
    return state


def _start(plan: TrainingPlan, data: LabelledTexts) -> tuple[Any, Any]:
    """Load the checkpoint, with a new head if the classes are not its own."""
    label2id = MagicPyramidConfig.from_pretrained(plan.model).label2id
    names: list[str] | None = None
    try:
        label_ids(data.labels, label2id)
    except ArgumentError:
        if plan.stages[0] not in _FROM_THE_HEAD:
            raise
        names = label_names(data.labels)
    model, tokenizer, has_head = load_checkpoint(plan.model, labels=names)
    if not has_head and plan.stages[0] not in _FROM_THE_HEAD:
        raise argument_error(
            "MODEL",
            f"must be fine-tuned already to start with the stage {plan.stages[0]!r}",
            f"{plan.model} without a trained classifier",
            "start with the stage 'finetune', or leave out --quick and --stages",
        )
    return model, tokenizer


def _read_state(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    path = out / STATE_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise argument_error("OUT", "must be empty or hold an interrupted run", out, "choose another folder")
        return {"format": _FORMAT, "plan": plan, "finished": [], "complete": False}
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state.get("format") != _FORMAT:
        raise argument_error("OUT", f"must be of format {_FORMAT}", state.get("format"), "choose another folder")
    # Through JSON, as what is on disk: tuples become lists.
    if differing := sorted(name for name, value in plan.items() if state["plan"].get(name) != value):
        raise argument_error(
            "OUT",
            "must hold a run with the same settings",
            f"{out}, where {', '.join(differing)} differ",
            "repeat the first command to resume, or choose another folder",
        )
    return state


def _digest(data: LabelledTexts) -> str:
    digest = hashlib.sha256()
    for column in (data.texts, data.pairs or [], data.labels):
        for value in column:
            # The length keeps neighbours apart.
            digest.update(f"{len(value)}:{value}".encode())
    return digest.hexdigest()
