"""Encoding, decoding, norms and query folding against their formulas in numpy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

RANGE = 32639  # MP_QUERY_RANGE


def expected_codes(vectors: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    steps = (vectors - offset) / np.where(scale > 0, scale, 1)
    return np.where(scale > 0, np.clip(np.rint(steps), 0, 255), 0).astype(np.uint8)


def test_encode_rounds_then_clamps(dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = rng.standard_normal((23, dim)).astype(np.float32)
    scale = rng.uniform(0.001, 0.02, dim).astype(np.float32)  # a range of about one sigma: many are clamped
    offset = np.full(dim, -1, np.float32)
    codes = _core.encode(vectors, scale, offset)
    np.testing.assert_array_equal(codes, expected_codes(vectors, scale, offset))


def test_ties_round_to_even_and_a_constant_dimension_is_zero() -> None:
    vectors = np.array([[0.5, 1.5, 7, 1e30, -1e30]], np.float32)
    scale = np.array([1, 1, 0, 1, 1], np.float32)
    assert _core.encode(vectors, scale, np.zeros(5, np.float32)).tolist() == [[0, 2, 0, 255, 0]]


def test_decode_is_within_half_a_step(dim: int, oracle: SimpleNamespace) -> None:
    items = oracle.make_items(50, dim)
    decoded = _core.decode(items.codes, items.scale, items.offset)
    np.testing.assert_array_equal(decoded, items.offset + items.scale * items.codes.astype(np.float32))
    ulps = 4 * np.finfo(np.float32).eps * np.abs(items.vectors).max()
    assert (np.abs(decoded - items.vectors) <= items.scale / 2 + ulps).all()


def test_norms_are_those_of_the_decoded_vectors(dim: int, oracle: SimpleNamespace) -> None:
    items = oracle.make_items(20, dim)
    exact = items.offset.astype(np.float64) + items.scale.astype(np.float64) * items.codes
    np.testing.assert_array_equal(items.norms, [np.float32(oracle.lane_sum(row**2)) for row in exact])


def test_empty_input_gives_empty_output() -> None:
    scale, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert _core.encode(np.empty((0, 3), np.float32), scale, offset).shape == (0, 3)
    assert _core.decode(np.empty((0, 3), np.uint8), scale, offset).shape == (0, 3)
    assert _core.squared_norms(np.empty((0, 3), np.uint8), scale, offset).shape == (0,)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 130), exponent=st.integers(-30, 30))
def test_fold_query_keeps_its_bounds(seed: int, dim: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    query = (rng.standard_normal(dim) * 10.0**exponent).astype(np.float32)
    scale = rng.uniform(0, 2, dim).astype(np.float32)
    offset = rng.standard_normal(dim).astype(np.float32)
    high, low, unit, bias = _core.fold_query(query, scale, offset)
    weights = query.astype(np.float64) * scale
    assert unit == pytest.approx(np.abs(weights).max() / RANGE, rel=1e-12)
    assert np.abs(high.astype(int)).max() <= 127
    rounding = 2.0**-24 * RANGE * unit  # the quotient is a float32 before it is rounded to an integer
    assert (np.abs(weights - unit * (256 * high.astype(np.int64) + low)) <= unit / 2 + rounding).all()
    # Half a step of the 8-bit query, and the half step by which the 16-bit one had been rounded before.
    assert (np.abs(weights - 256 * unit * high.astype(np.int64)) <= 128.5 * unit + rounding).all()
    terms = query.astype(np.float64) * offset
    assert bias == pytest.approx(terms.sum(), abs=1e-12 * np.abs(terms).sum())


@pytest.mark.parametrize("of", ["query", "scale"])
def test_a_zero_query_folds_to_zero(of: str) -> None:
    values = {"query": np.ones(5, np.float32), "scale": np.ones(5, np.float32)}
    values[of] = np.zeros(5, np.float32)
    high, low, unit, _ = _core.fold_query(values["query"], values["scale"], np.ones(5, np.float32))
    assert unit == 0
    assert not high.any()
    assert not low.any()
