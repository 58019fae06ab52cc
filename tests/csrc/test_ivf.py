"""Search in inverted lists gives what the formulas say, whatever the level, the number of threads and the batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core


def make_lists(
    oracle: SimpleNamespace, n: int, dim: int, n_lists: int, *, residual: bool, seed: int
) -> SimpleNamespace:
    """Random items dealt out to lists, some of which may stay empty, with ids that are not positions."""
    rng = np.random.default_rng(seed)
    items = oracle.make_items(n, dim, seed=seed)
    items.owner = np.sort(rng.integers(0, n_lists, n))
    items.ids = rng.permutation(10 * n)[:n].astype(np.int64)
    items.centroids = rng.standard_normal((n_lists, dim)).astype(np.float32) if residual else None
    members = [items.owner == number for number in range(n_lists)]
    items.lists = [np.ascontiguousarray(items.codes[rows]) for rows in members], [items.ids[rows] for rows in members]
    for number, rows in enumerate(members):
        shift = items.centroids[number] if residual else np.zeros(dim, np.float32)
        items.norms[rows] = _core.squared_norms(items.codes[rows], items.scale, items.offset + shift)
    return items


def searcher(items: SimpleNamespace, metric: str, level: str = "auto") -> _core.IvfSearcher:
    return _core.IvfSearcher(*items.lists, items.centroids, items.scale, items.offset, metric, level=level)


def wanted(
    oracle: SimpleNamespace, items: SimpleNamespace, metric: str, query: np.ndarray, lists: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The formulas of ivf.h over the items of the visited lists, nearest first, ties to the first position."""
    high, low, unit, bias = _core.fold_query(query, items.scale, items.offset)
    among = np.flatnonzero(np.isin(items.owner, lists))
    codes = items.codes[among].astype(np.int64)
    products = np.zeros(len(among))
    weight = np.float32(-512 * unit if metric == "l2" else -1)
    if items.centroids is not None:
        by_list = [oracle.lane_sum(query.astype(np.float64) * centroid) for centroid in items.centroids]
        products = np.array(by_list)[items.owner[among]]
        weight = np.float32((-512 if metric == "l2" else -256) * unit)
    constant = ((-2 if metric == "l2" else -1) * products).astype(np.float32)
    keys = constant + weight * (codes @ high.astype(np.int64)).astype(np.float32)
    if metric == "l2":
        keys = items.norms[among] + keys
    keep = min(max(2 * k, k + 16), len(items.codes))
    best = np.lexsort((among, keys))[:keep]
    folded = 256 * high.astype(np.int64) + low
    product = products[best] + (bias + unit * (codes[best] @ folded).astype(np.float64))
    if metric == "ip":
        distances = product.astype(np.float32)
    else:
        squares = oracle.lane_sum(query.astype(np.float64) ** 2)
        distances = np.maximum(squares - 2 * product + items.norms[among[best]].astype(np.float64), 0).astype(
            np.float32
        )
    order = np.lexsort((among[best], -distances if metric == "ip" else distances))[:k]
    missing = k - len(order)
    worst = -np.inf if metric == "ip" else np.inf
    return (
        np.concatenate([distances[order], np.full(missing, worst, np.float32)]),
        np.concatenate([items.ids[among[best[order]]], np.full(missing, -1)]),
    )


def check(
    oracle: SimpleNamespace, items: SimpleNamespace, metric: str, queries: np.ndarray, assignment: np.ndarray, k: int
) -> None:
    rows = [wanted(oracle, items, metric, *row, k) for row in zip(queries, assignment, strict=True)]
    for level in _core.simd_levels():
        ivf = searcher(items, metric, level)
        answers = [ivf.search(queries, assignment, k, num_threads=threads) for threads in (1, 2, 0)]
        single = [ivf.search(queries[i : i + 1], assignment[i : i + 1], k) for i in range(len(queries))]
        answers.append(tuple(np.concatenate(parts) for parts in zip(*single, strict=True)))
        for distances, ids in answers:
            np.testing.assert_array_equal(distances, [row for row, _ in rows])
            np.testing.assert_array_equal(ids, [row for _, row in rows])


