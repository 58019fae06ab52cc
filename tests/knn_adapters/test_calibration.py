"""What calibration picks: that it serves the search that is done, and that no data however awkward upset it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from knn_adapters import Quantizer, _core
from knn_adapters.calibration import choose_clip
from knn_adapters.clips import clip_candidates
from knn_adapters.quantizer import METRICS
from knn_adapters.recall import exact_neighbours, recall_at_k

EPSILON = float(np.finfo(np.float32).eps)
LEVELS = [(8, False), (8, True), (4, False), (4, True)]

values = st.floats(-100, 100, width=32, allow_subnormal=False)


def decoded(quantizer, rows):
    codes = quantizer.encode(rows)
    return quantizer.decode(codes, quantizer.encode_residuals(rows, codes) if quantizer.residual else None)


def search(quantizer, base, queries, k=10):
    """Exhaustive search over what ``quantizer`` makes of ``base``."""
    affine, l2 = (quantizer.scale, quantizer.offset), quantizer.core_metric == "l2"
    codes = quantizer.encode(base)
    norms = _core.squared_norms(codes, *affine, quantizer.bits) if l2 else None
    searcher = _core.FlatSearcher(codes, norms, *affine, quantizer.core_metric, bits=quantizer.bits)
    if quantizer.residual:
        how = (codes, *affine, quantizer.span, quantizer.bits)
        residuals = quantizer.encode_residuals(base, codes)
        searcher.add_residuals(residuals, _core.residual_norms(residuals, *how) if l2 else None, quantizer.span)
    return searcher.search(queries, k)


@pytest.mark.parametrize(("bits", "residual"), LEVELS)
@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_few_equal_and_constant_vectors(metric, bits, residual, data):
    """1 to 60 rows of which few differ, 1 to 17 dimensions of which some are constant."""
    n, dim = data.draw(st.sampled_from([1, 2, 5, 14, 60])), data.draw(st.sampled_from([1, 2, 3, 17]))
    distinct = data.draw(arrays.arrays(np.float32, (data.draw(st.integers(1, 4)), dim), elements=values))
    rows = distinct[np.arange(n) % len(distinct)]
    rows[:, data.draw(arrays.arrays(np.bool_, dim))] = data.draw(values)
    quantizer = Quantizer(metric, bits=bits, residual=residual)
    with np.errstate(divide="raise", invalid="raise"):
        quantizer.train(rows)

    prepared = quantizer._prepared(rows)
    low, high = prepared.min(axis=0), prepared.max(axis=0)
    found = decoded(quantizer, rows)
    # Steps of normalised rows may be subnormal.
    rounding = 8 * EPSILON * (np.abs(low) + np.abs(high) + 255 * quantizer.scale) + np.finfo(np.float32).tiny
    # A uniform range may end within a step of a dimension's.
    beyond = quantizer.scale * (quantizer.span + quantizer.is_uniform) / 2 + rounding
    assert np.all((found >= low - beyond) & (found <= high + beyond))
    # Where a range is not clipped, and one of so few rows has no reason to be, codes are the nearest ones.
    step = quantizer.scale * (quantizer.span / 255 if residual else 1.0)
    if n < 14:
        assert np.all(np.abs(found - prepared) <= step * (0.5 + 1e-3) + rounding)
    if not quantizer.is_uniform or n < 14:
        assert np.all(np.abs(found - prepared)[:, low == high] <= rounding[low == high])
    codes = quantizer.encode(rows)
    for first in range(min(n, len(distinct))):
        assert np.all(codes[first :: len(distinct)] == codes[first])


@pytest.mark.parametrize(("bits", "residual"), LEVELS)
def test_a_vector_a_thousand_times_longer_costs_the_others_little(vectors, queries, bits, residual):
    data = vectors.copy()
    data[17] *= 1000
    true_ids = exact_neighbours(data, queries, 10, "l2")
    usual, stretched = (
        recall_at_k(search(Quantizer("l2", bits=bits, residual=residual).train(rows), data, queries)[1], true_ids, 10)
        for rows in (np.delete(data, 17, axis=0), data)
    )
    assert stretched > usual - 0.02


@pytest.mark.parametrize("metric", METRICS)
def test_one_dimension(metric):
    rows = np.linspace(-1, 1, 3000, dtype=np.float32)[:, np.newaxis] ** 3
    quantizer = Quantizer(metric, residual=True).train(rows)
    assert np.median(np.abs(decoded(quantizer, rows) - quantizer._prepared(rows))) <= 2 / 255 / 255


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(
    ("bits", "residual", "allowed"), [(8, False, 0.01), (8, True, 0.001), (4, False, 0.03), (4, True, 0.01)]
)
def test_what_is_picked_finds_about_what_the_best_candidate_finds(vectors, queries, metric, bits, residual, allowed):
    """The oracle tries every candidate, with every span, on all vectors."""
    true_ids = exact_neighbours(vectors, queries, 10, metric)

    def recall(clip, span):
        scale, offset = clip.affine()
        quantizer = Quantizer(metric, bits=bits, residual=residual)
        quantizer._affine, quantizer._span = (scale, offset), span
        return recall_at_k(search(quantizer, vectors, queries)[1], true_ids, 10)

    picked = choose_clip(vectors, metric, 0, bits, residual=residual)
    spans = (1.0, 4.0) if residual else (0.0,)
    best = max(recall(clip, span) for clip in clip_candidates(vectors, vectors, bits) for span in spans)
    assert recall(picked, picked.span) >= best - allowed


def test_codes_that_leave_nothing_over_stay_exact_under_a_residual_level():
    rows = np.random.default_rng(0).integers(0, 219, (400, 16)).astype(np.float32)
    quantizer = Quantizer("l2", residual=True).train(rows)
    assert quantizer.clip == "whole numbers"
    np.testing.assert_allclose(decoded(quantizer, rows), rows, atol=1e-4)


@pytest.mark.parametrize("dim", [12, 24, 31])
def test_uniform_ranges_see_every_dimension(dim):
    """Columns differ widely, and a sample of the values must not skip some of them."""
    rows = np.random.default_rng(0).standard_normal((12_000_000 // dim // 10, dim)).astype(np.float32)
    rows = np.tile(rows, (10, 1)) * np.linspace(1, 30, dim, dtype=np.float32)
    uniform = {clip.name: clip for clip in clip_candidates(rows, rows, 8) if clip.name.endswith("uniform")}
    sigma = rows.std(dtype=np.float64)
    np.testing.assert_allclose(uniform["mean +- 3 sigma, uniform"].high, 3 * sigma, rtol=0.02)


def test_the_first_candidate_leaves_nothing_out(vectors):
    first, *others = clip_candidates(vectors, vectors[:1000], 4)
    assert first.cut_off(first) == 0.0
    quantile = next(clip for clip in others if clip.name == "quantile 0.99, per dimension")
    left_out = (
        np.maximum(vectors.max(axis=0) - quantile.high, 0) ** 2 + np.maximum(quantile.low - vectors.min(axis=0), 0) ** 2
    )
    assert quantile.cut_off(first) == pytest.approx(left_out.sum())
