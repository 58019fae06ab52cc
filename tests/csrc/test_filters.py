"""Which nodes may be results: filters of every kind and deletion marks, over every graph."""

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

K, N, DIM = 10, 2000, 24


def links_of(graph: Any) -> list[list[int]]:
    return [graph.links(node, 0).tolist() for node in range(graph.count)]


def linked_copy(grown: Any, items: SimpleNamespace, metric: str, norms: np.ndarray | None) -> Any:
    """The same level 0 in FAISS' layout."""
    lists = links_of(grown)
    width = max(map(len, lists))
    neighbors = np.array([row + [-1] * (width - len(row)) for row in lists], np.int32).ravel()
    return _core.LinkedGraphSearcher(
        items.codes, norms, np.arange(len(lists) + 1, dtype=np.uint64) * np.uint64(width), neighbors,
        np.array([0, width], np.int32), grown.entry_point, 0, items.scale, items.offset, metric,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["l2", "ip"])
def data(request: pytest.FixtureRequest, oracle: SimpleNamespace) -> SimpleNamespace:
    metric = request.param
    items = oracle.make_items(N, DIM)
    norms = items.norms if metric == "l2" else None
    grown = _core.HnswGraph(DIM, N, items.scale, items.offset, metric)
    grown.add(items.vectors, num_threads=1)
    graphs = {"grown": grown, "linked": linked_copy(grown, items, metric, norms)}
    queries = np.random.default_rng(5).standard_normal((30, DIM)).astype(np.float32)
    return SimpleNamespace(items=items, metric=metric, graphs=graphs, queries=queries)


@pytest.fixture(params=["grown", "linked"])
def graph(request: pytest.FixtureRequest, data: SimpleNamespace) -> Any:
    return data.graphs[request.param]


def kinds_of(allowed: np.ndarray) -> dict[str, Any]:
    return {
        "bool": allowed,
        "bitmap": np.packbits(allowed, bitorder="little"),
        "ids": np.flatnonzero(allowed)[::-1].copy(),
        "callable": lambda node: allowed[node],
    }


