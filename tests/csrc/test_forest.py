"""The forest walk against Annoy's own files and against the walk written out in Python."""

from __future__ import annotations

import heapq
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import annoy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

N, DIM, TREES, K = 2000, 40, 5, 10


def take_over(path: Path, metric: str) -> dict[str, np.ndarray]:
    """Read an Annoy 1.17 file into the arrays of ForestSearcher."""
    ints = np.fromfile(path, np.int32).reshape(-1, DIM + (3 if metric == "angular" else 4))
    children_at, largest_leaf = (1, DIM + 2) if metric == "angular" else (2, DIM + 2)
    counts = ints[:, 0]
    n_items = counts[-1]
    roots = len(ints) - 1 - np.arange(TREES)  # the copies of the roots, which end the file
    planes: list[int] = []
    children: list[list[int]] = []
    leaves: list[list[int]] = []

    def visit(node: int) -> int:
        if node < n_items or counts[node] <= largest_leaf:
            size = counts[node]
            leaves.append([node] if node < n_items else ints[node, children_at : children_at + size].tolist())
            return -len(leaves)
        at = len(planes)
        planes.append(node)
        children.append([])
        children[at] = [visit(ints[node, children_at]), visit(ints[node, children_at + 1])]
        return at

    entries = [visit(root) for root in roots]
    vectors = ints[planes].view(np.float32)[:, -DIM:]
    scale = np.abs(vectors).max(1) / 127
    return {
        "plane_codes": np.clip(np.rint(vectors / scale[:, None]) + 128, 0, 255).astype(np.uint8),
        "plane_scale": scale.astype(np.float32),
        "plane_bias": ints[planes].view(np.float32)[:, 1] * np.float32(metric != "angular"),
        "children": np.array(children, np.int32),
        "leaf_offsets": np.cumsum([0, *map(len, leaves)]).astype(np.uint32),
        "leaf_items": np.concatenate(leaves).astype(np.int32),
        "roots": np.array(entries, np.int32),
    }


@pytest.fixture(scope="module", params=["angular", "euclidean"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, oracle: SimpleNamespace) -> Any:
    vectors, queries = oracle.clustered(N, DIM, 1), oracle.clustered(40, DIM, 2)
    if request.param == "angular":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = annoy.AnnoyIndex(DIM, request.param)
    index.set_seed(3)
    for position, vector in enumerate(vectors):
        index.add_item(position, vector)
    index.build(TREES, n_jobs=1)
    path = tmp_path_factory.mktemp("annoy") / "index.ann"
    index.save(str(path))
    low = vectors.min(0)
    scale = ((vectors.max(0) - low) / 255).astype(np.float32)
    codes = _core.encode(vectors, scale, low)
    items = SimpleNamespace(codes=codes, norms=_core.squared_norms(codes, scale, low), scale=scale, offset=low)
    metric = "ip" if request.param == "angular" else "l2"
    return SimpleNamespace(
        index=index, items=items, queries=queries, metric=metric, forest=take_over(path, request.param)
    )


def searcher(case: SimpleNamespace, level: str = "auto") -> _core.ForestSearcher:
    items = case.items
    norms = items.norms if case.metric == "l2" else None
    return _core.ForestSearcher(
        items.codes, norms, items.scale, items.offset, **case.forest, metric=case.metric, level=level
    )


def walk(forest: dict[str, np.ndarray], query: np.ndarray, search_k: int) -> np.ndarray:
    """Annoy's walk with the planes as they are coded and the 16-bit query; the distinct items that it looks at."""
    dim = len(query)
    high, low, unit, _ = _core.fold_query(query, np.ones(dim, np.float32), np.zeros(dim, np.float32))
    folded = 256 * high.astype(np.int64) + low
    queue = [(-np.float32(np.inf), int(root) % 2**32) for root in forest["roots"]]
    heapq.heapify(queue)
    found: list[int] = []
    while queue and len(found) < search_k:
        priority, node = heapq.heappop(queue)
        node = node - 2**32 if node >= 2**31 else node
        if node < 0:
            begin, end = forest["leaf_offsets"][-1 - node : 1 - node] if node < -1 else forest["leaf_offsets"][:2]
            found.extend(forest["leaf_items"][begin:end].tolist())
            continue
        product = unit * float(((forest["plane_codes"][node].astype(np.int64) - 128) * folded).sum())
        margin = np.float32(float(forest["plane_bias"][node]) + float(forest["plane_scale"][node]) * product)
        first, second = forest["children"][node].tolist()
        heapq.heappush(queue, (max(priority, margin), first % 2**32))
        heapq.heappush(queue, (max(priority, -margin), second % 2**32))
    return np.unique(found)


@pytest.mark.parametrize("search_k", [1, 100, 1000, 10**9])
def test_search_equals_the_oracle(case: SimpleNamespace, oracle: SimpleNamespace, search_k: int) -> None:
    wanted = [
        oracle.search_among(case.items, case.metric, query, K, walk(case.forest, query, search_k))
        for query in case.queries
    ]
    for level in _core.simd_levels():
        for threads in (1, 2):
            distances, ids = searcher(case, level).search(case.queries, K, search_k, num_threads=threads)
            np.testing.assert_array_equal(ids, [row for _, row in wanted])
            np.testing.assert_array_equal(distances, [row for row, _ in wanted])


@pytest.mark.parametrize("search_k", [100, 500, 2000])
def test_as_good_as_annoy(case: SimpleNamespace, oracle: SimpleNamespace, search_k: int) -> None:
    """Coded planes lead to as many of the true neighbours as Annoy's float32 planes do."""
    true = np.array([case.index.get_nns_by_vector(query, K, search_k=10**6) for query in case.queries])
    theirs = np.array([case.index.get_nns_by_vector(query, K, search_k=search_k) for query in case.queries])
    ours = searcher(case).search(case.queries, K, search_k)[1]
    assert oracle.recall(ours, true) >= oracle.recall(theirs, true) - 0.02


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    dim=st.integers(1, 130),
    k=st.integers(1, 50),
    search_k=st.integers(1, 100),
)
def test_awkward_sizes(oracle: SimpleNamespace, seed: int, n: int, dim: int, k: int, search_k: int) -> None:
    """Forests of random planes over random leaves."""
    rng = np.random.default_rng(seed)
    items = oracle.make_items(n, dim, seed=seed)
    leaves = [rng.integers(0, n, rng.integers(0, 9)) for _ in range(6)]
    forest = {
        "plane_codes": rng.integers(0, 256, (4, dim), dtype=np.uint8),
        "plane_scale": rng.uniform(0, 1, 4).astype(np.float32),
        "plane_bias": rng.standard_normal(4).astype(np.float32),
        "children": np.array([[1, 2], [-1, -2], [-3, -4], [-5, -6]], np.int32),
        "leaf_offsets": np.cumsum([0, *map(len, leaves)]).astype(np.uint32),
        "leaf_items": np.concatenate(leaves).astype(np.int32),
        "roots": np.array([0, 3], np.int32),
    }
    queries = rng.standard_normal((9, dim)).astype(np.float32)
    case = SimpleNamespace(items=items, forest=forest, metric="l2")
    wanted = [oracle.search_among(items, "l2", query, k, walk(forest, query, search_k)) for query in queries]
    for level in _core.simd_levels():
        distances, ids = searcher(case, level).search(queries, k, search_k, num_threads=2)
        np.testing.assert_array_equal(ids, [row for _, row in wanted])
        np.testing.assert_array_equal(distances, [row for row, _ in wanted])


