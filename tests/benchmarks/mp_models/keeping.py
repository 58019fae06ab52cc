"""Trained models on disk, named by all that decides about them, so that a second run trains nothing."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp_bench.machine import load_average
from transformers import AutoModelForSequenceClassification

from hf_integration.checkpoint_files import save_checkpoint, write_json
from hf_integration.registration import register

__all__ = ["Kept", "ModelShelf"]

_RECORD = "made.json"


@dataclass(frozen=True)
class Kept:
    """A trained model, in evaluation mode.

    Attributes:
        model: the model.
        name: with a digest of what it was made of; what is made from it is named by this in turn.
        record: seconds of each stage, when it was made, under which load, and of what.
        earlier: an earlier run made it.
    """

    model: Any
    name: str
    record: dict[str, Any]
    earlier: bool


class ModelShelf:
    """A folder of models.

    Args:
        folder: where they are; None keeps nothing.
        tokenizer: saved beside each.
    """

    def __init__(self, folder: Path | None, tokenizer: Any) -> None:
        # The finalizer of the temporary folder deletes it with the shelf.
        self._temporary = tempfile.TemporaryDirectory(prefix="magic-pyramid-") if folder is None else None
        self._folder = Path(self._temporary.name) if self._temporary is not None else Path(folder or "")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer = tokenizer

    def get(self, title: str, facts: Mapping[str, Any], make: Callable[[Path], tuple[Any, Any]]) -> Kept:
        """Return the model made of ``facts``, from the folder or by making it.

        Args:
            title: what the name starts with.
            facts: everything that decides about the model; goes through JSON.
            make: given a folder for checkpoints, in which an interrupted training is found again, returns the model
                and what to remember of its training.
        """
        name = f"{title}-{_digest(facts)}"
        path = self._folder / name
        if (path / _RECORD).exists():
            register()
            model = AutoModelForSequenceClassification.from_pretrained(path).eval()
            return Kept(model, name, json.loads((path / _RECORD).read_text(encoding="utf-8")), earlier=True)
        work = self._folder / f".{name}.work"
        resumed = work.exists()
        model, stages = make(work)
        save_checkpoint(model, self._tokenizer, path)
        record = {
            "stages": stages, "resumed": resumed, "made_at": time.strftime("%Y-%m-%d %H:%M"), "load": load_average(),
            "facts": dict(facts),
        }  # fmt: skip
        # Last: a folder without a record is not complete.
        write_json(path / _RECORD, record)
        return Kept(model.eval(), name, record, earlier=False)


def _digest(facts: Mapping[str, Any]) -> str:
    known = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(re.sub(r"\s", "", known).encode()).hexdigest()[:12]
