"""``magic-pyramid bench model``: a Magic Pyramid beside the plain model, on the user's texts."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from hf_integration.train_command import add_data_arguments, read_data
from mp_plugins import Subcommand, Table, check_counts
from mp_plugins.report import render_table

if TYPE_CHECKING:
    from hf_integration.measuring import Batch
    from hf_integration.text_data import LabelledTexts

__all__ = ["SUBCOMMAND"]

_DESCRIPTION = """\
Measures a Magic Pyramid at its stored settings beside the plain model: accuracy on all texts, floating-point operations
of what ran against those of the plain model without padding, and time from token ids to logits, medians of rounds in
turns, in batches of texts of like length and one by one. The plain model has the same weights, without pruning and
exits; name the checkpoint that it was made from, if pruning has trained them further.

  magic-pyramid bench model fast-bert held-out.csv
      against its own weights
  magic-pyramid bench model fast-bert held-out.csv --against fine-tuned-bert --batch-size 64 --json
      against another checkpoint, and the figures for programs
  magic-pyramid bench model fast-bert held-out.csv --prepack
      both with prepacked weights, as hf_integration.prepack() makes them"""

_PLAIN, _OURS = "plain", "magic_pyramid"
_NAMES = {_PLAIN: "plain model", _OURS: "Magic Pyramid"}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="checkpoint of a Magic Pyramid")
    parser.add_argument("data", metavar="DATA", help=".csv, .tsv, .jsonl or .parquet file, or NAME[:SUBSET]")
    parser.add_argument(
        "--against", metavar="CHECKPOINT", help="plain model (default: MODEL without pruning and exits)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts in a batch (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds whose median counts (default: 5)")
    parser.add_argument("--timed", type=int, default=512, metavar="N", help="texts timed in batches (default: 512)")
    parser.add_argument("--timed-alone", type=int, default=64, metavar="N", help="and one by one (default: 64)")
    parser.add_argument("--prepack", action="store_true", help="prepack the weights of both models")
    add_data_arguments(parser, "test")


def _run(arguments: argparse.Namespace) -> int:
    check_counts(arguments, "batch_size", "rounds", "timed", "timed_alone")
    # Loading and measuring show their progress; standard output is for the result alone.
    with redirect_stdout(sys.stderr):
        figures = _figures(arguments, read_data(arguments))
    print(json.dumps(figures, indent=2) if arguments.json else _described(figures))
    return 0


def _figures(arguments: argparse.Namespace, data: LabelledTexts) -> dict[str, Any]:
    # The public name first: where torch is missing, its message names the extra to install.
    from hf_integration import baseline_flops, prepack  # isort: skip
    import torch

    from hf_integration.batching import pad_rows
    from hf_integration.checkpoint_files import load_checkpoint, tokenise, usable_length
    from hf_integration.measuring import answer, interleaved_seconds, make_batches, spread, without_full_mask
    from hf_integration.text_data import label_ids

    pyramid, tokenizer, _ = load_checkpoint(arguments.model)
    source = pyramid if arguments.against is None else load_checkpoint(arguments.against)[0]
    models = {_PLAIN: source.plain_model().eval(), _OURS: pyramid.eval()}
    if arguments.prepack:
        models = {name: prepack(model) for name, model in models.items()}
    labels = label_ids(data.labels, pyramid.config.label2id)
    length = usable_length(pyramid, tokenizer, arguments.max_length)
    rows = tokenise(tokenizer, data.texts, data.pairs, labels, length)

    def collate(some: list[dict[str, Any]]) -> Batch:
        return without_full_mask(pad_rows(some, pad_token_id=pyramid.config.pad_token_id or 0))

    batches = make_batches(rows, collate, arguments.batch_size)
    answers = {name: answer(model, batches, _NAMES[name]) for name, model in models.items()}
    seconds = {}
    for mode, size, count in (("batch", arguments.batch_size, arguments.timed), ("one", 1, arguments.timed_alone)):
        timed = spread(rows, count)
        title = f"time, batches of {size}"
        taken = interleaved_seconds(
            models, make_batches(timed, collate, size), rounds=arguments.rounds, description=title
        )
        seconds[mode] = {"texts": len(timed), **taken}
    unpadded = baseline_flops(torch.tensor([len(row["input_ids"]) for row in rows]), models[_PLAIN].config)
    return {
        "texts": len(rows),
        "max_tokens": length,
        "batch_size": arguments.batch_size,
        "prepacked": arguments.prepack,
        "settings": {name: getattr(pyramid.config, name) for name in ("exit_threshold", "keep_scale", "max_layers")},
        "accuracy": {name: found.accuracy for name, found in answers.items()},
        "gflops": {_PLAIN: _mean(unpadded) / 1e9, _OURS: _mean(answers[_OURS].flops) / 1e9},
        "mean_exit_layer": _mean(answers[_OURS].exit_layer),
        "seconds": seconds,
    }


def _mean(values: Any) -> float:
    return float(values.double().mean())


def _described(figures: dict[str, Any]) -> str:
    rows = []
    for name, title in _NAMES.items():
        row = [title, f"{figures['accuracy'][name]:.2%}"]
        row.append(
            _with_ratio(figures["gflops"][name], figures["gflops"][_PLAIN] / figures["gflops"][name], "1/{:.1f}")
        )
        for mode in ("batch", "one"):
            taken = figures["seconds"][mode]
            row.append(_with_ratio(taken["texts"] / taken[name], taken[_PLAIN] / taken[name], "{:.1f}x"))
        rows.append(tuple(row))
    columns = ("", "accuracy", "GFLOPs a text", f"texts/s, batch {figures['batch_size']}", "one by one")
    settings = ", ".join(f"{name} {value}" for name, value in figures["settings"].items())
    table = render_table(
        Table(f"{figures['texts']} texts of at most {figures['max_tokens']} tokens", columns, tuple(rows))
    )
    weights = ", both with prepacked weights" if figures["prepacked"] else ""
    return f"{table}\nMagic Pyramid: {settings}; {figures['mean_exit_layer']:.2f} layers, mean over the texts{weights}"


def _with_ratio(value: float, ratio: float, form: str) -> str:
    return f"{value:,.3g} ({form.format(ratio)})"


SUBCOMMAND = Subcommand(
    summary="a Magic Pyramid beside the plain model: accuracy, arithmetic, time",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
