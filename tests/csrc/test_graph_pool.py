"""What a walk expands, and what it keeps to be rescored, against the same walk in Python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knn_adapters import _core

N, DIM, LINKS = 4000, 16, 6


@pytest.fixture(scope="module", params=["l2", "ip"])
def graph(request: pytest.FixtureRequest, oracle: SimpleNamespace) -> SimpleNamespace:
    """Random links on one level: a walk that went elsewhere would find other nodes."""
    items = oracle.make_items(N, DIM)
    links = np.random.default_rng(5).integers(0, N, (N, LINKS)).astype(np.int32)
    searcher = _core.LinkedGraphSearcher(
        items.codes, items.norms if request.param == "l2" else None, np.arange(N + 1, dtype=np.uint64) * LINKS,
        links.ravel(), np.array([0, LINKS], np.int32), 17, 0, items.scale, items.offset, request.param,
    )  # fmt: skip
    return SimpleNamespace(items=items, links=links, searcher=searcher, metric=request.param)


def walked(graph: Any, oracle: Any, query: np.ndarray, ef: int, keep: int, passes: np.ndarray | None) -> np.ndarray:
    """The ids of the `keep` nearest by the 8-bit query that pass, of those that a walk of breadth `ef` meets.

    It expands the nearest node that it has met as long as fewer than `ef` of those that pass are nearer.
    """
    keys = oracle.order_key(graph.items, graph.metric, query, np.arange(N))
    met, expanded = {17}, set()
    while True:
        order = sorted(met, key=lambda node: (keys[node], node))
        results = [node for node in order if passes is None or passes[node]]
        limit = (keys[results[ef - 1]], results[ef - 1]) if len(results) >= ef else (np.inf, N)
        waiting = [node for node in order if node not in expanded and (keys[node], node) <= limit]
        if not waiting:
            return np.array(results[:keep])
        expanded.add(waiting[0])
        met.update(graph.links[waiting[0]].tolist())


@pytest.mark.parametrize(("k", "ef"), [(1, 1), (1, 30), (10, 10), (10, 14), (30, 30)])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_walk_keeps_more_than_it_expands_where_ef_is_near_k(
    graph: SimpleNamespace, oracle: SimpleNamespace, k: int, ef: int, filtered: bool
) -> None:
    queries = np.random.default_rng(9).standard_normal((6, DIM)).astype(np.float32)
    passes = np.random.default_rng(2).random(N) < 0.9 if filtered else None
    distances, ids = graph.searcher.search(queries, k, ef, id_filter=passes)
    keep = max(ef, min(max(2 * k, k + 16), 2 * ef))
    for row, query in enumerate(queries):
        candidates = walked(graph, oracle, query, ef, keep, passes)
        wanted, wanted_ids = oracle.search_among(graph.items, graph.metric, query, k, candidates)
        np.testing.assert_array_equal(ids[row], wanted_ids)
        np.testing.assert_array_equal(distances[row], wanted)
