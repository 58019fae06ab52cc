"""Nodes that get other vectors: the graph stays whole, and they are found where they are now."""

from __future__ import annotations

import concurrent.futures
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

K, N, DIM = 10, 1500, 16
SCALE, OFFSET = np.full(DIM, 12 / 255, np.float32), np.full(DIM, -6, np.float32)


def built(vectors: np.ndarray, capacity: int | None = None, **options: Any) -> Any:
    graph = _core.HnswGraph(DIM, capacity or len(vectors), SCALE, OFFSET, "l2", **options)
    graph.add(vectors, num_threads=1)
    return graph


def check_structure(graph: Any, max_m: int) -> None:
    for node in range(graph.count):
        for level in range(graph.level_of(node) + 1):
            ids = graph.links(node, level).tolist()
            assert len(ids) <= (2 * max_m if level == 0 else max_m)
            assert len(set(ids)) == len(ids)
            assert node not in ids
            assert all(0 <= other < graph.count and graph.level_of(other) >= level for other in ids)


def recall_of(graph: Any, vectors: np.ndarray, queries: np.ndarray, oracle: SimpleNamespace, ef: int) -> float:
    squares = ((queries[:, None] - vectors) ** 2).sum(2)
    return float(oracle.recall(graph.search(queries, K, ef)[1], np.argsort(squares, axis=1)[:, :K]))


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_recall_after_replacement(oracle: SimpleNamespace, share: float, num_threads: int) -> None:
    before, after, queries = (oracle.clustered(count, DIM, seed) for count, seed in ((N, 1), (N, 2), (100, 3)))
    graph, moved = built(before), np.flatnonzero(np.random.default_rng(0).random(N) < share)
    graph.replace(moved, after[moved], num_threads=num_threads)
    vectors = before.copy()
    vectors[moved] = after[moved]
    np.testing.assert_array_equal(graph.codes(np.arange(N)), _core.encode(vectors, SCALE, OFFSET))
    assert graph.n_deleted == 0
    check_structure(graph, 16)
    fresh = built(vectors)
    for ef in (20, 100):
        assert recall_of(graph, vectors, queries, oracle, ef) >= recall_of(fresh, vectors, queries, oracle, ef) - 0.02
    assert (graph.search(vectors, 1, 50)[1][:, 0] == np.arange(N)).mean() > 0.99


def test_deleted_nodes_give_their_places(oracle: SimpleNamespace) -> None:
    vectors, other = oracle.clustered(60, DIM, 1), oracle.clustered(40, DIM, 2)
    graph = built(vectors, capacity=70)
    graph.mark_deleted(np.array([9, 3, 30]))
    np.testing.assert_array_equal(graph.add(other[:2], replace_deleted=True), [3, 9])
    assert np.flatnonzero(graph.deleted()).tolist() == [30]
    np.testing.assert_array_equal(graph.add(other[2:5]), [60, 61, 62])  # not asked to
    np.testing.assert_array_equal(graph.add(other[5:8], replace_deleted=True), [30, 63, 64])
    np.testing.assert_array_equal(graph.search(other[[0, 1, 5]], 1, 60)[1][:, 0], [3, 9, 30])
    graph.mark_deleted(np.array([7]))
    with pytest.raises(ValueError, match="at most 6 rows, the room that is left of capacity 70, got 7"):
        graph.add(other[:7], replace_deleted=True)
    assert graph.deleted()[7]
    assert graph.count == 65


def test_refused_and_nothing_changed(oracle: SimpleNamespace) -> None:
    vectors = oracle.clustered(50, DIM, 1)
    graph = built(vectors)
    graph.mark_deleted(np.array([4]))
    codes = graph.codes(np.arange(50))
    for ids, match in (
        ([4, 50], "`ids` must be below 50, the number of nodes, got 50 at position 1"),
        ([4, 6, 4], "`ids` must not be under replacement, got 4 at position 2: pass each once"),
        ([6, 6], "`ids` must not be under replacement, got 6 at position 1"),
    ):
        with pytest.raises(ValueError, match=match):
            graph.replace(np.array(ids), vectors[: len(ids)])
    with pytest.raises(ValueError, match="`vectors` must have length 2, the number of ids, got 3"):
        graph.replace(np.array([1, 2]), vectors[:3])
    np.testing.assert_array_equal(graph.codes(np.arange(50)), codes)
    assert np.flatnonzero(graph.deleted()).tolist() == [4]
    assert graph.n_deleted == 1


def test_replacing_neighbours_at_once(oracle: SimpleNamespace) -> None:
    # Few nodes, so that threads meet at one often: a list may be read while it, and codes in it, change.
    vectors, rng = oracle.clustered(60, DIM, 1), np.random.default_rng(0)
    graph, parts = built(vectors), np.split(np.arange(60), 4)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for _ in range(300):
            moved = [vectors[rows] for rows in np.split(rng.permutation(60), 4)]
            list(threads.map(graph.replace, parts, moved))
            check_structure(graph, 16)


def test_replacing_while_searching_and_adding(oracle: SimpleNamespace) -> None:
    vectors = oracle.clustered(N, DIM, 1)
    graph, done, failures = built(vectors[:1000], capacity=N), threading.Event(), []

    def search() -> None:
        while not done.is_set():
            distances, ids = graph.search(vectors[:20], K, 40, num_threads=1)
            if not ((ids >= 0) & (ids < N)).all() or (np.diff(distances, axis=1) < 0).any():
                failures.append(ids)

    def replace(part: int) -> None:
        rng = np.random.default_rng(part)
        for _ in range(6):
            ids = np.arange(part * 200, part * 200 + 200)
            graph.replace(ids, vectors[rng.permutation(N)[:200]], num_threads=2)

    def add() -> None:
        for begin in range(1000, N, 50):
            graph.add(vectors[begin : begin + 50], num_threads=1)

    searchers = [threading.Thread(target=search) for _ in range(2)]
    writers = [threading.Thread(target=replace, args=(part,)) for part in range(3)] + [threading.Thread(target=add)]
    for thread in searchers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in searchers:
        thread.join()
    assert not failures
    assert (graph.count, graph.n_deleted) == (N, 0)
    check_structure(graph, 16)
    now = _core.decode(graph.codes(np.arange(N)), SCALE, OFFSET)
    assert (graph.search(now, 1, 60)[0][:, 0] < 0.1).mean() > 0.99  # each finds itself, or its like


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 60),
    max_m=st.integers(2, 6),
    rounds=st.integers(1, 4),
    num_threads=st.sampled_from([1, 3]),
)
def test_structure_after_any_changes(seed: int, n: int, max_m: int, rounds: int, num_threads: int) -> None:
    rng = np.random.default_rng(seed)
    graph = built(rng.standard_normal((n, DIM)).astype(np.float32), capacity=n + 20, max_m=max_m, ef_construction=20)
    for _ in range(rounds):
        some = np.flatnonzero(rng.random(graph.count) < 0.4)
        moved = rng.standard_normal((len(some), DIM)).astype(np.float32)
        graph.replace(some, moved, num_threads=num_threads)
        np.testing.assert_array_equal(graph.codes(some), _core.encode(moved, SCALE, OFFSET))
        live = np.flatnonzero(~graph.deleted())
        graph.mark_deleted(live[rng.random(len(live)) < 0.3])
        graph.add(rng.standard_normal((5, DIM)).astype(np.float32), replace_deleted=True, num_threads=num_threads)
        check_structure(graph, max_m)
        found = graph.search(moved if len(moved) else np.zeros((1, DIM), np.float32), 3, 80)[1]
        deleted = np.append(graph.deleted(), False)
        assert not deleted[found].any()