def assign(rng: np.random.Generator, n_queries: int, n_lists: int, n_probe: int) -> np.ndarray:
    """Distinct lists for each query, some of them none."""
    rows = np.array([rng.permutation(n_lists)[:n_probe] for _ in range(n_queries)], np.int64).reshape(n_queries, -1)
    rows[rng.random(rows.shape) < 0.1] = -1
    return rows


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_search_equals_the_oracle(oracle: SimpleNamespace, dim: int, metric: str, residual: bool) -> None:
    items = make_lists(oracle, 400, dim, 7, residual=residual, seed=dim)
    rng = np.random.default_rng(dim)
    queries = rng.standard_normal((30, dim)).astype(np.float32)
    check(oracle, items, metric, queries, assign(rng, 30, 7, 4), 10)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 90),
    dim=st.integers(1, 130),
    n_lists=st.integers(1, 12),
    n_probe=st.integers(1, 12),
    k=st.integers(1, 100),
    n_queries=st.integers(1, 40),
    metric=st.sampled_from(["l2", "ip"]),
    residual=st.booleans(),
)
def test_awkward_sizes(
    oracle: SimpleNamespace, seed: int, n: int, dim: int, n_lists: int, n_probe: int, k: int, n_queries: int,
    metric: str, residual: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    items = make_lists(oracle, n, dim, n_lists, residual=residual, seed=seed)
    queries = rng.standard_normal((n_queries, dim)).astype(np.float32)
    check(oracle, items, metric, queries, assign(rng, n_queries, n_lists, min(n_probe, n_lists)), k)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_all_lists_are_an_exhaustive_search(oracle: SimpleNamespace, metric: str) -> None:
    items = make_lists(oracle, 500, 48, 5, residual=False, seed=3)
    queries = np.random.default_rng(4).standard_normal((20, 48)).astype(np.float32)
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, metric)
    distances, positions = flat.search(queries, 10)
    everywhere = np.tile(np.arange(5), (20, 1))
    found, ids = searcher(items, metric).search(queries, everywhere, 10)
    np.testing.assert_array_equal(found, distances)
    np.testing.assert_array_equal(ids, items.ids[positions])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_packed_codes(oracle: SimpleNamespace, level: str, metric: str) -> None:
    """Codes of 4 bits: all lists against exhaustive search, one query at a time and in a batch."""
    items = oracle.make_items(200, 21)
    scale = items.scale * np.float32(17)
    codes = _core.encode(items.vectors, scale, items.offset, bits=4)
    norms = _core.squared_norms(codes, scale, items.offset, bits=4)
    flat = _core.FlatSearcher(codes, norms, scale, items.offset, metric, bits=4, level=level)
    parts = np.split(np.arange(200), [3, 50])
    lists = [np.ascontiguousarray(codes[rows]) for rows in parts], parts
    ivf = _core.IvfSearcher(*lists, None, scale, items.offset, metric, bits=4, level=level)
    queries = items.vectors[:30]
    everywhere = np.tile(np.arange(3), (30, 1))
    for count in (1, 30):
        wanted_ = flat.search(queries[:count], 10)
        found = ivf.search(queries[:count], everywhere[:count], 10)
        np.testing.assert_array_equal(found[0], wanted_[0])
        np.testing.assert_array_equal(found[1], wanted_[1])


def test_a_list_named_twice_is_scored_twice(oracle: SimpleNamespace) -> None:
    items = make_lists(oracle, 30, 8, 3, residual=True, seed=1)
    queries = np.ones((20, 8), np.float32)
    distances, ids = searcher(items, "l2").search(queries, np.tile(np.int64(1), (20, 3)), 5)
    assert (distances[:, 0] == distances[:, 1]).all()
    assert (ids[:, 0] == ids[:, 2]).all()


def test_no_lists_no_items_and_no_queries() -> None:
    ones = np.ones(4, np.float32)
    queries = np.ones((2, 4), np.float32)
    none = _core.IvfSearcher([], [], None, ones, ones, "l2")
    assert none.search(queries, np.empty((2, 0), np.int64), 3)[1].tolist() == [[-1] * 3] * 2
    empty = [np.empty((0, 4), np.uint8)] * 2, [np.empty(0, np.int64)] * 2
    distances, ids = _core.IvfSearcher(*empty, None, ones, ones, "ip").search(queries, np.array([[0], [1]]), 2)
    assert np.isneginf(distances).all()
    assert (ids == -1).all()
    some = _core.IvfSearcher(*empty, None, ones, ones, "ip")
    assert some.search(queries[:0], np.empty((0, 2), np.int64), 3)[1].shape == (0, 3)


