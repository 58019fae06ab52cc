"""Vectors kept beside their codes: candidates come from the codes, distances and their order from the vectors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knn_adapters import _core

METRICS = ("l2", "ip", "cosine")


def make_items(n: int, dim: int, metric: str, bits: int, seed: int = 0) -> SimpleNamespace:
    """Random vectors, of length 1 for cosine, and their codes; the codes cut a part of the range off."""
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    if metric == "cosine":
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    low, high = 0.8 * vectors.min(0), 0.8 * vectors.max(0)
    scale = np.maximum((high - low) / (2**bits - 1), 0).astype(np.float32)
    codes = _core.encode(vectors, scale, low, bits=bits)
    norms = _core.squared_norms(codes, scale, low, bits=bits) if metric == "l2" else None
    return SimpleNamespace(vectors=vectors, codes=codes, norms=norms, scale=scale, offset=low, bits=bits, metric=metric)


def flat(items: SimpleNamespace, level: str = "auto", *, keeps: bool = True) -> Any:
    made = _core.FlatSearcher(
        items.codes, items.norms, items.scale, items.offset, items.metric, bits=items.bits, level=level
    )  # fmt: skip
    if keeps:
        made.add_originals(items.vectors)
    return made


def distances_to(items: SimpleNamespace, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
    x, q = items.vectors[ids].astype(np.float64), query.astype(np.float64)
    if items.metric == "l2":
        return ((x - q) ** 2).sum(1)
    length = np.linalg.norm(q) if items.metric == "cosine" else 1.0
    return x @ q / length if length else np.zeros(len(ids))


def best(items: SimpleNamespace, query: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = distances_to(items, query, ids)
    order = np.lexsort((ids, distances if items.metric == "l2" else -distances))[:k]
    return distances[order], ids[order]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [8, 4])
def test_flat_search_equals_the_oracle(dim: int, metric: str, bits: int) -> None:
    """Its candidates are as many of the nearest by code as are worth rescoring: those that a search without has."""
    items = make_items(300, dim, metric, bits, seed=dim)
    queries = np.random.default_rng(dim + 1).standard_normal((12, dim)).astype(np.float32)
    n_candidates = 80 if bits == 4 else 26
    first = None
    for level in _core.simd_levels():
        searcher = flat(items, level)
        single = [searcher.search(query[None], 10) for query in queries]
        for answer in (searcher.search(queries, 10), tuple(np.concatenate(p) for p in zip(*single, strict=True))):
            first = first or answer
            np.testing.assert_array_equal(answer[1], first[1])
            np.testing.assert_array_equal(answer[0], first[0])
    _, by_codes = flat(items, keeps=False).search(queries, n_candidates)
    for query, candidates, distances, ids in zip(queries, by_codes, *first, strict=True):
        np.testing.assert_allclose(distances, distances_to(items, query, ids), rtol=1e-6, atol=1e-6)
        wanted, wanted_ids = best(items, query, candidates, 10)
        # The last candidates differ where 8-bit and 16-bit query disagree about them.
        worse = distances - wanted if metric == "l2" else wanted - distances
        assert (worse <= 0.05 * np.abs(wanted) + 1e-5).all()
        if dim >= 32 and bits == 8:
            np.testing.assert_array_equal(ids, wanted_ids)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [8, 4])
def test_all_candidates_give_the_exact_answer(dim: int, metric: str, bits: int) -> None:
    items = make_items(40, dim, metric, bits, seed=dim)
    queries = np.random.default_rng(3).standard_normal((9, dim)).astype(np.float32)
    queries[0] = items.vectors[7]
    queries[1] = 0
    distances, ids = flat(items).search(queries, 40)
    for query, row, found in zip(queries, distances, ids, strict=True):
        wanted, wanted_ids = best(items, query, np.arange(40), 40)
        np.testing.assert_allclose(row, wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.sort(found), np.arange(40))
        if dim >= 32 and query.any():
            np.testing.assert_array_equal(found, wanted_ids)
    if metric == "l2":
        assert (distances[0, 0], ids[0, 0]) == (0.0, 7)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_graphs_and_forests_rescore_alike(metric: str) -> None:
    """A graph that links everything and a forest of one leaf see all items, so they find what a flat search finds."""
    n, dim = 50, 37
    items = make_items(n, dim, metric, 8)
    queries = np.random.default_rng(3).standard_normal((9, dim)).astype(np.float32)
    how = {"scale": items.scale, "offset": items.offset, "metric": metric}
    others = np.array([[j for j in range(n) if j != i] for i in range(n)])
    linked = _core.LinkedGraphSearcher(
        items.codes, items.norms, np.arange(n + 1, dtype=np.uint64) * (n - 1), others.astype(np.int32).ravel(),
        np.array([0, n - 1], np.int32), 0, 0, **how,
    )  # fmt: skip
    forest = _core.ForestSearcher(
        items.codes, items.norms, items.scale, items.offset, np.empty((0, dim), np.uint8), np.empty(0, np.float32),
        np.empty(0, np.float32), np.empty((0, 2), np.int32), np.array([0, n], np.uint32),
        np.arange(n, dtype=np.int32), np.array([-1], np.int32), metric,
    )  # fmt: skip
    wanted = flat(items).search(queries, 10)
    for other in (linked, forest):
        other.add_originals(items.vectors)
        for got, expected in zip(other.search(queries, 10, n), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("n", [1, 63, 700])
def test_everything_inside_a_radius_is_found_by_the_vectors(metric: str, bits: int, n: int) -> None:
    items = make_items(n, 300, metric, bits, seed=n)
    queries = np.random.default_rng(3).standard_normal((5, 300)).astype(np.float32)
    queries[0] = items.vectors[0]
    allowed = np.random.default_rng(4).random(n) < 0.5
    for query in queries:
        distances = distances_to(items, query, np.arange(n))
        radius = np.float32(np.median(distances))
        inside = distances < radius if metric == "l2" else distances > radius
        sure = np.abs(distances - radius) > 1e-5 * np.abs(radius)  # rounding decides about what lies on the edge
        for level in _core.simd_levels():
            for chosen in (None, allowed, lambda number: bool(allowed[number])):
                lims, found, ids = flat(items, level).range_search(query[None], radius, id_filter=chosen)
                wanted = inside & (allowed if chosen is not None else True)
                got = np.zeros(n, bool)
                got[ids] = True
                np.testing.assert_array_equal(got[sure], wanted[sure])
                np.testing.assert_allclose(found, distances[ids], rtol=1e-5, atol=1e-5)
                assert (np.diff(ids) > 0).all()
                assert lims.tolist() == [0, len(ids)]


def grown(items: SimpleNamespace, capacity: int) -> Any:
    return _core.HnswGraph(
        items.vectors.shape[1], capacity, items.scale, items.offset, items.metric, bits=items.bits, keep_originals=True
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_graph_that_grows_keeps_them(metric: str, bits: int) -> None:
    items = make_items(500, 19, metric, bits)
    later = make_items(500, 19, metric, bits, seed=1)
    graph, held = grown(items, 300), items.vectors.copy()
    graph.add(items.vectors[:300])
    graph.resize(500)
    graph.add(items.vectors[300:], num_threads=2)
    replaced = np.arange(0, 500, 7)
    graph.replace(replaced, later.vectors[replaced])
    held[replaced] = later.vectors[replaced]
    everything = np.arange(500)
    np.testing.assert_array_equal(graph.originals(everything), held)
    queries = np.random.default_rng(3).standard_normal((20, 19)).astype(np.float32)
    items.vectors = held
    distances, ids = graph.search(queries, 5, 500)
    for query, row, found in zip(queries, distances, ids, strict=True):
        np.testing.assert_allclose(row, best(items, query, everything, 5)[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(row, distances_to(items, query, found), rtol=1e-6, atol=1e-6)
    copy = grown(items, 600)
    copy.fill(**graph.arrays())
    for got, expected in zip(copy.search(queries, 5, 64), graph.search(queries, 5, 64), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(copy.originals(everything), held)


def test_links_do_not_depend_on_them() -> None:
    items = make_items(400, 24, "l2", 4)
    how = {"scale": items.scale, "offset": items.offset, "metric": "l2", "bits": 4}
    graphs = [_core.HnswGraph(24, 400, **how, keep_originals=keeps) for keeps in (True, False)]
    for graph in graphs:
        graph.add(items.vectors, num_threads=1)
    one, other = (graph.arrays() for graph in graphs)
    np.testing.assert_array_equal(one["level0"], other["level0"])
    assert other["originals"] is None
    assert graphs[1].originals(np.arange(3)) is None
    assert graphs[0].nbytes_codes == graphs[1].nbytes_codes


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        (np.ones((4, 3), np.float32), "`vectors` must have length 5"),
        (np.ones((5, 2), np.float32), "`vectors` must have 3 columns"),
        (np.full((5, 3), np.nan, np.float32), "`vectors` must be finite"),
        (np.ones((5, 3)), "`vectors` must be"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vectors: np.ndarray, match: str) -> None:
    items = make_items(5, 3, "l2", 8)
    if np.isfinite(vectors).all():  # what a searcher reads in place is not looked at
        with pytest.raises((ValueError, TypeError), match=match):
            flat(items, keeps=False).add_originals(vectors)
    graph = grown(items, 5)
    graph.add(items.vectors)
    empty = grown(items, 5)
    with pytest.raises((ValueError, TypeError), match=match.replace("vectors", "originals")):
        empty.fill(**{**graph.arrays(), "originals": vectors})
    with pytest.raises(ValueError, match="`originals` must be given if the graph keeps them"):
        empty.fill(**{**graph.arrays(), "originals": None})
    with pytest.raises(ValueError, match="`span` must be 0 with keep_originals"):
        _core.HnswGraph(3, 5, items.scale, items.offset, "l2", span=1.0, keep_originals=True)
