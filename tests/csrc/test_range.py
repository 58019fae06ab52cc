"""Range searches find everything that is nearer by the 16-bit query, and nothing else, by the formulas in numpy."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

Hits = list[tuple[np.ndarray, np.ndarray]]


def make_items(n: int, dim: int, bits: int, span: float, seed: int) -> SimpleNamespace:
    """Random items, many of them equal, with both levels if `span` is not 0; the last dimension is constant."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)[rng.integers(0, n, n)]
    vectors[:, -1] = 0.5
    scale = ((vectors.max(0) - vectors.min(0)) / (2**bits - 1)).astype(np.float32)
    how = {"scale": scale, "offset": vectors.min(0), "bits": bits}
    codes = _core.encode(vectors, **how)
    items = SimpleNamespace(how=how, codes=codes, span=span, residuals=None, scale=scale, offset=how["offset"])
    items.norms = items.all_norms = _core.squared_norms(codes, **how)
    items.unpacked = codes if bits == 8 else (codes[:, :, None] >> [0, 4] & 15).reshape(n, -1)[:, :dim]
    if span:
        items.residuals = _core.encode_residuals(vectors, codes, **how, span=span)
        items.all_norms = _core.residual_norms(items.residuals, codes, **how, span=span)
    return items


def flat_of(items: SimpleNamespace, metric: str, level: str = "auto") -> _core.FlatSearcher:
    norms = items.norms if metric == "l2" else None
    flat = _core.FlatSearcher(items.codes, norms, metric=metric, level=level, **items.how)
    if items.span:
        flat.add_residuals(items.residuals, items.all_norms if metric == "l2" else None, items.span)
    return flat


def distances_of(oracle: SimpleNamespace, items: SimpleNamespace, metric: str, query: np.ndarray) -> np.ndarray:
    """The float32 distances of all items from the 16-bit query, of both levels if there are two."""
    wide = query.astype(np.float64)
    high, low, unit, bias = _core.fold_query(query, items.scale, items.offset)
    folded, squares = 256 * high.astype(np.int64) + low, oracle.lane_sum(wide**2)
    steps = oracle.lane_sum(wide * items.scale.astype(np.float64))
    if metric == "cosine":
        inverse = 1 / np.sqrt(squares) if squares > 0 else 0.0
        unit, bias, steps = unit * inverse, bias * inverse, steps * inverse
    product = bias + unit * (items.unpacked.astype(np.int64) @ folded).astype(np.float64)
    if items.span:
        second = (items.residuals.astype(np.int64) @ folded).astype(np.float64)
        product = product + float(np.float32(items.span)) / 255 * (unit * second - 127.5 * steps)
    if metric != "l2":
        return product.astype(np.float32) + np.float32(0)
    return np.maximum(squares - 2 * product + items.all_norms.astype(np.float64), 0).astype(np.float32)


def inside(distances: np.ndarray, metric: str, radius: float) -> np.ndarray:
    return distances < np.float32(radius) if metric == "l2" else distances > np.float32(radius)


def rows_of(answer: Any) -> Hits:
    lims, distances, ids = answer
    assert (lims.dtype, distances.dtype, ids.dtype) == (np.uint64, np.float32, np.int64)
    assert (lims[0], int(lims[-1])) == (0, len(ids))
    ends = lims.astype(np.int64)
    return [(distances[a:b], ids[a:b]) for a, b in itertools.pairwise(ends)]


def assert_same(found: Hits, wanted: Hits) -> None:
    assert len(found) == len(wanted)
    for (distances, ids), (wanted_distances, wanted_ids) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ids, wanted_ids)
        np.testing.assert_array_equal(distances, wanted_distances)