def test_bytes_count_the_norms_only(oracle: SimpleNamespace) -> None:
    items = make_lists(oracle, 1000, 16, 4, residual=True, seed=0)
    assert searcher(items, "ip").nbytes < 1000
    assert 4000 <= searcher(items, "l2").nbytes < 5000


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_lists_that_grew_are_opened_from_where_they_were(
    oracle: SimpleNamespace, metric: str, residual: bool, bits: int
) -> None:
    items = make_lists(oracle, 300, 21, 6, residual=residual, seed=5)
    codes, ids = items.lists
    if bits == 4:
        codes = [np.ascontiguousarray(rows[:, :11]) for rows in codes]
    how = (items.centroids, items.scale, items.offset, metric)
    rng = np.random.default_rng(0)
    queries, everywhere = rng.standard_normal((20, 21)).astype(np.float32), np.tile(np.arange(6), (20, 1))
    ivf, lengths = None, [0] * 6
    for _ in range(4):  # from nothing, some lists at a time
        lengths = [int(rng.integers(a, len(rows) + 1)) for a, rows in zip(lengths, codes, strict=True)]
        parts = (
            [rows[:n] for rows, n in zip(codes, lengths, strict=True)],
            [numbers[:n] for numbers, n in zip(ids, lengths, strict=True)],
        )
        fresh = _core.IvfSearcher(*parts, *how, bits=bits)
        ivf = _core.IvfSearcher(*parts, *how, bits=bits, before=ivf)
        assert ivf.nbytes == fresh.nbytes
        for got, expected in zip(ivf.search(queries, everywhere, 9), fresh.search(queries, everywhere, 9), strict=True):
            np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="`before` must have no list that is longer than here, got"):
        _core.IvfSearcher([rows[:0] for rows in codes], [rows[:0] for rows in ids], *how, bits=bits, before=ivf)
    with pytest.raises(ValueError, match="`before` must have as many lists, dimensions and bits, and the same metric"):
        _core.IvfSearcher(*parts, *how[:3], "ip" if metric == "l2" else "l2", bits=bits, before=ivf)


def test_what_was_computed_before_is_not_computed_again(oracle: SimpleNamespace) -> None:
    """Shown by what must not be done: codes that changed meanwhile keep the norms that they had."""
    items = make_lists(oracle, 50, 8, 1, residual=False, seed=5)
    (codes,), (ids,) = items.lists
    how = (None, items.scale, items.offset, "l2")
    before = _core.IvfSearcher([codes], [ids], *how)
    others = codes.copy()
    others[:] = 0
    query, everything = np.zeros((1, 8), np.float32), np.zeros((1, 1), np.int64)
    kept = _core.IvfSearcher([others], [ids], *how, before=before).search(query, everything, 50)
    assert np.ptp(kept[0]) > 0
    assert np.ptp(_core.IvfSearcher([others], [ids], *how).search(query, everything, 50)[0]) == 0


CODES, IDS = [np.ones((3, 4), np.uint8), np.ones((1, 4), np.uint8)], [np.arange(3), np.arange(1)]
ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ids": IDS[:1]}, "`ids` must have as many lists as `codes`, 2, got 1"),
        ({"ids": [np.arange(3), np.arange(2)]}, "`ids` must have length 1, the number of codes of their list, got 2"),
        ({"ids": [np.arange(3, dtype=np.int32), np.arange(1)]}, "`ids` must be a C-contiguous int64 array"),
        (
            {"codes": [CODES[0], np.ones((1, 5), np.uint8)]},
            "`codes` must have 4 columns in every list, got 5: pass codes",
        ),
        ({"codes": [CODES[0], np.ones((1, 4), np.int8)]}, "`codes` must be a C-contiguous uint8 array"),
        ({"centroids": np.ones((3, 4), np.float32)}, "`centroids` must have length 2, the number of lists, got 3"),
        ({"centroids": np.ones((2, 3), np.float32)}, "`centroids` must have 4 columns"),
        ({"centroids": np.full((2, 4), np.nan, np.float32)}, "`centroids` must be finite"),
        ({"scale": np.empty(0, np.float32)}, "dimension of the vectors must be 1 to 65536, got 0"),
        ({"offset": np.ones(3, np.float32)}, "`offset` must have length 4"),
        ({"metric": "cosine"}, '`metric` must be "l2" or "ip"'),
    ],
)
def test_constructor_refuses(changes: dict[str, Any], match: str) -> None:
    given_: dict[str, Any] = {"codes": CODES, "ids": IDS, "centroids": None, "scale": ONES, "offset": ONES}
    with pytest.raises(ValueError, match=match):
        _core.IvfSearcher(**{**given_, "metric": "l2", **changes})


@pytest.mark.parametrize(
    ("assignment", "match"),
    [
        (np.array([[0], [2]]), "`assignment` must name lists below 2, or -1 for none, got 2: pass what the coarse"),
        (np.array([[0], [-2]]), "got -2"),
        (np.array([[0]]), "`assignment` must have a row for each of the 2 queries, got 1"),
        (np.zeros((2, 3), np.int64), "`assignment` must have at most 2 columns, the number of lists, got 3"),
        (np.zeros((2, 1), np.int32), "`assignment` must be a C-contiguous int64 array"),
    ],
)
def test_search_refuses(assignment: np.ndarray, match: str) -> None:
    ivf = _core.IvfSearcher(CODES, IDS, None, ONES, ONES, "ip")
    with pytest.raises(ValueError, match=match):
        ivf.search(np.ones((2, 4), np.float32), assignment, 1)
