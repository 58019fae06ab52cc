"""Both recipes, every exit criterion and every token pruner on one task, with settings picked on held-out documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from mp_models.choosing import Point, choose, points_of, records_of
from mp_models.contenders import Contender
from mp_models.keeping import Kept, ModelShelf
from mp_models.results import baselines
from mp_models.session import Settings
from mp_models.tasks import Task
from mp_models.training import Recipe, Trainer
from mp_plugins import MagicPyramidError, create_plugin_manager, load_registry

__all__ = ["compare_parts"]

_SCALES = (0.0, 0.5, 1.0)
# Every answer the same so often in a row: the criteria that count know no finer thresholds.
_TOP_K_RATE = 0.25


def compare_parts(
    task: Task, recipe: Recipe, shelf: ModelShelf, tokenizer: Any, settings: Settings
) -> dict[str, list[dict[str, Any]]]:
    """Train and measure one model for each recipe, each criterion and each pruner.

    Criteria sit on the plain fine-tuned backbone, so nothing but the criterion differs; pruners on backbones that were
    trained with them, with exits by entropy and without.

    Returns:
        Rows for :func:`mp_models.tables.variants_table`, under ``"recipe"``, ``"exit criterion"`` and
        ``"token pruner"``.
    """
    trainer = Trainer(task, recipe, shelf, tokenizer, bfloat16=settings.bfloat16, cuda=settings.cuda)
    bert = trainer.bert()
    plain = Contender("BERT", bert.model)
    least = plain.answers(task.held_out).accuracy(task.held_out) - settings.max_loss
    full = plain.answers(task.test).accuracy(task.test)
    plugins = create_plugin_manager()
    unpadded = baselines(
        [len(row["input_ids"]) for row in task.test], bert.model.config, batch_size=32, max_tokens=task.max_tokens
    ).unpadded

    def row(name: str, kept: Kept, scales: tuple[float, ...], *, exits: bool = True) -> dict[str, Any]:
        found = _on_test(kept.model, task, scales, least, exits=exits)
        return {
            "name": name, "keep_scale": found.keep_scale, "exit_threshold": found.exit_threshold,
            "accuracy": found.accuracy, "loss_points": 100 * (full - found.accuracy),
            "less_work": unpadded / found.gflops,
        }  # fmt: skip

    in_stages = trainer.with_exits(trainer.pruned(bert), "pyramid")
    recipes = [row("four stages", in_stages, _SCALES), row("joint", trainer.joint(), _SCALES)]
    criteria = [
        row(name, trainer.with_exits(bert, f"exits-{name}", {"exit_criterion": name}), (0.0,))
        for name in tqdm(sorted(load_registry("exit_criteria", plugins)), desc="exit criteria", unit="criterion")
    ]
    pruners = list(_pruners(trainer, bert, row, sorted(load_registry("token_pruners", plugins))))
    return {"recipe": recipes, "exit criterion": criteria, "token pruner": pruners}


def _pruners(trainer: Trainer, bert: Kept, row: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in tqdm(names, desc="token pruners", unit="pruner"):
        settings = {"keep_rate": _TOP_K_RATE} if name == "top-k" else {}
        try:
            pruned = trainer.pruned(bert, pruner=name, settings=settings)
        except MagicPyramidError as error:
            tqdm.write(f"{name}: {error}")
            continue
        yield row(f"{name}, no exits", pruned, _SCALES, exits=False)
        yield row(name, trainer.with_exits(pruned, f"pyramid-{name}"), _SCALES)


def _on_test(model: Any, task: Task, scales: tuple[float, ...], least: float, *, exits: bool) -> Point:
    """Pick on the held-out documents, and return what the choice gives on the test documents."""
    thresholds = None if exits else [0.0]
    chosen = choose(points_of(model, records_of(model, task.held_out, scales), thresholds), least)
    records = records_of(model, task.test, (chosen.keep_scale,))
    (found,) = points_of(model, records, [chosen.exit_threshold])
    return found
