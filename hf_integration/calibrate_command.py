"""``magic-pyramid calibrate``: stores the fastest setting whose loss is bounded. Imports torch when it runs."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hf_integration.train_command import add_data_arguments, read_data
from mp_plugins import MagicPyramidError, Subcommand, UsageError

if TYPE_CHECKING:
    from hf_integration.calibration import CalibrationReport
    from hf_integration.text_data import LabelledTexts

__all__ = ["SUBCOMMAND"]

_DESCRIPTION = """\
Finds the fastest exit threshold that keeps the accuracy within --max-loss of the same model without exits, with the
stated confidence, and stores it in the model's folder. With --keep-scales it chooses the strength of pruning too, and
compares with the model that neither exits nor prunes. The texts must be new to the model: neither trained on nor
used to choose anything. Half a point with 95 % confidence takes at least 598 of them.

  magic-pyramid calibrate fast-bert held-out.csv
      at most half a point, with a confidence of 95 %
  magic-pyramid calibrate fast-bert held-out.csv --max-loss 0.01 --confidence 0.9 --json
      other limits, and the result for programs
  magic-pyramid calibrate fast-bert held-out.csv --keep-scales 0.5 1
      pruning and exits together"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a Magic Pyramid; its settings change")
    parser.add_argument("data", metavar="DATA", help=".csv, .tsv, .jsonl or .parquet file, or NAME[:SUBSET]")
    parser.add_argument(
        "--max-loss", type=float, default=0.005, help="tolerated loss of accuracy (default: %(default)s)"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the bound (default: %(default)s)")
    parser.add_argument(
        "--keep-scales",
        type=float,
        nargs="+",
        metavar="S",
        help="choose pruning too: strengths to try beside 0, in (0, 1], each with its share of the allowed error",
    )
    add_data_arguments(parser, "validation")


def _run(arguments: argparse.Namespace) -> int:
    for option in ("max_loss", "confidence"):
        value = getattr(arguments, option)
        if not 0 < value < 1:
            raise UsageError(f"`--{option.replace('_', '-')}` must be between 0 and 1, got {value}: see --help")
    if not (arguments.model / "config.json").is_file():
        raise UsageError(f"`MODEL` must be the folder of a saved model, got {arguments.model}: see --help")
    with redirect_stdout(sys.stderr):
        report = _calibrate(arguments, read_data(arguments))
    _store(arguments.model, report)
    if arguments.json:
        print(json.dumps({**asdict(report), "loss": report.loss}, indent=2))
    else:
        print(_described(report))
        print(f"Stored in {arguments.model / 'config.json'}")
    return 0


def _calibrate(arguments: argparse.Namespace, data: LabelledTexts) -> CalibrationReport:
    # The public name first: where torch is missing, its message names the extra to install.
    from hf_integration import calibrate
    from hf_integration.calibration import too_small_message
    from hf_integration.checkpoint_files import load_checkpoint, tokenise, usable_length
    from hf_integration.text_data import label_ids

    model, tokenizer, _ = load_checkpoint(arguments.model)
    labels = label_ids(data.labels, model.config.label2id)
    length = usable_length(model, tokenizer, arguments.max_length)
    rows = tokenise(tokenizer, data.texts, data.pairs, labels, length)
    with warnings.catch_warnings():
        # Said below, as an error: nobody calibrates in order to switch the exits off.
        warnings.simplefilter("ignore", UserWarning)
        report = calibrate(model, rows, arguments.max_loss, arguments.confidence, keep_scales=arguments.keep_scales)
    if report.is_too_small:
        raise MagicPyramidError(f"{too_small_message(report)}; nothing was stored")
    return report


def _store(folder: Path, report: CalibrationReport) -> None:
    from hf_integration.checkpoint_files import write_json

    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # One file, replaced as a whole: the model has the old settings or the new ones.
    chosen = {"exit_threshold": report.exit_threshold, "keep_scale": report.keep_scale}
    write_json(path, {**config, **chosen, "max_layers": None, "speed": None})


def _described(report: CalibrationReport) -> str:
    lines = [
        f"Exit threshold {report.exit_threshold:.4g}, strength of pruning {report.keep_scale:.4g}: with a confidence "
        f"of {report.confidence:.4g} the accuracy is at most {report.max_loss:.4g} below that of the full model.",
        f"On the {report.samples} calibration texts: accuracy {report.accuracy:.4f} (full model "
        f"{report.full_accuracy:.4f}), {report.mean_exit_layer:.2f} layers, {report.mean_flops / 1e9:.3f} GFLOPs "
        f"(full model {report.full_flops / 1e9:.3f}).",
    ]
    if report.exit_threshold == 0:
        lines.append("No threshold above 0 passed: the model runs without exits.")
    if report.samples_for_more is not None:
        lines.append(f"With about {report.samples_for_more} texts the next faster setting could pass.")
    return "\n".join(lines)


SUBCOMMAND = Subcommand(
    summary="pick and store the fastest settings that keep the loss in accuracy under a bound",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
