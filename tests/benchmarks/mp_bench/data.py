"""What is searched: a file, sentence embeddings, or the word-embedding matrix, and other dimensions of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mp_bench.sentences import cache_dir, load_sentences

__all__ = ["Data", "first", "load", "mixed", "with_dim"]

_WORD_QUERIES = 1_000
_USED_WORDS = 2_000  # tokens before are placeholders that no text ever trained
_MIXED_AT_ONCE = 50_000

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """Vectors ``(n, d)`` and queries ``(q, d)`` with what they are, for the table's head."""

    label: str
    base: _Floats
    queries: _Floats
    metric: str


def load(source: str, metric: str, n: int | None, n_queries: int) -> Data:
    """Return ``source``: ``sentences``, ``words``, or a file, .npy or .npz (``base`` and ``queries``, or one array).

    One array is split: its last ``n_queries`` rows are the queries. For inner product every row is normalised.
    """
    if source == "sentences":
        label = "sentence embeddings of 20 Newsgroups (all-MiniLM-L6-v2)"
        base, queries = load_sentences(cache_dir())
    elif source == "words":
        label, (base, queries) = "word-embedding matrix of all-MiniLM-L6-v2", _words()
    else:
        label, (base, queries) = Path(source).name, _from_file(Path(source), n_queries)
    base, queries = base[:n], queries[:n_queries]
    if metric == "ip":
        base, queries = _normalised(base), _normalised(queries)
    return Data(label, np.ascontiguousarray(base, np.float32), np.ascontiguousarray(queries, np.float32), metric)


def with_dim(data: Data, dim: int) -> Data:
    """Return ``data`` in another dimension: rows cut short, or rows joined with shuffled others. Real numbers in an
    artificial mix, which the label says.
    """
    had = data.base.shape[1]
    if dim == had:
        return data
    verb = f"cut from {had}" if dim < had else f"joined from rows of {had}"
    base, queries = (_resized(rows, dim, seed) for seed, rows in enumerate((data.base, data.queries)))
    if data.metric == "ip":
        base, queries = _normalised(base), _normalised(queries)
    return Data(f"{data.label}, {verb}", base, queries, data.metric)


def first(data: Data, n: int) -> Data:
    """Return the first ``n`` vectors of ``data`` with its queries."""
    return Data(data.label, data.base[:n], data.queries, data.metric)


def mixed(data: Data, n: int) -> Data:
    """Return ``n`` vectors that are mixtures of two rows of ``data`` each, in random shares, and queries made alike.

    More vectors than there are real ones, and equally hard at every size; the label says what they are.
    """
    rng = np.random.default_rng(0)
    label = f"{data.label}: mixtures of two random rows each"
    queries = _mixtures(data.queries, len(data.queries), data.metric, rng)
    return Data(label, _mixtures(data.base, n, data.metric, rng), queries, data.metric)


def _mixtures(rows: _Floats, n: int, metric: str, rng: np.random.Generator) -> _Floats:
    made = np.empty((n, rows.shape[1]), np.float32)
    for start in range(0, n, _MIXED_AT_ONCE):
        block = made[start : start + _MIXED_AT_ONCE]
        firsts, seconds = rng.integers(0, len(rows), (2, len(block)))
        share = rng.random((len(block), 1), np.float32)
        block[:] = share * rows[firsts] + (1 - share) * rows[seconds]
        if metric == "ip":
            block[:] = _normalised(block)
    return made


def _resized(rows: _Floats, dim: int, seed: int) -> _Floats:
    rng = np.random.default_rng(seed)
    parts = [rows]
    while sum(part.shape[1] for part in parts) < dim:
        parts.append(rows[rng.permutation(len(rows))])
    return np.ascontiguousarray(np.concatenate(parts, axis=1)[:, :dim])


def _normalised(rows: _Floats) -> _Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def _words() -> tuple[_Floats, _Floats]:
    from safetensors import safe_open

    from hf_integration.demo_checkpoint import checkpoint_path

    with safe_open(Path(checkpoint_path()) / "model.safetensors", framework="numpy") as tensors:
        matrix = tensors.get_tensor("embeddings.word_embeddings.weight")[_USED_WORDS:].astype(np.float32)
    order = np.random.default_rng(0).permutation(len(matrix))
    return matrix[order[_WORD_QUERIES:]], matrix[order[:_WORD_QUERIES]]


def _from_file(path: Path, n_queries: int) -> tuple[_Floats, _Floats]:
    if not path.exists():
        raise SystemExit(f"--vectors: there is no {path}; pass sentences, words, or an .npy or .npz file")
    loaded = np.load(path)
    if isinstance(loaded, np.ndarray):
        rows = loaded
    elif "base" in loaded and "queries" in loaded:
        return loaded["base"], loaded["queries"]
    else:
        rows = loaded[loaded.files[0]]
    if rows.ndim != 2 or len(rows) <= n_queries:
        raise SystemExit(f"--vectors: {path} must hold a matrix of more than {n_queries} rows, got {rows.shape}")
    return rows[:-n_queries], rows[-n_queries:]