def some_radius(rng: np.random.Generator, distances: np.ndarray) -> float:
    """A radius that an item lies on, one just above or below, or none that any does."""
    on = np.float32(rng.choice(distances.ravel()))
    steps = np.nextafter(on, np.float32(np.inf)), np.nextafter(on, np.float32(-np.inf))
    return float(rng.choice([on, *steps, 0.0, np.inf, -np.inf]))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 400),
    dim=st.sampled_from([1, 2, 3, 17, 64, 65, 100]),
    n_queries=st.sampled_from([1, 2, 9, 70]),
    metric=st.sampled_from(["l2", "ip", "cosine"]),
    bits=st.sampled_from([8, 4]),
    span=st.sampled_from([0.0, 1.0, 4.0]),
    share=st.sampled_from([None, 0.0, 0.05, 0.6, 1.0]),
)
def test_everything_inside_is_found_and_nothing_else(
    oracle: SimpleNamespace, seed: int, n: int, dim: int, n_queries: int, metric: str, bits: int, span: float,
    share: float | None,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    items = make_items(n, dim, bits, span, seed)
    queries = rng.standard_normal((n_queries, dim)).astype(np.float32) * np.float32(rng.choice([1e-3, 1, 1e3]))
    queries[rng.random(n_queries) < 0.1] = 0
    distances = np.array([distances_of(oracle, items, metric, query) for query in queries])
    radius = some_radius(rng, distances)
    allowed = np.ones(n, bool) if share is None else rng.random(n) < share
    kept = [np.flatnonzero(inside(row, metric, radius) & allowed) for row in distances]
    wanted = [(row[ids], ids) for row, ids in zip(distances, kept, strict=True)]
    filters = [None] if share is None else filters_of(allowed)
    for level in _core.simd_levels():
        flat = flat_of(items, metric, level)
        for id_filter in filters:
            for threads in (1, 2):
                found = flat.range_search(queries, radius, num_threads=threads, id_filter=id_filter)
                assert_same(rows_of(found), wanted)


def filters_of(allowed: np.ndarray) -> list[Any]:
    answers = allowed.tolist()
    return [
        allowed, np.packbits(allowed, bitorder="little"), np.flatnonzero(allowed)[::-1].copy(), lambda i: answers[i],
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_item_that_the_first_pass_underrates_most_is_found(
    oracle: SimpleNamespace, metric: str, bits: int, level: str
) -> None:
    """Its code is as large as can be wherever the query's low part is positive: the margin is used up."""
    rng, dim, most = np.random.default_rng(5), 100, 2**bits - 1
    scale, offset = np.full(dim, 0.02, np.float32), np.full(dim, -1, np.float32)
    for query in rng.standard_normal((50, dim)).astype(np.float32):
        low = _core.fold_query(query, scale, offset)[1]
        unpacked = np.where(low > 0, most, 0).astype(np.uint8)[None]
        codes = unpacked if bits == 8 else unpacked[:, ::2] | unpacked[:, 1::2] << 4
        norms = _core.squared_norms(codes, scale, offset, bits)
        items = SimpleNamespace(scale=scale, offset=offset, unpacked=unpacked, all_norms=norms, span=0)
        distance = distances_of(oracle, items, metric, query)[0]
        flat = _core.FlatSearcher(codes, norms, scale, offset, metric, bits=bits, level=level)
        away = np.float32(np.inf if metric == "l2" else -np.inf)
        for radius, count in ((distance, 0), (np.nextafter(distance, away), 1)):
            assert len(flat.range_search(query[None], float(radius))[2]) == count


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_distances_are_those_of_a_search(metric: str) -> None:
    items = make_items(300, 33, 8, 2.0, 3)
    queries = np.random.default_rng(1).standard_normal((5, 33)).astype(np.float32)
    flat = flat_of(items, metric)
    radius = np.inf if metric == "l2" else -np.inf
    distances, ids = flat.search(queries, 300)
    for row, (found, found_ids) in enumerate(rows_of(flat.range_search(queries, radius))):
        np.testing.assert_array_equal(found_ids, np.arange(300))
        np.testing.assert_array_equal(found[ids[row]], distances[row])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 300),
    dim=st.sampled_from([1, 3, 17, 64, 100]),
    n_lists=st.integers(1, 9),
    n_probe=st.integers(1, 9),
    n_queries=st.sampled_from([1, 9, 40]),
    metric=st.sampled_from(["l2", "ip"]),
    bits=st.sampled_from([8, 4]),
    residual=st.booleans(),
    max_empty=st.integers(0, 3),
    filtered=st.booleans(),
)
def test_lists_come_in_the_order_of_the_visits(
    seed: int, n: int, dim: int, n_lists: int, n_probe: int, n_queries: int, metric: str, bits: int, residual: bool,
    max_empty: int, filtered: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    items = make_items(n, dim, bits, 0, seed)
    owner, ids = rng.integers(0, n_lists, n), rng.permutation(10 * n)[:n] - 5 * n
    members = [np.flatnonzero(owner == number) for number in range(n_lists)]
    lists = [np.ascontiguousarray(items.codes[rows]) for rows in members], [ids[rows] for rows in members]
    centroids = rng.standard_normal((n_lists, dim)).astype(np.float32) if residual else None
    queries = rng.standard_normal((n_queries, dim)).astype(np.float32)
    visits = np.array([rng.permutation(n_lists)[: min(n_probe, n_lists)] for _ in queries], np.int64)
    visits[rng.random(visits.shape) < 0.1] = -1
    ivf = _core.IvfSearcher(*lists, centroids, items.scale, items.offset, metric, bits=bits)
    everywhere = np.tile(np.arange(n_lists), (n_queries, 1))
    all_distances, all_ids = ivf.search(queries, everywhere, n)
    by_id = [dict(zip(*row, strict=True)) for row in zip(all_ids.tolist(), all_distances, strict=True)]
    radius = some_radius(rng, all_distances)
    allowed = set(ids.tolist() if not filtered else ids[rng.random(n) < 0.5].tolist())
    wanted = []
    for distances, row in zip(by_id, visits, strict=True):
        found: list[int] = []
        n_empty = 0
        for number in row:
            here = lists[1][number].tolist() if number >= 0 else []
            near = [i for i in here if i in allowed and inside(distances[i], metric, radius)]
            found += near
            n_empty = 0 if near else n_empty + 1
            if max_empty and n_empty == max_empty:
                break
        wanted.append((np.array([distances[i] for i in found], np.float32), np.array(found, np.int64)))
    for id_filter in (np.array(sorted(allowed), np.int64), lambda i: i in allowed) if filtered else (None,):
        for threads in (1, 2):
            answer = ivf.range_search(
                queries, visits, radius, max_empty=max_empty, num_threads=threads, id_filter=id_filter
            )
            assert_same(rows_of(answer), wanted)


def test_a_graph_scores_all_of_its_codes() -> None:
    items = make_items(50, 8, 8, 0, 1)
    queries = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    graph = _core.LinkedGraphSearcher(
        items.codes, items.norms, np.arange(51, dtype=np.uint64), np.full(50, -1, np.int32), np.array([0, 1], np.int32),
        0, 0, items.scale, items.offset, "l2",
    )  # fmt: skip
    wanted = rows_of(flat_of(items, "l2").range_search(queries, 12.0))
    assert sum(len(ids) for _, ids in wanted) > 20
    assert_same(rows_of(graph.range_search(queries, 12.0)), wanted)


def test_searchers_are_shared_by_threads() -> None:
    items = make_items(3000, 24, 8, 0, 2)
    flat, queries = flat_of(items, "ip"), np.random.default_rng(1).standard_normal((40, 24)).astype(np.float32)
    wanted = rows_of(flat.range_search(queries, 1.0, num_threads=1))
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: flat.range_search(queries, 1.0, num_threads=2), range(12)):
            assert_same(rows_of(answer), wanted)


