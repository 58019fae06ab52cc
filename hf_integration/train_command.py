"""``magic-pyramid train``: from a checkpoint and labelled texts to a Magic Pyramid. Imports torch when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_integration.text_data import ColumnNames, LabelledTexts, read_texts
from mp_plugins import Subcommand, UsageError, check_counts

if TYPE_CHECKING:
    from hf_integration.staged_training import TrainingPlan

__all__ = ["SUBCOMMAND", "add_data_arguments", "read_data"]

_STAGES = ("finetune", "soft", "hard", "exits")

_DESCRIPTION = """\
Turns a BERT checkpoint into a Magic Pyramid that classifies your texts: fine-tunes it, learns which tokens to drop
(soft, hard), and trains the internal classifiers at which easy texts leave early (exits).

  magic-pyramid train bert-base-uncased reviews.csv fast-bert
      four stages on a file with a column of texts and one of labels
  magic-pyramid train path/to/fine-tuned-bert reviews.csv fast-bert --quick
      minutes instead: the model stays as it is and only gains exits
  magic-pyramid train bert-base-uncased reviews.csv fast-bert --joint
      one stage that trains everything together, instead of four
  magic-pyramid train bert-base-uncased reviews.csv fast-bert --held-out others.csv
      texts that nothing is trained on say how much to believe each exit; a few hundred make exits earlier and surer
  magic-pyramid train bert-base-uncased glue:rte fast-bert --epochs finetune=3
      a data set of the library `datasets`; two texts a sample are found by their usual names

Run the same command again after an interruption: it goes on where it was. Then, on texts that are new to all of this:

  magic-pyramid calibrate fast-bert held-out.csv --max-loss 0.005 --confidence 0.95"""


def add_data_arguments(parser: argparse.ArgumentParser, split: str) -> None:
    """Add the flags that say how to read ``DATA``."""
    parser.add_argument("--text-column", metavar="NAME", help="column of texts (default: found by its usual names)")
    parser.add_argument("--text-pair-column", metavar="NAME", help="column of second texts, for pair tasks")
    parser.add_argument("--label-column", metavar="NAME", help="column of classes (default: found by its usual names)")
    parser.add_argument("--split", default=split, help="of a named data set (default: %(default)s)")
    parser.add_argument("--max-length", type=int, metavar="N", help="cut texts to N tokens (default: at most 256)")
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads of torch (default: its own choice)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def read_data(arguments: argparse.Namespace) -> LabelledTexts:
    """Check the flags of :func:`add_data_arguments` and read ``DATA``."""
    check_counts(arguments, "num_threads")
    if arguments.num_threads is not None:
        import torch

        torch.set_num_threads(arguments.num_threads)
    return _read(arguments, arguments.data)


def _read(arguments: argparse.Namespace, source: str) -> LabelledTexts:
    """Read ``source`` as ``DATA`` is read."""
    columns = ColumnNames(arguments.text_column, arguments.text_pair_column, arguments.label_column)
    return read_texts(source, columns, split=arguments.split)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="checkpoint of a BERT model: a folder or a name")
    parser.add_argument("data", metavar="DATA", help=".csv, .tsv, .jsonl or .parquet file, or NAME[:SUBSET]")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the result; new or of an interrupted run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="exits only, on a checkpoint that is fine-tuned already")
    which.add_argument(
        "--stages", nargs="+", choices=_STAGES, default=_STAGES, metavar="STAGE", help="some of %(default)s"
    )
    which.add_argument("--joint", action="store_true", help="one stage, `joint`, in which all is trained together")
    parser.add_argument(
        "--epochs", nargs="+", default=[], metavar="STAGE=N", help="epochs of a stage, for example exits=100 soft=0.5"
    )
    parser.add_argument(
        "--held-out",
        metavar="DATA",
        help="texts like DATA, none of them in it: on them the exits' opinions are weighed",
    )
    parser.add_argument("--balanced", action="store_true", help="let rare classes count as much as frequent ones")
    parser.add_argument("--seed", type=int, default=42, help="seed of every random choice (default: %(default)s)")
    parser.add_argument(
        "--save-steps",
        type=int,
        default=500,
        metavar="N",
        help="save after N steps, so that an interruption loses no more (default: %(default)s)",
    )
    add_data_arguments(parser, "train")


def _run(arguments: argparse.Namespace) -> int:
    alone = {"exits": arguments.quick, "joint": arguments.joint}
    stages = tuple(stage for stage, chosen in alone.items() if chosen)
    stages = stages or tuple(sorted(set(arguments.stages), key=_STAGES.index))
    epochs = _epochs(arguments.epochs, stages)
    if not 0 <= arguments.seed < 2**32:
        raise UsageError(f"`--seed` must be from 0 to 4294967295, got {arguments.seed}: leave it out")
    check_counts(arguments, "save_steps")
    if arguments.held_out is not None and stages[-1] not in ("exits", "joint"):
        raise UsageError(f"`--held-out` must be left out where no exits are trained, got the stages {' '.join(stages)}")
    # The public name first: where torch is missing, its message names the extra to install.
    from hf_integration import MagicPyramidTrainer  # noqa: F401
    from hf_integration.staged_training import TrainingPlan, train_into

    plan = TrainingPlan(arguments.model, stages, epochs, arguments.max_length, arguments.seed, arguments.balanced)
    # Trainer logs on standard output, which is for the result alone.
    with redirect_stdout(sys.stderr):
        data = read_data(arguments)
        held_out = None if arguments.held_out is None else _read(arguments, arguments.held_out)
        state = train_into(plan, data, arguments.out, held_out=held_out, save_steps=arguments.save_steps)
    _print(plan, data, state, arguments)
    return 0


def _epochs(settings: list[str], stages: tuple[str, ...]) -> dict[str, float]:
    epochs = {}
    for setting in settings:
        stage, _, number = setting.partition("=")
        try:
            epochs[stage] = float(number)
        except ValueError:
            epochs[stage] = 0.0
        if stage not in stages or not 0 < epochs[stage] < float("inf"):
            raise UsageError(
                f"`--epochs` must be STAGE=N with a stage that runs ({', '.join(stages)}) and N above 0, got "
                f"{setting}: for example {stages[-1]}=10"
            )
    return epochs


def _print(plan: TrainingPlan, data: LabelledTexts, state: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        result = {"model": str(arguments.out), "samples": len(data.texts), "stages": state["finished"]}
        print(json.dumps(result, indent=2))
        return
    print(f"Trained on {len(data.texts)} texts of the columns {data.columns.text!r}, {data.columns.label!r}:")
    for report in state["finished"]:
        print(f"  {report['stage']:<9} {report['seconds']:8.1f} s   mean loss {report['training_loss']:.4f}")
    print(f"Model and tokenizer: {arguments.out}")
    if plan.stages[-1] in ("exits", "joint"):
        print(f"Next: magic-pyramid calibrate {arguments.out} HELD-OUT --max-loss 0.005 --confidence 0.95")


SUBCOMMAND = Subcommand(
    summary="turn a BERT checkpoint and labelled texts into a Magic Pyramid",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