def exact(data: SimpleNamespace, oracle: SimpleNamespace, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What an exhaustive search finds among the nodes that pass."""
    among = np.flatnonzero(allowed)
    rows = [oracle.search_among(data.items, data.metric, query, K, among) for query in data.queries]
    return np.array([row for row, _ in rows]), np.array([row for _, row in rows])


@pytest.mark.parametrize("share", [0.9, 0.7])
def test_every_kind_walks_alike(data: SimpleNamespace, graph: Any, share: float) -> None:
    """So many pass that a walk is faster than scoring them all."""
    allowed, wanted = np.random.default_rng(1).random(N) < share, None
    for kind in kinds_of(allowed).values():
        for num_threads in (1, 3):
            distances, ids = graph.search(data.queries, K, 12, id_filter=kind, num_threads=num_threads)
            wanted = wanted or (distances, ids)
            np.testing.assert_array_equal(ids, wanted[1])
            np.testing.assert_array_equal(distances, wanted[0])
    assert allowed[wanted[1]].all()


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02])
def test_a_walk_finds_the_nearest_that_pass(
    data: SimpleNamespace, graph: Any, oracle: SimpleNamespace, share: float
) -> None:
    """How many a callable lets pass is not known, so the graph is walked however few they are."""
    allowed = np.random.default_rng(1).random(N) < share
    found = graph.search(data.queries, K, 60, id_filter=lambda node: allowed[node])[1]
    assert allowed[found].all()
    assert oracle.recall(found, exact(data, oracle, allowed)[1]) > 0.95


@pytest.mark.parametrize("share", [0.5, 0.02, 0.002, 0.0])
def test_where_few_pass_all_of_them_are_scored(
    data: SimpleNamespace, graph: Any, oracle: SimpleNamespace, share: float
) -> None:
    allowed = np.random.default_rng(1).random(N) < share
    wanted = exact(data, oracle, allowed)
    kinds = kinds_of(allowed)
    del kinds["callable"]
    for kind in kinds.values():
        for num_threads in (1, 3):
            single = [graph.search(query[None], K, 16, id_filter=kind) for query in data.queries]
            for answer in (
                graph.search(data.queries, K, 16, id_filter=kind, num_threads=num_threads),
                tuple(np.concatenate(parts) for parts in zip(*single, strict=True)),
            ):
                np.testing.assert_array_equal(answer[1], wanted[1])
                np.testing.assert_array_equal(answer[0], wanted[0])


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("bits", "span"), [(8, 0.0), (8, 1.0), (4, 2.0)])
def test_few_nodes_of_any_width_are_scored_as_flat_search_does(
    oracle: SimpleNamespace, level: str, metric: str, bits: int, span: float
) -> None:
    items = oracle.make_items(300, 21)
    scale = items.scale * np.float32(1 if bits == 8 else 17)
    graph = _core.HnswGraph(21, 300, scale, items.offset, metric, bits=bits, span=span, level=level)
    graph.add(items.vectors)
    codes = graph.codes(np.arange(300))
    norms = _core.squared_norms(codes, scale, items.offset, bits=bits)
    flat = _core.FlatSearcher(codes, norms, scale, items.offset, metric, bits=bits, level=level)
    if span:
        how = (codes, scale, items.offset, span, bits)
        residuals = _core.encode_residuals(items.vectors, *how)
        flat.add_residuals(residuals, _core.residual_norms(residuals, *how), span)
    for id_filter in (range(100, 180), np.arange(0, 300, 7)):
        wanted = flat.search(items.vectors[:20], 5, id_filter=id_filter)
        for got, expected in zip(graph.search(items.vectors[:20], 5, 50, id_filter=id_filter), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_ranges(data: SimpleNamespace, graph: Any) -> None:
    for ids_range in (range(500, 900), range(1990, 5000), range(100, N), range(N)):
        allowed = np.isin(np.arange(N), ids_range)
        wanted = graph.search(data.queries, K, 12, id_filter=allowed)
        for got, expected in zip(graph.search(data.queries, K, 12, id_filter=ids_range), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_filter_that_lets_everything_pass_changes_nothing(data: SimpleNamespace, graph: Any) -> None:
    plain = graph.search(data.queries, K, 50)
    for kind in kinds_of(np.ones(N, bool)).values():
        for got, expected in zip(graph.search(data.queries, K, 50, id_filter=kind), plain, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_few_or_none_pass(data: SimpleNamespace, graph: Any) -> None:
    allowed = np.zeros(N, bool)
    assert (graph.search(data.queries, K, 50, id_filter=allowed)[1] == -1).all()
    assert (graph.search(data.queries, K, 50, id_filter=range(7, 7))[1] == -1).all()
    allowed[[3, 1999]] = True
    distances, ids = graph.search(data.queries, K, 50, id_filter=allowed)
    assert (np.sort(ids[:, :2], axis=1) == [3, 1999]).all()
    assert (ids[:, 2:] == -1).all()
    assert np.isinf(distances[:, 2:]).all()


@pytest.mark.parametrize("num_threads", [1, 4])
def test_a_callable_may_raise(data: SimpleNamespace, graph: Any, num_threads: int) -> None:
    def fails(node: int) -> bool:
        raise KeyError(node)

    class Truthless:
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    with pytest.raises(KeyError):
        graph.search(data.queries, K, 50, id_filter=fails, num_threads=num_threads)
    with pytest.raises(ZeroDivisionError):
        graph.search(data.queries, K, 50, id_filter=lambda _: Truthless(), num_threads=num_threads)
    assert (graph.search(data.queries, K, 50)[1] >= 0).all()


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (np.ones(N + 1, bool), ValueError, "`id_filter` must have length .*2000, the number of ids, got 2001"),
        (np.ones(N, np.uint8), ValueError, "`id_filter` must have length .*250, an eighth of the number of ids"),
        (np.ones((N, 1), bool), ValueError, r"`id_filter` must be a C-contiguous bool array of 1 dimension"),
        (np.array([5, N]), ValueError, "ids from 0 to 1999, got 2000 at position 1"),
        (np.array([-1]), ValueError, "ids from 0 to 1999, got -1 at position 0"),
        (range(0, 10, 2), ValueError, "range of step 1, got step 2: pass the ids"),
        (range(-3, 10), ValueError, "range of ids, got start -3"),
        (np.ones(N, np.float32), TypeError, "`id_filter` must be None, .* got an array of float32"),
        ([1, 2], TypeError, "`id_filter` must be None, .* got list"),
    ],
)
def test_refused(data: SimpleNamespace, graph: Any, wrong: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        graph.search(data.queries, K, 50, id_filter=wrong)


def grown(vectors: np.ndarray, items: SimpleNamespace, capacity: int | None = None) -> Any:
    graph = _core.HnswGraph(vectors.shape[1], capacity or len(vectors), items.scale, items.offset, "l2")
    graph.add(vectors, num_threads=1)
    return graph


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_deleted_nodes_are_no_results(data: SimpleNamespace, share: float) -> None:
    """At ef 12 a walk goes through a fifth of deleted nodes; where more are deleted, the others are scored."""
    graph, deleted = grown(data.items.vectors, data.items), np.random.default_rng(3).random(N) < share
    plain = graph.search(data.queries, K, 12)
    graph.mark_deleted(np.flatnonzero(deleted))
    assert graph.n_deleted == deleted.sum()
    np.testing.assert_array_equal(graph.deleted(), deleted)
    answers = graph.search(data.queries, K, 12)
    assert (answers[1] >= 0).all()
    assert not deleted[answers[1]].any()
    graph.resize(N + 10)
    np.testing.assert_array_equal(graph.search(data.queries, K, 12)[1], answers[1])
    some = np.random.default_rng(4).random(N) < 0.5
    both = graph.search(data.queries, K, 12, id_filter=some)[1]
    assert (some & ~deleted)[both].all()
    graph.unmark_deleted(np.flatnonzero(deleted))
    for got, expected in zip(graph.search(data.queries, K, 12), plain, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_deleted_results_are_those_of_hnswlib(oracle: SimpleNamespace) -> None:
    vectors, queries = oracle.clustered(2000, 16, 1), oracle.clustered(100, 16, 2)
    low, high = vectors.min(0), vectors.max(0)
    items = SimpleNamespace(scale=((high - low) / 255).astype(np.float32), offset=low)
    theirs = hnswlib.Index("l2", 16)
    theirs.init_index(2000, M=16, ef_construction=200)
    theirs.add_items(vectors, num_threads=1)
    ours = grown(vectors, items)
    gone = np.flatnonzero(np.random.default_rng(0).random(2000) < 0.5)
    for node in gone.tolist():
        theirs.mark_deleted(node)
    ours.mark_deleted(gone)
    theirs.set_ef(50)
    true = np.setdiff1d(np.arange(2000), gone)
    squares = ((queries[:, None] - vectors[true]) ** 2).sum(2)
    exact = true[np.argsort(squares, axis=1)[:, :K]]
    found = oracle.recall(ours.search(queries, K, 50)[1], exact)
    assert found >= oracle.recall(theirs.knn_query(queries, K)[0], exact) - 0.02


def test_marks_are_all_or_none(data: SimpleNamespace) -> None:
    graph = grown(data.items.vectors[:50], data.items)
    graph.mark_deleted(np.array([1, 2]))
    for wrong, match in (
        ([5, 50], "`ids` must be below 50, the number of nodes, got 50 at position 1"),
        ([5, -1], "got -1 at position 1"),
        ([5, 6, 2], "`ids` must be nodes that are not deleted, got 2 at position 2, which is deleted already"),
        ([5, 5], "got 5 at position 1, which is deleted already: pass each once"),
    ):
        with pytest.raises(ValueError, match=match):
            graph.mark_deleted(np.array(wrong))
        assert np.flatnonzero(graph.deleted()).tolist() == [1, 2]
    with pytest.raises(ValueError, match="`ids` must be nodes that are deleted, got 3 at position 1, which is not"):
        graph.unmark_deleted(np.array([1, 3]))
    assert np.flatnonzero(graph.deleted()).tolist() == [1, 2]
    assert graph.n_deleted == 2


def test_marking_while_searching(data: SimpleNamespace) -> None:
    """Nodes that stay deleted are never found, whatever happens to the others."""
    graph, done, failures = grown(data.items.vectors, data.items), threading.Event(), []
    graph.mark_deleted(np.arange(0, N, 3))

    def search() -> None:
        while not done.is_set():
            ids = graph.search(data.queries, K, 50, num_threads=1)[1]
            failures.extend(ids[(ids % 3 == 0) | (ids < 0)].tolist())

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        graph.mark_deleted(np.arange(1, N, 3))
        graph.unmark_deleted(np.arange(1, N, 3))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert graph.n_deleted == len(range(0, N, 3))


def test_what_is_left_of_deleted_nodes_is_scored(data: SimpleNamespace, oracle: SimpleNamespace) -> None:
    graph, deleted = grown(data.items.vectors, data.items), np.random.default_rng(3).random(N) < 0.6
    graph.mark_deleted(np.flatnonzero(deleted))
    some = np.random.default_rng(4).random(N) < 0.5
    l2 = SimpleNamespace(items=data.items, metric="l2", queries=data.queries)
    for id_filter, allowed in (
        (None, ~deleted),
        (some, some & ~deleted),
        (range(1000), ~deleted & (np.arange(N) < 1000)),
    ):
        wanted = exact(l2, oracle, allowed)
        for got, expected in zip(graph.search(data.queries, K, 20, id_filter=id_filter), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_filtered_searches_while_nodes_are_added(data: SimpleNamespace, oracle: SimpleNamespace) -> None:
    """Whatever is found has its own distance: nodes that are being written are none."""
    graph, done = _core.HnswGraph(DIM, N, data.items.scale, data.items.offset, "l2"), threading.Event()
    query, found = data.queries[:1], []

    def search() -> None:
        while not done.is_set():
            distances, ids = graph.search(query, K, 50, id_filter=range(graph.count // 2, N))
            found.extend((node, distance) for node, distance in zip(ids[0], distances[0], strict=True) if node >= 0)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for part in np.split(data.items.vectors, 40):
        graph.add(part, num_threads=2)
    done.set()
    for thread in threads:
        thread.join()
    ids = np.array([node for node, _ in found])
    wanted = oracle.exact_distance(data.items, "l2", query[0], ids)
    np.testing.assert_array_equal([distance for _, distance in found], wanted)
    answer = graph.search(query, K, 50, id_filter=range(N // 2, N))
    for got, expected in zip(
        answer, oracle.search_among(data.items, "l2", query[0], K, np.arange(N // 2, N)), strict=True
    ):
        np.testing.assert_array_equal(got[0], expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 80), k=st.integers(1, 90), share=st.floats(0, 1))
def test_with_room_for_all_a_filtered_search_is_exact(seed: int, n: int, k: int, share: float) -> None:
    """ef = n: everything that passes is found in the order of the distances, in a walk if it can be reached."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 6)).astype(np.float32)
    scale, offset = np.full(6, 8 / 255, np.float32), np.full(6, -4, np.float32)
    graph = _core.HnswGraph(6, n, scale, offset, "l2", max_m=8, seed=seed)
    graph.add(vectors, num_threads=1)
    allowed = rng.random(n) < share
    codes = graph.codes(np.arange(n))
    flat = _core.FlatSearcher(codes, _core.squared_norms(codes, scale, offset), scale, offset, "l2")
    order = flat.search(vectors[:1], n)[1][0].tolist()
    reachable = set(graph.search(vectors[:1], n, n)[1][0].tolist())
    passing = [node for node in order if allowed[node]]
    walked = [node for node in passing if node in reachable]
    for id_filter, wanted in (
        (lambda node: allowed[node], walked),
        (allowed, walked if allowed.all() else passing),  # scored without a walk
    ):
        found = graph.search(vectors[:1], max(k, len(wanted)), n, id_filter=id_filter)[1][0]
        assert found[found >= 0].tolist() == wanted
