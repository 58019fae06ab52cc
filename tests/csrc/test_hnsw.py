"""The graph that grows: structure, recall beside hnswlib, threads, capacity."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

K = 10


def steps(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = vectors.min(0), vectors.max(0)
    return ((high - low) / 255).astype(np.float32), low.astype(np.float32)


def empty_graph(vectors: np.ndarray, metric: str = "l2", capacity: int | None = None, **options: Any) -> Any:
    scale, offset = steps(vectors)
    return _core.HnswGraph(
        vectors.shape[1], len(vectors) if capacity is None else capacity, scale, offset, metric, **options
    )


def built(vectors: np.ndarray, metric: str = "l2", *, num_threads: int = 1, **options: Any) -> Any:
    graph = empty_graph(vectors, metric, **options)
    graph.add(vectors, num_threads=num_threads)
    return graph


def lists(graph: Any) -> list[list[list[int]]]:
    """Links of every node on every level."""
    return [
        [graph.links(node, level).tolist() for level in range(graph.level_of(node) + 1)] for node in range(graph.count)
    ]


def check_structure(graph: Any, max_m: int) -> None:
    links = lists(graph)
    for node, levels in enumerate(links):
        for level, ids in enumerate(levels):
            assert len(ids) <= (2 * max_m if level == 0 else max_m)
            assert len(set(ids)) == len(ids), "a link twice"
            assert node not in ids, "a link to itself"
            assert all(0 <= other < graph.count and len(links[other]) > level for other in ids)
    if graph.count:
        assert graph.max_level == max(map(len, links)) - 1 == graph.level_of(graph.entry_point)


def n_reachable(graph: Any) -> int:
    """Nodes that level 0 leads to from the entry point."""
    seen, waiting = {graph.entry_point}, [graph.entry_point]
    while waiting:
        fresh = set(graph.links(waiting.pop(), 0).tolist()) - seen
        seen |= fresh
        waiting.extend(fresh)
    return len(seen)


@pytest.fixture(scope="module", params=["l2", "ip"])
def data(request: pytest.FixtureRequest, oracle: SimpleNamespace) -> SimpleNamespace:
    vectors, queries = oracle.clustered(3000, 100, 1), oracle.clustered(200, 100, 2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scale, offset = steps(vectors)
    codes = _core.encode(vectors, scale, offset)
    norms = _core.squared_norms(codes, scale, offset)
    flat = _core.FlatSearcher(codes, norms, scale, offset, request.param)
    return SimpleNamespace(
        metric=request.param,
        vectors=vectors,
        queries=queries,
        true=flat.search(queries, K)[1],
        exact=np.argsort(-queries @ vectors.T, axis=1)[:, :K],
    )


def hnswlib_answers(data: SimpleNamespace, ef: int) -> np.ndarray:
    index = hnswlib.Index(data.metric, data.vectors.shape[1])
    index.init_index(len(data.vectors), M=16, ef_construction=100)
    index.add_items(data.vectors, num_threads=1)
    index.set_ef(ef)
    return index.knn_query(data.queries, K, num_threads=1)[0]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_recall_beside_hnswlib(data: SimpleNamespace, oracle: SimpleNamespace, num_threads: int) -> None:
    graph = built(data.vectors, data.metric, ef_construction=100, num_threads=num_threads)
    check_structure(graph, 16)
    assert n_reachable(graph) == len(data.vectors)
    for ef in (20, 100):
        ours = oracle.recall(graph.search(data.queries, K, ef)[1], data.true)
        assert ours >= oracle.recall(hnswlib_answers(data, ef), data.exact) - 0.01


def test_one_thread_and_one_seed_give_one_graph(data: SimpleNamespace, level: str) -> None:
    """Keys and pair distances are made from exact integers, so neither runs nor levels differ."""
    vectors = data.vectors[:800]
    wanted = built(vectors, data.metric, level="serial")
    graph = built(vectors, data.metric, level=level)
    assert lists(graph) == lists(wanted)
    for answer, expected in zip(graph.search(data.queries, K, 50), wanted.search(data.queries, K, 50), strict=True):
        np.testing.assert_array_equal(answer, expected)


def test_batches_and_resizes_change_nothing(data: SimpleNamespace) -> None:
    vectors = data.vectors[:500]
    graph = empty_graph(vectors, data.metric, capacity=0)
    for begin in range(0, 500, 50):
        graph.resize(begin + 50)
        ids = graph.add(vectors[begin : begin + 50], num_threads=1)
        np.testing.assert_array_equal(ids, np.arange(begin, begin + 50))
    assert (graph.count, graph.capacity) == (500, 500)
    assert lists(graph) == lists(built(vectors, data.metric))


def test_levels_follow_the_seed_and_the_distribution() -> None:
    vectors = np.random.default_rng(0).standard_normal((4000, 4)).astype(np.float32)
    one, other = (built(vectors, max_m=4, ef_construction=8, seed=seed) for seed in (1, 2))
    levels = [[graph.level_of(node) for node in range(4000)] for graph in (one, other)]
    assert levels[0] != levels[1]
    for drawn in levels:
        share = np.mean(np.array(drawn) > 0)
        assert abs(share - 1 / 4) < 5 * np.sqrt(0.25 * 0.75 / 4000)  # P(level >= 1) = 1 / M


def test_codes_are_those_of_encode(data: SimpleNamespace) -> None:
    graph = built(data.vectors, data.metric)
    ids = np.array([5, 0, 2999], np.int64)
    np.testing.assert_array_equal(graph.codes(ids), _core.encode(data.vectors[ids], *steps(data.vectors)))
    assert graph.nbytes_codes == 3000 * (256 - 4 * 32)  # 100 + norm + self, with 32 links in four lines of 64
    assert graph.nbytes_graph > 3000 * 4 * 33


@pytest.mark.parametrize("num_threads", [1, 3])
def test_searching_while_inserting(oracle: SimpleNamespace, num_threads: int) -> None:
    """Searches of all moments give nodes that exist, each once, in order; capacity changes under them."""
    vectors = oracle.clustered(4000, 16, 3)
    graph = empty_graph(vectors, capacity=500)
    graph.add(vectors[:500])
    done, failures = threading.Event(), []

    def search() -> None:
        while not done.is_set():
            distances, ids = graph.search(vectors[:20], K, 30, num_threads=1)
            count = graph.count
            good = ((ids >= 0) & (ids < count)).all() and (np.diff(distances, axis=1) >= 0).all()
            if not good or any(len(set(row)) < K for row in ids.tolist()):
                failures.append(ids)

    def insert(begin: int, end: int) -> None:
        for at in range(begin, end, 50):
            graph.add(vectors[at : at + 50], num_threads=num_threads)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for begin in range(500, 4000, 700):
        graph.resize(begin + 700)
        writers = [threading.Thread(target=insert, args=(at, at + 350)) for at in (begin, begin + 350)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert graph.count == 4000
    check_structure(graph, 16)
    assert n_reachable(graph) >= 3990
    codes = graph.codes(np.arange(4000))  # writers took turns, so ids and rows differ in order
    assert {row.tobytes() for row in codes} == {row.tobytes() for row in _core.encode(vectors, *steps(vectors))}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 150),
    dim=st.integers(1, 70),
    max_m=st.integers(2, 9),
    ef=st.integers(1, 40),
    metric=st.sampled_from(["l2", "ip"]),
    kind=st.sampled_from(["normal", "duplicates", "constant dimension", "outlier"]),
    num_threads=st.sampled_from([1, 3]),
)
def test_structure(seed: int, n: int, dim: int, max_m: int, ef: int, metric: str, kind: str, num_threads: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    if kind == "duplicates" and n:
        vectors = vectors[rng.integers(0, max(n // 10, 1), n)]
    if kind == "constant dimension":
        vectors[:, 0] = 3
    if kind == "outlier" and n:
        vectors[0] *= 1000
    by = vectors if n else np.zeros((1, dim), np.float32)
    graph = empty_graph(by, metric, capacity=n + 3, max_m=max_m, ef_construction=ef, seed=seed)
    graph.add(vectors[: n // 2], num_threads=num_threads)
    graph.add(vectors[n // 2 :], num_threads=num_threads)
    check_structure(graph, max_m)
    distances, ids = graph.search(by[:4], 5, 50)
    assert ((ids >= 0).sum(1) >= min(n, 1)).all()
    assert ((ids < n) & (np.isinf(distances) == (ids < 0))).all()


def test_no_room_changes_nothing(data: SimpleNamespace) -> None:
    graph = empty_graph(data.vectors, data.metric, capacity=100)
    graph.add(data.vectors[:90])
    before = lists(graph)
    with pytest.raises(ValueError, match="at most 10 rows, the room that is left of capacity 100, got 11: resize"):
        graph.add(data.vectors[:11])
    with pytest.raises(ValueError, match="`capacity` must be at least 90, the number of nodes, got 89"):
        graph.resize(89)
    assert (graph.count, graph.capacity, lists(graph)) == (90, 100, before)
    graph.resize(90)
    assert lists(graph) == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dim": 0}, "dimension of the vectors must be 1 to 65536, got 0"),
        ({"dim": -1}, "dimension of the vectors must be 1 to 65536, got 0"),
        ({"capacity": -1}, "`capacity` must be 0 to 2147483647, got -1"),
        ({"capacity": 2**31}, "`capacity` must be 0 to 2147483647, got 2147483648"),
        ({"scale": np.ones(3, np.float32)}, "`scale` must have length 4"),
        ({"metric": "dot"}, '`metric` must be "l2", "ip" or "cosine", got "dot"'),
        ({"max_m": 1}, "`max_m` must be 2 to 10000, got 1: pass hnswlib's M"),
        ({"ef_construction": 0}, "`ef_construction` must be 1 to"),
        ({"level": "sse9"}, "`level` must be one of"),
    ],
)
def test_constructor_refuses(changes: dict[str, Any], match: str) -> None:
    ones = np.ones(4, np.float32)
    given: dict[str, Any] = {"dim": 4, "capacity": 3, "scale": ones, "offset": ones, "metric": "l2"}
    with pytest.raises(ValueError, match=match):
        _core.HnswGraph(**{**given, **changes})


def test_calls_refuse() -> None:
    vectors = np.eye(4, dtype=np.float32)
    graph = built(vectors)
    for call in (
        lambda: graph.add(vectors[:, :3].copy()),
        lambda: graph.search(vectors[:, :3].copy(), 1, 1),
    ):
        with pytest.raises(ValueError, match="must have 4 columns as the codes do, got 3"):
            call()
    with pytest.raises(ValueError, match=r"`vectors` must be finite, got -?nan at row 0, column 0"):
        graph.add(vectors * np.float32("nan"))
    with pytest.raises(ValueError, match="`ef` must be at least 1, got 0"):
        graph.search(vectors, 1, 0)
    for call in (lambda: graph.codes(np.array([4])), lambda: graph.links(-1, 0), lambda: graph.level_of(4)):
        with pytest.raises(IndexError, match="`id` must be below 4, the number of nodes"):
            call()
    with pytest.raises(ValueError, match="`level` must be 0 to"):
        graph.links(0, 60)
    assert graph.count == 4
