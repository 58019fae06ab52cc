"""The second level: its code, and searches that rescore with it, against the formulas of residual.h in numpy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knn_adapters import _core

BITS_AND_RANGE = [(8, 1.0), (8, 2.5), (4, 1.0), (4, 8.0)]


def make_items(n: int, dim: int, bits: int, span: float, seed: int = 0, clip: float = 1.0) -> SimpleNamespace:
    """Random items of both levels; the last dimension is constant. `clip` below 1 cuts off a part of the range."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    vectors[:, -1] = 0.5
    low, high = clip * vectors.min(0), clip * vectors.max(0)
    scale = np.maximum((high - low) / (2**bits - 1), 0).astype(np.float32)
    codes = _core.encode(vectors, scale, low, bits=bits)
    how = {"codes": codes, "scale": scale, "offset": low, "span": span, "bits": bits}
    residuals = _core.encode_residuals(vectors, **how)
    return SimpleNamespace(
        vectors=vectors,
        how=how,
        residuals=residuals,
        residual_norms=_core.residual_norms(residuals, **how),
        norms=_core.squared_norms(codes, scale, low, bits=bits),
        unpacked=_core.encode(vectors, scale, low) if bits == 8 else (codes[:, :, None] >> [0, 4] & 15).reshape(n, -1),
        **how,
    )


def first_level(items: SimpleNamespace) -> np.ndarray:
    codes = items.unpacked[:, : len(items.scale)]
    return items.offset.astype(np.float64) + items.scale.astype(np.float64) * codes


def both_levels(items: SimpleNamespace) -> np.ndarray:
    steps = items.scale.astype(np.float64) * items.span / 255
    return first_level(items) + steps * (items.residuals - 127.5)


def n_candidates(items: SimpleNamespace, k: int) -> int:
    return max(24 * k, k + 64) if items.bits == 4 else max(2 * k, k + 16)


