"""Graphs that go through arrays: whole and marked, growing on from there, over every kind of code."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

K = 10


def quantization(vectors: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = vectors.min(0), vectors.max(0)
    return ((high - low) / (2**bits - 1)).astype(np.float32), low.astype(np.float32)


def empty_graph(vectors: np.ndarray, metric: str, capacity: int, *, bits: int = 8, **options: Any) -> Any:
    scale, offset = quantization(vectors, bits)
    return _core.HnswGraph(vectors.shape[1], capacity, scale, offset, metric, bits=bits, **options)


def check_structure(graph: Any, max_m: int) -> None:
    for node in range(graph.count):
        for level in range(graph.level_of(node) + 1):
            ids = graph.links(node, level).tolist()
            assert len(ids) <= (2 * max_m if level == 0 else max_m)
            assert len(set(ids)) == len(ids)
            assert node not in ids
            assert all(0 <= other < graph.count and graph.level_of(other) >= level for other in ids)


def assert_same(one: Any, other: Any, queries: np.ndarray) -> None:
    for part, expected in zip(one.search(queries, K, 40), other.search(queries, K, 40), strict=True):
        np.testing.assert_array_equal(part, expected)
    first, second = one.arrays(), other.arrays()
    for name, expected in first.items():
        np.testing.assert_array_equal(second[name], expected, name)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 120),
    dim=st.integers(1, 70),
    max_m=st.integers(2, 9),
    metric=st.sampled_from(["l2", "ip"]),
    bits=st.sampled_from([8, 4]),
    span=st.sampled_from([0.0, 2.0]),
)
def test_a_filled_graph_is_the_graph_and_grows_alike(
    seed: int, n: int, dim: int, max_m: int, metric: str, bits: int, span: float
) -> None:
    """Links, levels and answers come back, and what is added next goes the same way in both."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n + 20, dim)).astype(np.float32)
    how = {"bits": bits, "span": span, "max_m": max_m, "ef_construction": 30, "seed": seed}
    graph = empty_graph(vectors, metric, n + 20, **how)
    graph.add(vectors[:n], num_threads=1)
    graph.mark_deleted(np.flatnonzero(rng.random(n) < 0.2))
    copy = empty_graph(vectors, metric, n, **how)
    copy.fill(**graph.arrays())
    assert_same(copy, graph, vectors[:5])
    assert (copy.count, copy.n_deleted) == (graph.count, graph.n_deleted)
    copy.resize(n + 20)
    for one in (graph, copy):
        one.add(vectors[n:], replace_deleted=True, num_threads=1)
    assert_same(copy, graph, vectors[:5])
    check_structure(copy, max_m)
    codes = _core.encode(vectors[-1:], *quantization(vectors, bits), bits)
    if n + 20 == graph.count:
        np.testing.assert_array_equal(copy.codes(np.array([graph.count - 1])), codes)
    if span:
        last = np.array([graph.count - 1])
        np.testing.assert_array_equal(copy.residuals(last), graph.residuals(last))


def levels_as_drawn_by(seed: int, vectors: np.ndarray) -> dict[str, Any]:
    graph = empty_graph(vectors, "l2", len(vectors), max_m=4, seed=seed)
    graph.add(vectors, num_threads=1)
    arrays: dict[str, Any] = graph.arrays()
    return arrays


