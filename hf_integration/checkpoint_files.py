"""Models and tokenizers on disk, for the command line: loading, and writes that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_integration.configuration_magic_pyramid import MagicPyramidConfig
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from hf_integration.registration import register
from mp_plugins import argument_error

__all__ = [
    "last_complete_checkpoint",
    "load_checkpoint",
    "publish_folder",
    "save_checkpoint",
    "steps_of",
    "tokenise",
    "usable_length",
    "write_json",
]

_DEFAULT_MAX_LENGTH = 256


def load_checkpoint(
    source: str | Path, *, labels: Sequence[str] | None = None
) -> tuple[MagicPyramidForSequenceClassification, Any, bool]:
    """Load a plain or a Magic Pyramid checkpoint.

    Args:
        source: folder, or a name that transformers knows.
        labels: names of the classes of a new head; ``None`` keeps the checkpoint's.

    Returns:
        The model, its tokenizer, and whether its head came from the checkpoint.

    Raises:
        OSError: there is no such checkpoint.
        mp_plugins.ArgumentError: it is of an architecture that is not supported.
    """
    register()
    fields: dict[str, Any] = {}
    if labels is not None:
        fields["id2label"] = dict(enumerate(labels))
        fields["label2id"] = {name: index for index, name in enumerate(labels)}
    config = MagicPyramidConfig.from_pretrained(source, **fields)
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        source, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    fresh = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    has_head = all(key.startswith(model.own_prefixes) for key in fresh)
    return model, AutoTokenizer.from_pretrained(source), has_head


def tokenise(
    tokenizer: Any, texts: list[str], pairs: list[str] | None, labels: list[int], max_length: int
) -> list[dict[str, Any]]:
    """Return rows as :class:`transformers.Trainer` takes them, cut to ``max_length`` tokens."""
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    names = list(encoded)
    columns = (encoded[name] for name in names)
    return [
        {**dict(zip(names, values, strict=True)), "labels": label}
        for *values, label in zip(*columns, labels, strict=True)
    ]


def usable_length(model: MagicPyramidForSequenceClassification, tokenizer: Any, wanted: int | None) -> int:
    """Return the length to cut texts to: the wanted one, or what the tokenizer remembers, at most 256.

    Raises:
        mp_plugins.ArgumentError: the model has fewer positions.
    """
    positions = model.family.max_positions(model.config)
    if wanted is None:
        return min(int(tokenizer.model_max_length), positions, _DEFAULT_MAX_LENGTH)
    if not 3 <= wanted <= positions:
        raise argument_error("--max-length", f"must be from 3 to {positions}", wanted, "leave it out for the default")
    return wanted


def save_checkpoint(model: MagicPyramidForSequenceClassification, tokenizer: Any, folder: Path) -> None:
    """Save both as ``folder``, which appears when it is complete."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of :class:`transformers.Trainer` in ``folder`` that was written to its end.

    What an interruption has left of a newer one is deleted.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=steps_of, reverse=True):
        if _is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _is_complete(checkpoint: Path) -> bool:
    try:
        # Trainer writes this file last.
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def steps_of(checkpoint: Path) -> int:
    """Return after how many steps a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def publish_folder(source: Path, target: Path) -> None:
    """Copy the files of ``source`` into ``target``, each whole or not at all; ``config.json`` comes last."""
    for file in sorted(source.iterdir(), key=lambda file: file.name == "config.json"):
        draft = target / f".{file.name}.draft"
        shutil.copyfile(file, draft)
        draft.replace(target / file.name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that a reader, or a crash, finds the old file or the new one."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        # Without it the rename may reach the disk before the content does.
        os.fsync(stream.fileno())
    draft.replace(path)