def searched(items: SimpleNamespace, metric: str, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What an exhaustive search must return: the first level's best by the 8-bit query, ranked by both levels."""
    n = len(items.codes)
    high, low, unit, bias = _core.fold_query(query, items.scale, items.offset)
    codes = items.unpacked[:, : len(query)].astype(np.int64)
    dots = (codes @ high.astype(np.int64)).astype(np.float32)
    keys = -dots if metric == "ip" else items.norms + np.float32(-512 * unit) * dots
    best = np.lexsort((np.arange(n), keys))[: n_candidates(items, k)]
    folded = 256 * high.astype(np.int64) + low
    weights = float(query.astype(np.float64) @ items.scale.astype(np.float64))
    second = unit * (items.residuals[best].astype(np.int64) @ folded) - 127.5 * weights
    product = bias + unit * (codes[best] @ folded) + items.span / 255 * second
    distances = -product
    if metric == "l2":
        distances = float(query.astype(np.float64) @ query) - 2 * product + items.residual_norms[best]
    order = np.lexsort((best, distances))[:k]
    return (product if metric == "ip" else distances)[order], best[order]


def searcher(items: SimpleNamespace, metric: str, level: str = "auto") -> Any:
    flat = _core.FlatSearcher(
        items.codes, items.norms, items.scale, items.offset, metric, bits=items.bits, level=level
    )  # fmt: skip
    flat.add_residuals(items.residuals, items.residual_norms if metric == "l2" else None, items.span)
    return flat


@pytest.mark.parametrize(("bits", "span"), BITS_AND_RANGE)
def test_codes_norms_and_decoded_vectors(dim: int, bits: int, span: float) -> None:
    items = make_items(40, dim, bits, span, seed=dim, clip=0.7)
    steps = items.scale.astype(np.float64) * span / 255
    raw = (items.vectors - first_level(items)) / np.where(steps > 0, steps, 1) + 127.5
    wanted = np.where(steps > 0, np.clip(np.rint(raw), 0, 255), 0)
    np.testing.assert_array_equal(items.residuals, wanted)
    vectors = both_levels(items)
    np.testing.assert_allclose(_core.decode_residuals(items.residuals, **items.how), vectors, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(items.residual_norms, (vectors**2).sum(1), rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_rounding_leaves_shrinks_by_255(bits: int) -> None:
    items = make_items(100, 33, bits, 1.0)
    error = np.abs(_core.decode_residuals(items.residuals, **items.how) - items.vectors)
    assert (error <= items.scale / 255 / 2 * 1.01 + 1e-6).all()


def test_a_wide_range_keeps_what_clipping_cuts_off() -> None:
    errors = []
    for span in (1.0, 8.0):
        items = make_items(200, 20, 4, span, clip=0.6)
        errors.append(np.abs(_core.decode_residuals(items.residuals, **items.how) - items.vectors).max())
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("bits", "span"), BITS_AND_RANGE)
def test_flat_search_equals_the_oracle(dim: int, metric: str, bits: int, span: float) -> None:
    items = make_items(400, dim, bits, span, seed=dim, clip=0.8)
    queries = make_items(15, dim, bits, span, seed=dim + 1).vectors
    first = None
    for level in _core.simd_levels():
        flat = searcher(items, metric, level)
        single = [flat.search(query[None], 10) for query in queries]
        for answer in (flat.search(queries, 10), tuple(np.concatenate(p) for p in zip(*single, strict=True))):
            first = first or answer
            np.testing.assert_array_equal(answer[1], first[1])
            np.testing.assert_array_equal(answer[0], first[0])
    wanted = [searched(items, metric, query, 10) for query in queries]
    # The oracle adds in another order, in double: distances agree to float32, and so do ids where no two are that near.
    np.testing.assert_allclose(first[0], [row for row, _ in wanted], rtol=1e-5, atol=1e-5)
    if dim >= 32:
        np.testing.assert_array_equal(first[1], [row for _, row in wanted])


@pytest.mark.parametrize("bits", [8, 4])
def test_distances_are_nearly_those_of_float32(bits: int) -> None:
    items = make_items(3000, 96, bits, 1.0)
    queries = make_items(20, 96, bits, 1.0, seed=1).vectors
    distances, ids = searcher(items, "l2").search(queries, 10)
    exact = ((queries[:, None] - items.vectors[ids]) ** 2).sum(-1)
    np.testing.assert_allclose(distances, exact, rtol=2e-3)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("bits", [8, 4])
def test_graphs_and_forests_rescore_alike(metric: str, bits: int, oracle: SimpleNamespace) -> None:
    """A graph that links everything and a forest of one leaf see all items, so they find what a flat search finds."""
    n = 50
    items = make_items(n, 37, bits, 2.0)
    queries = make_items(9, 37, bits, 2.0, seed=1).vectors
    wanted = searcher(items, metric).search(queries, 10)
    norms, residual_norms = (items.norms, items.residual_norms) if metric == "l2" else (None, None)
    how = {"scale": items.scale, "offset": items.offset, "metric": metric, "bits": bits}
    others = np.array([[j for j in range(n) if j != i] for i in range(n)])
    links = np.concatenate([np.full((n, 1), n - 1), others, np.zeros((n, 1), int)], 1).astype(np.uint32)
    filled = oracle.filled(
        items.codes, **how, max_m=n // 2, residuals=items.residuals, span=items.span, level0=links,
        element_levels=np.zeros(n, np.int32), link_lists=np.empty(0, np.uint32), entry_point=0, max_level=0,
    )  # fmt: skip
    linked = _core.LinkedGraphSearcher(
        items.codes, norms, np.arange(n + 1, dtype=np.uint64) * (n - 1), others.astype(np.int32).ravel(),
        np.array([0, n - 1], np.int32), 0, 0, **how,
    )  # fmt: skip
    forest = _core.ForestSearcher(
        items.codes, norms, items.scale, items.offset, np.empty((0, 37), np.uint8), np.empty(0, np.float32),
        np.empty(0, np.float32), np.empty((0, 2), np.int32), np.array([0, n], np.uint32),
        np.arange(n, dtype=np.int32), np.array([-1], np.int32), metric, bits=bits,
    )  # fmt: skip
    for other in (filled, linked, forest):
        if other is not filled:
            other.add_residuals(items.residuals, residual_norms, items.span)
        for got, expected in zip(other.search(queries, 10, n), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"residuals": np.ones((4, 3), np.uint8)}, "`residuals` must have length 5"),
        ({"residuals": np.ones((5, 2), np.uint8)}, "`residuals` must have 3 columns"),
        ({"norms": None}, "`norms` must be given"),
        ({"norms": np.ones(4, np.float32)}, "`norms` must have length 5"),
        ({"span": 0.0}, "`span` must be a finite number above 0"),
        ({"span": float("nan")}, "`span` must be a finite number above 0"),
    ],
)
def test_a_second_level_that_does_not_fit_is_refused(change: dict[str, Any], match: str) -> None:
    items = make_items(5, 3, 8, 1.0)
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, "l2")
    good = {"residuals": items.residuals, "norms": items.residual_norms, "span": 1.0}
    with pytest.raises(ValueError, match=match):
        flat.add_residuals(**{**good, **change})
    for function in (_core.residual_norms, _core.decode_residuals):
        with pytest.raises(ValueError, match="`residuals` must have"):
            function(np.ones((5, 4), np.uint8), **items.how)
    with pytest.raises(ValueError, match="`vectors` must have"):
        _core.encode_residuals(np.ones((4, 3), np.float32), **items.how)
