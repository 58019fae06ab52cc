"""Picking the clip range: candidates, and the order of neighbours that each of them gives on a sample.

What matters is not how well the codes reconstruct a vector but whether they keep its neighbours in order, so each
candidate is judged by recall@10 of the real quantized distance (the codes, the compiled kernels, the residual level if
there is one) against exact ``float32`` search. Arxiv 2110.08919, equation 1, fixes the clip at one sigma instead; on
normal data that saturates a third of all coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.recall import exact_neighbours, recall_at_k

__all__ = ["Clip", "choose_clip"]

_RANGE_ROWS = 16_384  # rows that quantiles and moments are taken from
_BASE_ROWS = 6_144  # rows searched in the trial of a candidate
_QUERY_ROWS = 512
_UNIFORM_VALUES = 1_000_000  # values that the uniform quantiles are taken from
_NEIGHBOURS = 10
_QUANTILES = (0.9999, 0.999, 0.99)
_SIGMAS = {8: (3.0, 4.0, 5.0), 4: (2.0, 2.5, 3.0, 4.0)}  # by bits: fewer codes are worth more clipping
_SPANS = (1.0, 2.0, 4.0, 8.0)  # steps that the residual level may cover
_SPAN_ROWS = 512
_COARSE_CANDIDATES = 300  # that a search over 4-bit codes rescores for 10 neighbours

_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """A clip range: ``low`` and ``high`` are ``(d,)`` ``float64``, ``name`` says how they were found.

    ``span`` is the number of steps that the residual level covers, 0 without one.
    """

    name: str
    low: _Doubles
    high: _Doubles
    bits: int = 8
    span: float = 0.0

    def affine(self) -> tuple[_Floats, _Floats]:
        """Return ``(scale, offset)``, each ``(d,)``, of the codes 0..255 or 0..15 that cover the range.

        Codes round to the nearest step, so the outermost codes lie on the range's ends.
        """
        return ((self.high - self.low) / (2**self.bits - 1)).astype(np.float32), self.low.astype(np.float32)


def choose_clip(vectors: _Floats, metric: str, seed: int, bits: int = 8, *, residual: bool = False) -> Clip:
    """Return the candidate with the best rank agreement on a sample of ``vectors`` ``(n, d)``.

    Of those within one standard error of the best, the one with the smallest squared error of the decoded sample.

    Args:
        vectors: finite vectors, normalised already for cosine.
        metric: ``"l2"`` or ``"ip"``.
        seed: picks the samples.
        bits: of the codes, 8 or 4.
        residual: whether a residual level follows; the span that fits a candidate is picked with it.
    """
    whole_numbers = _whole_number_clip(vectors, bits)
    if whole_numbers is not None:
        return replace(whole_numbers, span=_SPANS[0]) if residual else whole_numbers
    rng = np.random.default_rng(seed)
    sample = _sample_rows(vectors, _RANGE_ROWS, rng)
    candidates = list(_candidates(vectors, sample, bits))
    if residual:
        candidates = [_with_span(candidate, sample[:_SPAN_ROWS]) for candidate in candidates]
    trial = _Trial.of_sample(_sample_rows(sample, _BASE_ROWS + _QUERY_ROWS, rng), metric, len(vectors))
    if trial is None:
        return candidates[0]
    scores = [trial.score(candidate) for candidate in candidates]
    best = max(recall for recall, _ in scores)
    standard_error = float(np.sqrt(best * (1.0 - best) / trial.true_ids.size))
    agreeing = [place for place, (recall, _) in enumerate(scores) if recall >= best - standard_error]
    return candidates[min(agreeing, key=lambda place: scores[place][1])]


@dataclass(frozen=True)
class _Trial:
    """A small search problem with its exact answer; no query is among the vectors that are searched."""

    base: _Floats
    queries: _Floats
    true_ids: npt.NDArray[np.int64]
    metric: str
    n: int

    @classmethod
    def of_sample(cls, sample: _Floats, metric: str, n: int) -> _Trial | None:
        """Split ``sample``, taken of n vectors; None when it is too small to tell candidates apart."""
        n_queries = min(_QUERY_ROWS, len(sample) // 4)
        if n_queries < 1 or len(sample) - n_queries <= _NEIGHBOURS:
            return None
        queries, base = sample[:n_queries], np.ascontiguousarray(sample[n_queries:])
        return cls(base, queries, exact_neighbours(base, queries, _NEIGHBOURS, metric), metric, n)

    def score(self, clip: Clip) -> tuple[float, float]:
        """Return ``(recall@10, mean squared error)`` of the codes that ``clip`` gives."""
        scale, offset = clip.affine()
        codes = _core.encode(self.base, scale, offset, clip.bits)
        l2 = self.metric == "l2"
        norms = _core.squared_norms(codes, scale, offset, clip.bits) if l2 else None
        searcher = _core.FlatSearcher(codes, norms, scale, offset, self.metric, bits=clip.bits)
        decoded = _core.decode(codes, scale, offset, clip.bits)
        reached = 1.0
        if clip.span:
            reached = self._share_reached(searcher) if clip.bits == 4 else 1.0
            how = (codes, scale, offset, clip.span, clip.bits)
            residuals = _core.encode_residuals(self.base, *how)
            searcher.add_residuals(residuals, _core.residual_norms(residuals, *how) if l2 else None, clip.span)
            decoded = _core.decode_residuals(residuals, *how)
        _, found = searcher.search(self.queries, _NEIGHBOURS, num_threads=1)
        return reached * recall_at_k(found, self.true_ids, _NEIGHBOURS), _mean_square(self.base - decoded)

    def _share_reached(self, searcher: _core.FlatSearcher) -> float:
        """Return the share of neighbours that are among the first level's candidates in a search of all vectors.

        The trial's base is smaller, so as many candidates would be too large a part of it: they shrink with it.
        """
        count = int(np.ceil(_COARSE_CANDIDATES * len(self.base) / max(self.n, len(self.base))))
        _, candidates = searcher.search(self.queries, max(count, _NEIGHBOURS), num_threads=1)
        reached = (self.true_ids[:, :, np.newaxis] == candidates[:, np.newaxis, :]).any(axis=2)
        return float(reached.mean())


def _mean_square(errors: _Floats) -> float:
    flat = errors.reshape(-1)
    return float(np.dot(flat, flat)) / flat.size


def _with_span(clip: Clip, sample: _Floats) -> Clip:
    """Return ``clip`` with the span whose residuals give the smallest squared error on ``sample``."""
    scale, offset = clip.affine()
    codes = _core.encode(sample, scale, offset, clip.bits)

    def error(span: float) -> float:
        how = (codes, scale, offset, span, clip.bits)
        return _mean_square(sample - _core.decode_residuals(_core.encode_residuals(sample, *how), *how))

    return replace(clip, span=min(_SPANS, key=error))


def _sample_rows(vectors: _Floats, count: int, rng: np.random.Generator) -> _Floats:
    """Return at most ``count`` rows in random order."""
    rows = rng.permutation(len(vectors))[:count]
    return np.ascontiguousarray(vectors[rows])


def _whole_number_clip(vectors: _Floats, bits: int) -> Clip | None:
    """Return the clip whose step is 1 if all values are whole numbers that the codes hold: lossless.

    Byte features such as SIFT are stored as they are instead of being stretched to their range.
    """
    if np.any(vectors[0] != np.rint(vectors[0])):
        return None
    low, high, largest = float(vectors.min()), float(vectors.max()), 2**bits - 1
    if high - low > largest or np.any(vectors != np.rint(vectors)):
        return None
    ends = np.full(vectors.shape[1], low), np.full(vectors.shape[1], low + largest)
    return Clip("whole numbers", *ends, bits)


def _candidates(vectors: _Floats, sample: _Floats, bits: int) -> Iterator[Clip]:
    """Yield every candidate, per dimension and uniform; extremes come from all vectors, the rest from ``sample``."""
    low, high = vectors.min(axis=0)[:, np.newaxis], vectors.max(axis=0)[:, np.newaxis]
    by_dimension = np.sort(np.ascontiguousarray(sample.T), axis=1)
    together = np.sort(sample.reshape(1, -1)[:, :: max(1, sample.size // _UNIFORM_VALUES)], axis=1)
    dim = vectors.shape[1]
    for kind, values, extremes in (
        ("per dimension", by_dimension, (low, high)),
        ("uniform", together, (low.min(axis=0, keepdims=True), high.max(axis=0, keepdims=True))),
    ):
        for name, start, end in _ranges(values, *extremes, _SIGMAS[bits]):
            yield Clip(f"{name}, {kind}", np.broadcast_to(start, (dim,)), np.broadcast_to(end, (dim,)), bits)


def _ranges(
    values: _Floats, low: _Floats, high: _Floats, sigmas: tuple[float, ...]
) -> Iterator[tuple[str, _Doubles, _Doubles]]:
    """Yield ``(name, low, high)``, each ``(g,)``, for g groups of sorted ``values`` ``(g, v)`` and their extremes."""
    lowest, highest = low[:, 0].astype(np.float64), high[:, 0].astype(np.float64)
    yield "min-max", lowest, highest
    for quantile in _QUANTILES:
        tail = int(np.rint((1.0 - quantile) * (values.shape[1] - 1)))
        yield f"quantile {quantile}", values[:, tail].astype(np.float64), values[:, -1 - tail].astype(np.float64)
    mean = values.mean(axis=1, dtype=np.float64)
    sigma = values.std(axis=1, dtype=np.float64)
    for factor in sigmas:
        # A range never reaches beyond the data: the steps there would be lost.
        start, end = np.maximum(lowest, mean - factor * sigma), np.minimum(highest, mean + factor * sigma)
        yield f"mean +- {factor:g} sigma", start, end
