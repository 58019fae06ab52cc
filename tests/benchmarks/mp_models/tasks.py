"""Real tasks: documents of the corpora's own splits as token ids, with a part of the training split held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_integration.demo_data import Documents, load_newsgroups, load_reuters, load_tweets

__all__ = ["TASKS", "Rows", "Task", "load_task"]

_SEED = 0
_PAIR_WORDS = 80
_QUICK_SHARE = 12  # --quick takes one document of so many

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class _Texts:
    """Texts with their classes, and the second texts of a pair task."""

    texts: list[str]
    labels: list[int]
    pairs: list[str] | None = None

    def take(self, rows: Sequence[int]) -> _Texts:
        pairs = None if self.pairs is None else [self.pairs[row] for row in rows]
        return _Texts([self.texts[row] for row in rows], [self.labels[row] for row in rows], pairs)


@dataclass(frozen=True)
class Task:
    """Tokenised documents of one task.

    Attributes:
        name: as given to ``--data``.
        title: for the tables.
        train: what models are trained on.
        held_out: of the training split, for choosing settings; no model has seen it.
        test: of the test split, which decides nothing.
        label_names: by class.
        max_tokens: documents are cut to so many.
    """

    name: str
    title: str
    train: Rows
    held_out: Rows
    test: Rows
    label_names: list[str]
    max_tokens: int


@dataclass(frozen=True)
class _Source:
    title: str
    read: Callable[[Path], tuple[_Texts, _Texts, list[str]]]
    held_out: float


def load_task(name: str, tokenizer: Any, cache_dir: Path, *, max_tokens: int, quick: bool = False) -> Task:
    """Read and tokenise the task ``name``, one of :data:`TASKS`; ``quick`` takes a small sample of each part."""
    source = TASKS[name]
    train, test, names = source.read(cache_dir)
    order = random.Random(_SEED).sample(range(len(train.texts)), len(train.texts))
    aside = round(source.held_out * len(order))
    parts = {"held_out": train.take(order[:aside]), "train": train.take(order[aside:]), "test": test}
    if quick:
        parts = {part: texts.take(range(0, len(texts.texts), _QUICK_SHARE)) for part, texts in parts.items()}
    rows = {part: _tokenised(tokenizer, texts, max_tokens) for part, texts in parts.items()}
    return Task(name, source.title, label_names=names, max_tokens=max_tokens, **rows)


def _tokenised(tokenizer: Any, documents: _Texts, max_tokens: int) -> Rows:
    encoded = tokenizer(documents.texts, documents.pairs, truncation=True, max_length=max_tokens)
    # Token types of single texts are all zero, which is the default.
    names = [name for name in encoded if name == "input_ids" or (name == "token_type_ids" and documents.pairs)]
    return [
        {**{name: encoded[name][row] for name in names}, "labels": label} for row, label in enumerate(documents.labels)
    ]


def _corpus(load: Callable[[Path], tuple[Documents, Documents]]) -> Callable[[Path], tuple[_Texts, _Texts, list[str]]]:
    def read(cache_dir: Path) -> tuple[_Texts, _Texts, list[str]]:
        train, test = load(cache_dir)
        return _Texts(train.texts, train.labels), _Texts(test.texts, test.labels), train.label_names

    return read


def _tweets(cache_dir: Path) -> tuple[_Texts, _Texts, list[str]]:
    """Split the tweets, which have no split of their own: one of five is for the test."""
    tweets = load_tweets(cache_dir)
    whole = _Texts(tweets.texts, tweets.labels)
    order = random.Random(_SEED).sample(range(len(whole.texts)), len(whole.texts))
    tested = len(order) // 5
    return whole.take(order[tested:]), whole.take(order[:tested]), tweets.label_names


def _same_newsgroup(cache_dir: Path) -> tuple[_Texts, _Texts, list[str]]:
    """Pair documents of 20 Newsgroups with others, of the same group or of any other, equally often.

    Every second document is taken, and the first words of each.
    """
    train, test = (_shortened(documents) for documents in load_newsgroups(cache_dir))
    return _paired(train), _paired(test), ["another newsgroup", "same newsgroup"]


def _shortened(documents: Documents) -> Documents:
    texts = [" ".join(text.split()[:_PAIR_WORDS]) for text in documents.texts[::2]]
    return Documents(texts, documents.labels[::2], documents.label_names)


def _paired(documents: Documents) -> _Texts:
    chance = random.Random(_SEED)
    by_group: dict[int, list[int]] = {}
    for row, label in enumerate(documents.labels):
        by_group.setdefault(label, []).append(row)
    groups = sorted(by_group)
    seconds, same = [], []
    for row, label in enumerate(documents.labels):
        same.append(chance.randrange(2))
        group = label if same[-1] else chance.choice([other for other in groups if other != label])
        seconds.append(documents.texts[chance.choice([other for other in by_group[group] if other != row])])
    return _Texts(documents.texts, same, seconds)


TASKS: dict[str, _Source] = {
    "r8": _Source("Reuters R8", _corpus(load_reuters), 0.15),
    "20ng": _Source("20 Newsgroups", _corpus(load_newsgroups), 0.15),
    "tweets": _Source("election tweets", _tweets, 0.15),
    "pairs": _Source("same newsgroup or not", _same_newsgroup, 0.15),
}
"""Tasks by the names that ``--data`` takes."""
