"""Picking the clip range: candidates, and the order of neighbours that each of them gives on a sample.

What matters is not how well the codes reconstruct a vector but whether they keep its neighbours in order, see
:mod:`knn_adapters.order_error`. Under a residual level what counts is which candidates the codes leave to it: there
each range is judged by the recall of the search that will be done (the codes, the compiled kernels, the candidates that
are rescored, the residuals) against exact ``float32`` search. Arxiv 2110.08919, equation 1, fixes the clip at one sigma
instead; on normal data that saturates a third of all coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from knn_adapters import _core
from knn_adapters.clips import Clip, clip_candidates, whole_number_clip
from knn_adapters.order_error import OrderTrial
from knn_adapters.recall import exact_neighbours

__all__ = ["choose_clip", "choose_clip_with_feedback"]

_RANGE_ROWS = 16_384  # rows that quantiles and moments are taken from
_FIRST_ROWS, _FINAL_ROWS = 4_096, 8_192  # rows searched in the trials of all candidates and of the best of them
_QUERY_ROWS = 512
_FINALISTS = 3
_NEIGHBOURS, _FEWEST_NEIGHBOURS = 10, 3
_SPANS = (1.0, 4.0)  # steps that the residual level may cover
_FIRST_SPAN = 2.0  # in the trial of all candidates
_LOSSLESS_SPAN = 2.0**-12  # no residual is exactly 0: those of codes that leave nothing over should be next to it
_WORTHWHILE = 0.95  # of the error without feedback
_ERROR_ROWS = 4_096  # rows that the squared error is taken from
_AGREEMENT = 0.5  # standard errors of recall that a smaller squared error may cost

_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]


def choose_clip(vectors: _Floats, metric: str, seed: int, bits: int = 8, *, residual: bool = False) -> Clip:
    """Return the candidate that keeps the order of neighbours best in a sample of ``vectors`` ``(n, d)``.

    Args:
        vectors: finite vectors, normalised already for cosine.
        metric: ``"l2"`` or ``"ip"``.
        seed: picks the sample.
        bits: of the codes, 8 or 4.
        residual: whether a residual level follows; its span is picked too.
    """
    if not residual:
        return choose_clip_with_feedback(vectors, metric, seed, bits, None)[0]
    whole_numbers = whole_number_clip(vectors, bits)
    if whole_numbers is not None:
        return replace(whole_numbers, span=_LOSSLESS_SPAN)
    sample = _sample(vectors, seed)
    return _choose_with_residuals(list(clip_candidates(vectors, sample, bits)), sample, metric, len(vectors))


def choose_clip_with_feedback(
    vectors: _Floats, metric: str, seed: int, bits: int, feedback: npt.NDArray[np.uint16] | None
) -> tuple[Clip, npt.NDArray[np.uint16] | None]:
    """Return the candidate that keeps the order of neighbours best, and ``feedback`` if it does so with it.

    Feedback that hardly helps is not worth its memory: it has to take a twentieth of the error away.
    """
    whole_numbers = whole_number_clip(vectors, bits)
    if whole_numbers is not None:
        return whole_numbers, None
    sample = _sample(vectors, seed)
    candidates = list(clip_candidates(vectors, sample, bits))
    trial = OrderTrial.of_sample(sample, metric)
    if trial is None:
        return candidates[0], None
    errors = [trial.error(clip, None) for clip in candidates]
    if feedback is not None:
        fed = [trial.error(clip, feedback) for clip in candidates]
        if min(fed) < _WORTHWHILE * min(errors):
            return candidates[int(np.argmin(fed))], feedback
    return candidates[int(np.argmin(errors))], None


def _sample(vectors: _Floats, seed: int) -> _Floats:
    rows = np.random.default_rng(seed).permutation(len(vectors))[:_RANGE_ROWS]
    return np.ascontiguousarray(vectors[rows])


def _choose_with_residuals(candidates: list[Clip], sample: _Floats, metric: str, n: int) -> Clip:
    """Return the candidate, and its span, that finds most of the true neighbours in ``sample`` of ``n`` vectors.

    All candidates are tried on a small part of the sample, the best on a larger one with every span. Of those that
    differ from the best by less than chance makes them differ, the one is taken that cuts off least of the most extreme
    vectors, which a sample need not hold.
    """
    unclipped, *_ = candidates
    first = _Trial.of_sample(sample, _FIRST_ROWS, metric, n)
    if first is None:
        return replace(unclipped, span=_SPANS[0])
    final = _Trial.of_sample(sample, _FINAL_ROWS, metric, n) or first
    finalists = [unclipped, *first.finalists([replace(candidate, span=_FIRST_SPAN) for candidate in candidates])]
    return _best(map(final.score, [replace(clip, span=span) for clip in finalists for span in _SPANS]), unclipped)


@dataclass(frozen=True)
class _Score:
    """What a trial found: the share of true neighbours by query, ``(q,)``, and the mean squared error of the codes."""

    clip: Clip
    recalls: _Doubles
    error: float


def _rank(score: _Score) -> tuple[float, float]:
    """Return the key that sorts scores, best first."""
    return -float(score.recalls.mean()), score.error


def _best(scores: Iterable[_Score], unclipped: Clip) -> Clip:
    """Return the clip that cuts off least of those that the trial cannot tell from the best in recall.

    All were tried with the same queries: what counts is how the difference varies from query to query.
    """
    tried = list(scores)
    best = min(tried, key=_rank)

    def agrees(score: _Score) -> bool:
        difference = best.recalls - score.recalls
        return bool(difference.mean() <= _AGREEMENT * difference.std() / np.sqrt(len(difference)))

    return min(filter(agrees, tried), key=lambda score: (score.clip.cut_off(unclipped), score.error)).clip


@dataclass(frozen=True)
class _Trial:
    """A small search problem with its exact answer; no query is among the vectors that are searched."""

    base: _Floats
    queries: _Floats
    true_ids: npt.NDArray[np.int64]
    metric: str

    @classmethod
    def of_sample(cls, sample: _Floats, count: int, metric: str, n: int) -> _Trial | None:
        """Split ``sample`` into queries and ``count`` vectors; None when it is too small to tell candidates apart.

        ``sample`` was taken of ``n`` vectors. The search is for those neighbours that the nearest ten of all leave in
        it: so many times fewer candidates are rescored too.
        """
        n_queries = min(_QUERY_ROWS, len(sample) // 4)
        queries, base = sample[:n_queries], np.ascontiguousarray(sample[n_queries : n_queries + count])
        if n_queries < 1 or len(base) <= _NEIGHBOURS:
            return None
        k = max(_FEWEST_NEIGHBOURS, round(_NEIGHBOURS * min(1.0, len(base) / n)))
        return cls(base, queries, exact_neighbours(base, queries, k, metric), metric)

    def finalists(self, clips: list[Clip]) -> list[Clip]:
        """Return the best of ``clips``, best first."""
        return [score.clip for score in sorted(map(self.score, clips), key=_rank)[:_FINALISTS]]

    def score(self, clip: Clip) -> _Score:
        """Search with the codes that ``clip`` gives."""
        scale, offset = clip.affine()
        codes = _core.encode(self.base, scale, offset, clip.bits)
        l2 = self.metric == "l2"
        norms = _core.squared_norms(codes, scale, offset, clip.bits) if l2 else None
        searcher = _core.FlatSearcher(codes, norms, scale, offset, self.metric, bits=clip.bits)
        how = (codes, scale, offset, clip.span, clip.bits)
        residuals = _core.encode_residuals(self.base, *how)
        searcher.add_residuals(residuals, _core.residual_norms(residuals, *how) if l2 else None, clip.span)
        decoded = _core.decode_residuals(residuals[:_ERROR_ROWS], codes[:_ERROR_ROWS], *how[1:])
        _, found = searcher.search(self.queries, self.true_ids.shape[1], num_threads=1)
        recalls = (self.true_ids[:, :, np.newaxis] == found[:, np.newaxis, :]).any(axis=2).mean(axis=1)
        return _Score(clip, recalls, _mean_square(self.base[:_ERROR_ROWS] - decoded))


def _mean_square(errors: _Floats) -> float:
    flat = errors.reshape(-1)
    return float(np.dot(flat, flat)) / flat.size
