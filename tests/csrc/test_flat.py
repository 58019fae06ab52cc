"""Exhaustive search gives what the formulas say, whatever the level, the number of threads and the batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core


def searcher(items: SimpleNamespace, metric: str, level: str = "auto") -> _core.FlatSearcher:
    return _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, metric, level=level)


def check(items: SimpleNamespace, metric: str, queries: np.ndarray, k: int, oracle: SimpleNamespace) -> None:
    """Compare every level, one query at a time and in a batch, with the oracle."""
    everything = np.arange(len(items.codes))
    wanted = [oracle.search_among(items, metric, query, k, everything) for query in queries]
    for level in _core.simd_levels():
        flat = searcher(items, metric, level)
        answers = [flat.search(queries, k, num_threads=threads) for threads in (1, 2, 0)]
        single = [flat.search(query[None], k) for query in queries]
        answers.append(tuple(np.concatenate(parts) for parts in zip(*single, strict=True)))
        for distances, ids in answers:
            np.testing.assert_array_equal(ids, [row for _, row in wanted])
            np.testing.assert_array_equal(distances, [row for row, _ in wanted])


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_search_equals_the_oracle(dim: int, metric: str, oracle: SimpleNamespace) -> None:
    items = oracle.make_items(333, dim, seed=dim)
    queries = oracle.make_items(21, dim, seed=dim + 1).vectors
    check(items, metric, queries, 10, oracle)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 70),
    dim=st.integers(1, 130),
    k=st.integers(1, 80),
    n_queries=st.integers(1, 20),
    metric=st.sampled_from(["l2", "ip", "cosine"]),
)
def test_awkward_sizes(
    oracle: SimpleNamespace, seed: int, n: int, dim: int, k: int, n_queries: int, metric: str
) -> None:
    rng = np.random.default_rng(seed)
    items = oracle.make_items(n, dim, seed=seed)
    items.codes = np.ascontiguousarray(items.codes[rng.integers(0, n, n)])  # duplicates: ties go to the lower id
    items.norms = _core.squared_norms(items.codes, items.scale, items.offset)
    check(items, metric, rng.standard_normal((n_queries, dim)).astype(np.float32), k, oracle)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("n_queries", [5, 6, 16, 22, 64, 69, 150])
def test_batches_of_every_shape(n_queries: int, metric: str, oracle: SimpleNamespace) -> None:
    """Queries one by one, in groups that are full or not, in several strips; items in several blocks and tiles."""
    items = oracle.make_items(530, 10, seed=n_queries)
    check(items, metric, oracle.make_items(n_queries, 10, seed=n_queries + 1).vectors, 7, oracle)


@pytest.mark.parametrize("k", [1, 100, 5000, 6000])
def test_large_k(k: int, oracle: SimpleNamespace) -> None:
    """Selection by partition, not by a heap: all k up to n and above."""
    items = oracle.make_items(5000, 8)
    check(items, "l2", items.vectors[:13], k, oracle)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_codes_are_split_over_threads_where_queries_are_few(metric: str, oracle: SimpleNamespace) -> None:
    """14 MB of codes, each of them in all parts many times, so that ties are settled between parts."""
    n, dim, rng = 45_000, 300, np.random.default_rng(1)
    items = oracle.make_items(200, dim)
    which = rng.integers(0, 200, n)
    items.codes, items.norms = np.ascontiguousarray(items.codes[which]), np.ascontiguousarray(items.norms[which])
    flat, queries = searcher(items, metric), items.vectors[:7]
    half = rng.random(n) < 0.5
    for k in (1, 300, 2 * n):
        for id_filter, among in (
            (None, np.arange(n)),
            (half, np.flatnonzero(half)),
            (range(400, n - 3), np.arange(400, n - 3)),
            (lambda item: item % 2 == 0, np.arange(0, n, 2)),
            (range(5, 9), np.arange(5, 9)),
        ):
            wanted = oracle.search_among(items, metric, queries[0], k, among)
            for count, num_threads in ((1, 1), (1, 2), (2, 3), (7, 3), (7, 1)):
                found = flat.search(queries[:count], k, num_threads=num_threads, id_filter=id_filter)
                np.testing.assert_array_equal(found[1][0], wanted[1])
                np.testing.assert_array_equal(found[0][0], wanted[0])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_neighbours_are_the_true_ones(metric: str, oracle: SimpleNamespace) -> None:
    """Against float32 on the vectors themselves: what is lost is lost to the codes."""
    items = oracle.make_items(2000, 64)
    queries = oracle.make_items(50, 64, seed=1).vectors
    squares = ((queries[:, None] - items.vectors[None]) ** 2).sum(-1)
    true = np.argsort(squares if metric == "l2" else -(queries @ items.vectors.T), axis=1)[:, :10]
    assert oracle.recall(searcher(items, metric).search(queries, 10)[1], true) > 0.97


def test_zero_query(oracle: SimpleNamespace) -> None:
    items = oracle.make_items(40, 5)
    zero = np.zeros((1, 5), np.float32)
    distances, ids = searcher(items, "l2").search(zero, 3)
    np.testing.assert_array_equal(distances[0], np.sort(items.norms)[:3])
    for metric in ("ip", "cosine"):
        distances, ids = searcher(items, metric).search(zero, 3)
        assert distances.tolist() == [[0, 0, 0]]
        assert ids.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("length", [1e-18, 1e-3, 7.0, 1e18])
def test_cosine_takes_queries_of_any_length(length: float, oracle: SimpleNamespace) -> None:
    items = oracle.make_items(200, 24)
    queries = items.vectors[:9] / np.linalg.norm(items.vectors[:9], axis=1, keepdims=True)
    wanted = searcher(items, "ip").search(queries, 5)
    found = searcher(items, "cosine").search(queries * np.float32(length), 5)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4)
    np.testing.assert_array_equal(found[1], wanted[1])


def test_no_codes_and_no_queries() -> None:
    scale, offset = np.ones(4, np.float32), np.zeros(4, np.float32)
    empty = _core.FlatSearcher(np.empty((0, 4), np.uint8), np.empty(0, np.float32), scale, offset, "l2")
    distances, ids = empty.search(np.ones((2, 4), np.float32), 3)
    assert np.isposinf(distances).all()
    assert (ids == -1).all()
    some = _core.FlatSearcher(np.ones((2, 4), np.uint8), None, scale, offset, "ip")
    assert some.search(np.empty((0, 4), np.float32), 3)[1].shape == (0, 3)
    distances, ids = some.search(np.ones((1, 4), np.float32), 3)
    assert ids.tolist() == [[0, 1, -1]]
    assert distances.tolist() == [[4, 4, -np.inf]]


def test_arrays_are_kept_alive(oracle: SimpleNamespace) -> None:
    items = oracle.make_items(1000, 32)
    flat = searcher(items, "l2")
    wanted = flat.search(items.vectors[:5], 3)
    queries = items.vectors[:5].copy()
    del items
    ballast = [np.full((1000, 32), 255, np.uint8) for _ in range(50)]
    np.testing.assert_array_equal(flat.search(queries, 3)[1], wanted[1])
    del ballast
