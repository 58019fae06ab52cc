"""Encoding with feedback, against the formula of feedback.h step by step in float32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core


def widened(factors: np.ndarray) -> np.ndarray:
    return (factors.astype(np.uint32) << 16).view(np.float32)


def expected(vectors: np.ndarray, scale: np.ndarray, offset: np.ndarray, bits: int, factors: np.ndarray) -> np.ndarray:
    """Codes, not packed: one dimension after the other, each product and each difference rounded to float32."""
    dim, most = vectors.shape[1], 2**bits - 1
    rows = np.zeros((dim, dim), np.float32)
    rows[np.triu_indices(dim, 1)] = widened(factors)
    rest = vectors.copy()
    codes = np.zeros(vectors.shape, np.uint8)
    for i in range(dim):
        if scale[i] > 0:
            codes[:, i] = np.clip(np.rint((rest[:, i] - offset[i]) / scale[i]), 0, most)
        error = rest[:, i] - (offset[i] + scale[i] * codes[:, i].astype(np.float32))
        for j in range(i + 1, dim):
            rest[:, j] -= error * rows[i, j]
    return codes


def pack(codes: np.ndarray) -> np.ndarray:
    padded = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return padded[:, 0::2] | padded[:, 1::2] << 4


def make(seed: int, n: int, dim: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    factors = rng.standard_normal(dim * (dim - 1) // 2).astype(np.float32) / np.float32(dim)
    scale = np.where(rng.random(dim) < 0.1, 0, 0.02 + 0.03 * rng.random(dim)).astype(np.float32)
    return vectors, scale, rng.uniform(-3, 0, dim).astype(np.float32), (factors.view(np.uint32) >> 16).astype(np.uint16)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 9), dim=st.integers(1, 70), bits=st.sampled_from([8, 4]))
def test_every_level_follows_the_formula(seed: int, n: int, dim: int, bits: int) -> None:
    vectors, scale, offset, factors = make(seed, n, dim)
    scale *= 1 if bits == 8 else 16
    wanted = expected(vectors, scale, offset, bits, factors)
    for level in _core.simd_levels():
        got = _core.encode(vectors, scale, offset, bits, factors, level)
        np.testing.assert_array_equal(got, wanted if bits == 8 else pack(wanted))


def test_one_by_one_or_together(level: str) -> None:
    vectors, scale, offset, factors = make(0, 23, 129)
    together = _core.encode(vectors, scale, offset, 8, factors, level)
    for row in range(len(vectors)):
        np.testing.assert_array_equal(
            _core.encode(vectors[row : row + 1], scale, offset, 8, factors, level)[0], together[row]
        )


def test_without_correlations_values_are_rounded_one_by_one() -> None:
    vectors, scale, offset, factors = make(1, 40, 33)
    np.testing.assert_array_equal(
        _core.encode(vectors, scale, offset, 8, np.zeros_like(factors)), _core.encode(vectors, scale, offset)
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_a_graph_encodes_alike(bits: int) -> None:
    vectors, scale, offset, factors = make(2, 50, 21)
    graph = _core.HnswGraph(21, 50, scale, offset, "l2", bits=bits, feedback=factors)
    graph.add(vectors, num_threads=1)
    np.testing.assert_array_equal(graph.codes(np.arange(50)), _core.encode(vectors, scale, offset, bits, factors))
    graph.replace(np.arange(5), vectors[5:10].copy(), num_threads=1)
    np.testing.assert_array_equal(
        graph.codes(np.arange(5)), _core.encode(vectors[5:10].copy(), scale, offset, bits, factors)
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.zeros(9, np.uint16), "a value for each pair of dimensions"),
        (np.zeros(10, np.float32), "must be a C-contiguous uint16 array"),
        (np.full(10, 0x7F80, np.uint16), "must be finite"),
        (np.full(10, 0xFFC0, np.uint16), "must be finite"),
    ],
)
def test_bad_factors(factors: np.ndarray, message: str) -> None:
    ones = np.ones(5, np.float32)
    with pytest.raises(ValueError, match=message):
        _core.encode(np.ones((2, 5), np.float32), ones, ones, 8, factors)
    with pytest.raises(ValueError, match=message):
        _core.HnswGraph(5, 2, ones, ones, "l2", feedback=factors)