@pytest.mark.parametrize(
    ("name", "position", "value", "match"),
    [
        ("children", (0, 0), 0, "enter a plane from one place only, got plane 0 again"),
        ("children", (0, 0), 10**6, "`children` must name one of"),
        ("children", (0, 0), -(2**31), "`children` must name one of"),
        ("roots", 0, 10**6, "`roots` must name one of"),
        ("leaf_items", 5, N, "`leaf_items` must be 0 to 1999, got 2000"),
        ("leaf_items", 5, -1, "`leaf_items` must be 0 to 1999, got -1"),
        ("leaf_offsets", 1, 2**32 - 1, "`leaf_offsets` must not decrease"),
        ("leaf_offsets", -1, 2**32 - 1, "`leaf_offsets` must end within `leaf_items`"),
        ("plane_scale", 0, np.nan, "`plane_scale` must be finite"),
    ],
)
def test_damaged_forest_is_refused(case: SimpleNamespace, name: str, position: Any, value: Any, match: str) -> None:
    forest = {key: part.copy() for key, part in case.forest.items()}
    forest[name][position] = value
    with pytest.raises(ValueError, match=match):
        searcher(SimpleNamespace(items=case.items, forest=forest, metric=case.metric))


def test_forest_without_planes(oracle: SimpleNamespace) -> None:
    """Few items fit one leaf, and then a root is a leaf."""
    items = oracle.make_items(3, 4)
    forest = {
        "plane_codes": np.empty((0, 4), np.uint8),
        "plane_scale": np.empty(0, np.float32),
        "plane_bias": np.empty(0, np.float32),
        "children": np.empty((0, 2), np.int32),
        "leaf_offsets": np.array([0, 3], np.uint32),
        "leaf_items": np.array([0, 1, 2], np.int32),
        "roots": np.array([-1, -1], np.int32),
    }
    tree = searcher(SimpleNamespace(items=items, forest=forest, metric="l2"))
    assert tree.search(items.vectors, 2, 10)[1][:, 0].tolist() == [0, 1, 2]