def test_a_filter_that_raises_ends_the_search() -> None:
    def refuse(_: int) -> bool:
        raise KeyError("no such id")

    flat = flat_of(make_items(500, 8, 8, 0, 2), "l2")
    with pytest.raises(KeyError, match="no such id"):
        flat.range_search(np.ones((20, 8), np.float32), np.inf, num_threads=2, id_filter=refuse)
    assert len(flat.range_search(np.ones((20, 8), np.float32), -1.0, id_filter=refuse)[2]) == 0


def test_a_callable_is_asked_for_items_inside_only() -> None:
    flat = flat_of(make_items(500, 8, 8, 0, 2), "l2")
    query, asked = np.ones((1, 8), np.float32), []
    wanted = flat.range_search(query, 6.0)[2].tolist()
    flat.range_search(query, 6.0, id_filter=lambda i: not asked.append(i))
    assert asked == wanted
    assert 0 < len(wanted) < 500


def test_no_queries_no_items_and_no_lists() -> None:
    ones, none = np.ones(4, np.float32), np.empty((0, 4), np.uint8)
    flat = _core.FlatSearcher(none, None, ones, ones, "ip")
    assert [len(ids) for _, ids in rows_of(flat.range_search(np.ones((2, 4), np.float32), -np.inf))] == [0, 0]
    assert rows_of(flat.range_search(np.ones((0, 4), np.float32), 0.0)) == []
    ivf = _core.IvfSearcher([none], [np.empty(0, np.int64)], None, ones, ones, "ip")
    visits = np.zeros((2, 1), np.int64)
    assert [len(ids) for _, ids in rows_of(ivf.range_search(np.ones((2, 4), np.float32), visits, -np.inf))] == [0, 0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"radius": np.nan}, "`radius` must be a number, got nan"),
        ({"queries": np.ones((2, 3), np.float32)}, "`queries` must have 4 columns as the codes do, got 3"),
        ({"queries": np.full((2, 4), np.nan, np.float32)}, "`queries` must be finite"),
        ({"assignment": np.array([[0], [1]])}, "`assignment` must name lists below 1, or -1 for none, got 1"),
        ({"assignment": np.array([[0], [-2]])}, "got -2"),
        ({"assignment": np.array([[0]])}, "`assignment` must have a row for each of the 2 queries, got 1"),
        ({"assignment": np.zeros((2, 2), np.int64)}, "`assignment` must have at most 1 columns"),
        ({"max_empty": -1}, "`max_empty` must be 0 to .*, got -1"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], match: str) -> None:
    ones = np.ones(4, np.float32)
    ivf = _core.IvfSearcher([np.ones((3, 4), np.uint8)], [np.arange(3)], None, ones, ones, "ip")
    given_ = {"queries": np.ones((2, 4), np.float32), "assignment": np.zeros((2, 1), np.int64), "radius": 1.0}
    with pytest.raises(ValueError, match=match):
        ivf.range_search(**{**given_, **change})