def test_levels_come_with_the_nodes(oracle: SimpleNamespace) -> None:
    """Those that the arrays brought keep theirs when the capacity changes; the seed draws for the others only."""
    vectors = oracle.clustered(400, 8, 1)
    arrays = levels_as_drawn_by(1, vectors)
    graph = empty_graph(vectors, "l2", 400, max_m=4, seed=2)
    graph.fill(**arrays)
    graph.resize(1000)
    graph.add(vectors + 1, num_threads=2)
    graph.resize(800)
    check_structure(graph, 4)
    np.testing.assert_array_equal(graph.arrays()["element_levels"][:400], arrays["element_levels"])
    fresh = empty_graph(vectors, "l2", 800, max_m=4, seed=2)
    fresh.add(np.concatenate([vectors, vectors]), num_threads=1)
    drawn = fresh.arrays()["element_levels"]
    np.testing.assert_array_equal(graph.arrays()["element_levels"][400:], drawn[400:])


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("bits", "span"), [(4, 0.0), (4, 2.0), (8, 2.0)])
def test_recall_of_every_kind_of_code(oracle: SimpleNamespace, metric: str, bits: int, span: float) -> None:
    """Grown over coarse codes or with a second level, the graph finds what a flat search over the same finds."""
    vectors, queries = oracle.clustered(3000, 64, 1), oracle.clustered(100, 64, 2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scale, offset = quantization(vectors, bits)
    graph = empty_graph(vectors, metric, 3000, bits=bits, span=span, ef_construction=100)
    graph.add(vectors, num_threads=2)
    check_structure(graph, 16)
    codes = _core.encode(vectors, scale, offset, bits)
    norms = _core.squared_norms(codes, scale, offset, bits) if metric == "l2" else None
    flat = _core.FlatSearcher(codes, norms, scale, offset, metric, bits=bits)
    if span:
        residuals = _core.encode_residuals(vectors, codes, scale, offset, span, bits)
        both = _core.residual_norms(residuals, codes, scale, offset, span, bits) if metric == "l2" else None
        flat.add_residuals(residuals, both, span)
        exact = np.argsort(-queries @ vectors.T, axis=1)[:, :K]
        assert oracle.recall(graph.search(queries, K, 400)[1], exact) > 0.95
    assert oracle.recall(graph.search(queries, K, 300)[1], flat.search(queries, K)[1]) > 0.95


def test_every_level_of_instructions_grows_one_graph(oracle: SimpleNamespace, level: str) -> None:
    vectors = oracle.clustered(400, 37, 1)
    graphs = []
    for name in ("serial", level):
        graphs.append(empty_graph(vectors, "l2", 400, bits=4, span=2.0, level=name))
        graphs[-1].add(vectors, num_threads=1)
    assert_same(*graphs, vectors[:20])


def test_arrays_of_one_moment(oracle: SimpleNamespace) -> None:
    """A copy that is taken while others insert is a whole graph: no link leads out of it."""
    vectors = oracle.clustered(3000, 8, 1)
    graph, copies = empty_graph(vectors, "l2", 3000, max_m=6), []

    def insert() -> None:
        for begin in range(0, 3000, 30):
            graph.add(vectors[begin : begin + 30], num_threads=1)

    thread = threading.Thread(target=insert)
    thread.start()
    while thread.is_alive():
        copies.append(graph.arrays())
    thread.join()
    copies.append(graph.arrays())
    for arrays in copies[:: max(1, len(copies) // 10)]:
        copy = empty_graph(vectors, "l2", 3000, max_m=6)
        copy.fill(**arrays)  # which checks every link
        assert copy.count == len(arrays["codes"]) == len(arrays["level0"])
    assert len(copies[-1]["codes"]) == 3000


def test_refused_and_still_empty(oracle: SimpleNamespace) -> None:
    vectors = oracle.clustered(50, 8, 1)
    full = empty_graph(vectors, "l2", 50, span=1.0)
    full.add(vectors)
    arrays = full.arrays()
    graph = empty_graph(vectors, "l2", 50, span=1.0)
    for change, match in (
        ({"codes": arrays["codes"][:-1]}, "`level0` must have length 49"),
        ({"codes": arrays["codes"][:, :-1].copy()}, "`codes` must have 8 columns"),
        ({"residuals": None}, "`residuals` must be given if the graph has a span"),
        ({"residuals": arrays["residuals"][:, :-1].copy()}, "`residuals` must have 8 columns"),
        ({"link_lists": np.append(arrays["link_lists"], np.uint32(0))}, "`link_lists` must have length"),
        ({"entry_point": 50}, "`entry_point` must be 0 to 49, got 50"),
    ):
        with pytest.raises(ValueError, match=match):
            graph.fill(**{**arrays, **change})
        assert (graph.count, graph.entry_point) == (0, -1)
    with pytest.raises(ValueError, match="`codes` must have at most 49 rows, the capacity, got 50: resize first"):
        empty_graph(vectors, "l2", 49, span=1.0).fill(**arrays)
    with pytest.raises(ValueError, match="the graph must be empty to be filled, got one of 50 nodes"):
        full.fill(**arrays)
    with pytest.raises(ValueError, match="`bits` must be 8 or 4, got 5"):
        empty_graph(vectors, "l2", 1, bits=5)
    with pytest.raises(ValueError, match="`span` must be a finite number above 0"):
        empty_graph(vectors, "l2", 1, span=-1.0)
    graph.fill(**arrays)
    assert graph.count == 50
