"""One traversal over the graphs that hnswlib and FAISS really build."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import faiss
import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

K = 10


def hnswlib_arrays(vectors: np.ndarray, metric: str, m: int) -> dict[str, Any]:
    """Build with hnswlib and read its graph from the pickle state. Ids are the internal order."""
    index = hnswlib.Index(metric, vectors.shape[1])
    index.init_index(len(vectors), M=m, ef_construction=80, random_seed=1)
    index.add_items(vectors, num_threads=1)
    state = index.__getstate__()[0]
    n = state["cur_element_count"]
    rows = np.frombuffer(state["data_level0"].tobytes(), np.uint8).reshape(n, state["size_data_per_element"])
    labels = rows[:, state["label_offset"] :].copy().view(np.uint64).ravel()
    assert (labels == np.arange(n)).all(), "one thread adds in order"
    return {
        "level0": rows[:, : 4 * (1 + state["max_M0"])].copy().view(np.uint32),
        "element_levels": np.ascontiguousarray(state["element_levels"][:n]),
        "link_lists": np.frombuffer(state["link_lists"].tobytes(), np.uint32).copy(),
        "max_m": state["max_M"],
        "entry_point": state["enterpoint_node"],
        "max_level": state["max_level"],
    }


def faiss_arrays(vectors: np.ndarray, metric: str, m: int) -> dict[str, Any]:
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(vectors.shape[1], m, kind)
    index.hnsw.efConstruction = 80
    index.add(vectors)
    graph = index.hnsw
    return {
        "offsets": faiss.vector_to_array(graph.offsets).astype(np.uint64),
        "neighbors": np.array(faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())),
        "cum_neighbors": faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int32),
        "entry_point": graph.entry_point,
        "max_level": graph.max_level,
    }


SOURCES = {"filled": hnswlib_arrays, "linked": faiss_arrays}


def items_of(vectors: np.ndarray) -> SimpleNamespace:
    low, high = vectors.min(0), vectors.max(0)
    scale = ((high - low) / 255).astype(np.float32)
    codes = _core.encode(vectors, scale, low)
    return SimpleNamespace(codes=codes, norms=_core.squared_norms(codes, scale, low), scale=scale, offset=low)


def searcher(kind: str, items: SimpleNamespace, arrays: dict[str, Any], metric: str, level: str = "auto") -> Any:
    how = {"scale": items.scale, "offset": items.offset, "metric": metric, "level": level}
    if kind == "linked":
        return _core.LinkedGraphSearcher(items.codes, items.norms if metric == "l2" else None, **arrays, **how)
    graph = _core.HnswGraph(len(items.scale), len(items.codes), **how, max_m=arrays["max_m"])
    graph.fill(items.codes, None, **{name: part for name, part in arrays.items() if name != "max_m"})
    return graph


@pytest.fixture(scope="module", params=[(kind, metric) for kind in SOURCES for metric in ("l2", "ip")], ids="-".join)
def case(request: pytest.FixtureRequest, oracle: SimpleNamespace) -> SimpleNamespace:
    kind, metric = request.param
    vectors, queries = oracle.clustered(3000, 100, 1), oracle.clustered(60, 100, 2)
    if metric == "ip":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SimpleNamespace(
        kind=kind, metric=metric, items=items_of(vectors), queries=queries, arrays=SOURCES[kind](vectors, metric, 16)
    )


def test_levels_threads_and_batches_agree(case: SimpleNamespace) -> None:
    for ef in (K, 50):
        wanted = None
        for level in _core.simd_levels():
            graph = searcher(case.kind, case.items, case.arrays, case.metric, level)
            answers = [graph.search(case.queries, K, ef, num_threads=threads) for threads in (1, 2, 0)]
            single = [graph.search(query[None], K, ef) for query in case.queries]
            answers.append(tuple(np.concatenate(parts) for parts in zip(*single, strict=True)))
            for distances, ids in answers:
                wanted = wanted or (distances, ids)
                np.testing.assert_array_equal(ids, wanted[1])
                np.testing.assert_array_equal(distances, wanted[0])


def test_recall_against_exhaustive_search(case: SimpleNamespace, oracle: SimpleNamespace) -> None:
    items = case.items
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, case.metric)
    true_distances, true_ids = flat.search(case.queries, K)
    distances, ids = searcher(case.kind, items, case.arrays, case.metric).search(case.queries, K, 200)
    assert oracle.recall(ids, true_ids) > 0.95
    same = ids == true_ids
    np.testing.assert_array_equal(distances[same], true_distances[same])  # one formula for both
    assert (np.diff(distances, axis=1) * (1 if case.metric == "l2" else -1) >= 0).all()


def test_recall_grows_with_ef(case: SimpleNamespace, oracle: SimpleNamespace) -> None:
    items = case.items
    true = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, case.metric)
    true_ids = true.search(case.queries, K)[1]
    graph = searcher(case.kind, items, case.arrays, case.metric)
    found = [oracle.recall(graph.search(case.queries, K, ef)[1], true_ids) for ef in (K, 40, 300)]
    assert found[0] <= found[1] <= found[2]


def test_ef_below_k_is_raised(case: SimpleNamespace) -> None:
    graph = searcher(case.kind, case.items, case.arrays, case.metric)
    low, raised = graph.search(case.queries, 30, 1), graph.search(case.queries, 30, 30)
    np.testing.assert_array_equal(low[1], raised[1])
    assert (low[1] >= 0).all()


def test_more_neighbours_than_nodes(case: SimpleNamespace) -> None:
    graph = searcher(case.kind, case.items, case.arrays, case.metric)
    distances, ids = graph.search(case.queries[:3], 3100, 3100)
    assert (ids[:, -100:] == -1).all()
    assert np.isinf(distances[:, -100:]).all()
    for row in ids:
        assert len(set(row[row >= 0])) == (row >= 0).sum() > 2900  # nodes that links reach, each once


def test_several_callers_share_one_searcher(case: SimpleNamespace) -> None:
    graph = searcher(case.kind, case.items, case.arrays, case.metric)
    wanted = graph.search(case.queries, K, 50, num_threads=1)[1]
    failures: list[int] = []

    def work(seed: int) -> None:
        rows = np.random.default_rng(seed).permutation(len(case.queries))
        failures.extend(row for row in rows if (graph.search(case.queries[[row]], K, 50)[1] != wanted[row]).any())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_many_searches_pass_the_end_of_the_epoch(oracle: SimpleNamespace) -> None:
    """65535 searches wrap the 16-bit epoch: a stale mark would hide nodes."""
    vectors = oracle.clustered(30, 4, 1)
    graph = searcher("filled", items_of(vectors), hnswlib_arrays(vectors, "l2", 4), "l2")
    queries = np.repeat(vectors[:1], 70_000, axis=0)
    ids = graph.search(queries, 5, 10, num_threads=1)[1]
    assert (ids == ids[0]).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 60),
    dim=st.integers(1, 130),
    k=st.integers(1, 70),
    kind=st.sampled_from(sorted(SOURCES)),
    metric=st.sampled_from(["l2", "ip"]),
)
def test_awkward_sizes(seed: int, n: int, dim: int, k: int, kind: str, metric: str) -> None:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    items = items_of(vectors)
    arrays = SOURCES[kind](vectors, metric, 4)
    queries = np.random.default_rng(seed + 1).standard_normal((9, dim)).astype(np.float32)
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, metric)
    distance_of = dict(zip(flat.search(queries, n)[1][0].tolist(), flat.search(queries, n)[0][0].tolist(), strict=True))
    wanted = None
    for level in _core.simd_levels():
        distances, ids = searcher(kind, items, arrays, metric, level).search(queries, k, 2 * k, num_threads=2)
        wanted = wanted or (distances, ids)
        np.testing.assert_array_equal(ids, wanted[1])
        np.testing.assert_array_equal(distances, wanted[0])
        for position, node in enumerate(ids[0].tolist()):
            assert node == -1 or distances[0, position] == np.float32(distance_of[node])


def test_filled_returns_its_arrays_and_sizes(oracle: SimpleNamespace) -> None:
    vectors = oracle.clustered(500, 100, 1)
    items, arrays = items_of(vectors), hnswlib_arrays(vectors, "l2", 16)
    graph = searcher("filled", items, arrays, "l2")
    ids = np.array([0, 499, 7, 7], np.int64)
    np.testing.assert_array_equal(graph.codes(ids), items.codes[ids])
    assert graph.nbytes_codes == 500 * (256 - 4 * 32)  # 100 + norm 4 + self 4 + 32 links fill four lines of 64
    assert graph.nbytes_graph >= 500 * 4 * 32
    with pytest.raises(IndexError, match="`id` must be below 500, the number of nodes, got 500"):
        graph.codes(np.array([0, 500], np.int64))


def test_empty_graph() -> None:
    scale, offset = np.ones(4, np.float32), np.zeros(4, np.float32)
    codes, norms = np.empty((0, 4), np.uint8), np.empty(0, np.float32)
    linked = _core.LinkedGraphSearcher(
        codes, norms, np.zeros(1, np.uint64), np.empty(0, np.int32), np.array([0, 8], np.int32), -1, -1, scale, offset,
        "l2",
    )  # fmt: skip
    filled = _core.HnswGraph(4, 0, scale, offset, "l2", max_m=4)
    filled.fill(codes, None, np.empty((0, 9), np.uint32), np.empty(0, np.int32), np.empty(0, np.uint32), -1, -1)
    for graph in (linked, filled):
        distances, ids = graph.search(np.ones((2, 4), np.float32), 3, 10)
        assert (ids == -1).all()
        assert np.isposinf(distances).all()


def damage(arrays: dict[str, Any], name: str, position: Any, value: int) -> dict[str, Any]:
    damaged = {key: np.array(part) if isinstance(part, np.ndarray) else part for key, part in arrays.items()}
    if position is None:
        damaged[name] = value
    else:
        damaged[name][position] = value
    return damaged


@pytest.mark.parametrize(
    ("name", "position", "value", "match"),
    [
        ("level0", (3, 1), 2**31, "a link must lead to a node"),
        ("level0", (3, 1), 200, "a link must lead to a node"),
        ("level0", (3, 0), 9, "at most 8 links, got 9 at node 3"),
        ("link_lists", 0, 5, "at most 4 links"),
        ("link_lists", 1, 2**32 - 1, "a link must lead to a node"),
        ("element_levels", 0, -1, "`element_levels` must be 0 to"),
        ("element_levels", 0, 9, "`link_lists` must have length"),
        ("entry_point", None, 200, "`entry_point` must be 0 to 199, got 200"),
        ("entry_point", None, -1, "`entry_point` must be 0 to 199, got -1"),
        ("max_level", None, -1, "`max_level` must be at least 0"),
        ("max_level", None, 30, "`entry_point` must have level 30"),
        ("element_levels", 5, 64, "`element_levels` must be 0 to 63, got 64 at node 5"),
        ("max_m", None, 5, "`level0` must have 11 columns"),
    ],
)
def test_damaged_filled_graph_is_refused(
    oracle: SimpleNamespace, name: str, position: Any, value: int, match: str
) -> None:
    vectors = oracle.clustered(200, 8, 1)
    arrays = damage(hnswlib_arrays(vectors, "l2", 4), name, position, value)
    with pytest.raises(ValueError, match=match):
        searcher("filled", items_of(vectors), arrays, "l2")


@pytest.mark.parametrize(
    ("name", "position", "value", "match"),
    [
        ("neighbors", 5, 200, "`neighbors` must be below 200"),
        ("offsets", 7, 0, "`offsets` must grow by at least 8"),
        ("offsets", -1, 2**40, "`offsets` must end within `neighbors`"),
        ("cum_neighbors", 0, 1, "`cum_neighbors` must start with 0"),
        ("cum_neighbors", 1, 2**31 - 1, "`cum_neighbors` must not decrease"),
        ("entry_point", None, 200, "`entry_point` must be 0 to 199, got 200"),
        ("max_level", None, 1000, "`max_level` must be at most"),
    ],
)
def test_damaged_linked_graph_is_refused(
    oracle: SimpleNamespace, name: str, position: Any, value: int, match: str
) -> None:
    vectors = oracle.clustered(200, 8, 1)
    arrays = damage(faiss_arrays(vectors, "l2", 4), name, position, value)
    with pytest.raises(ValueError, match=match):
        searcher("linked", items_of(vectors), arrays, "l2")


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_random_damage_is_refused_or_searched_without_harm(data: st.DataObject, oracle: SimpleNamespace) -> None:
    vectors = oracle.clustered(60, 4, 1)
    kind = data.draw(st.sampled_from(sorted(SOURCES)))
    arrays = SOURCES[kind](vectors, "l2", 4)
    for _ in range(3):
        name = data.draw(st.sampled_from(sorted(arrays)))
        if isinstance(arrays[name], np.ndarray) and arrays[name].size:
            position = np.unravel_index(data.draw(st.integers(0, arrays[name].size - 1)), arrays[name].shape)
            info = np.iinfo(arrays[name].dtype)
            near = st.integers(max(-2, int(info.min)), 70)
            arrays = damage(arrays, name, position, data.draw(near | st.integers(int(info.min), int(info.max))))
        elif not isinstance(arrays[name], np.ndarray):
            arrays = damage(arrays, name, None, data.draw(st.integers(-2, 70)))
    try:
        graph = searcher(kind, items_of(vectors), arrays, "l2")
    except ValueError:
        return
    if kind == "filled":
        graph.resize(70)
        graph.add(vectors[:10])
        graph.replace(np.arange(20), vectors[20:40])
    ids = graph.search(vectors[:5], 5, 20)[1]
    assert ((ids >= -1) & (ids < 70)).all()
