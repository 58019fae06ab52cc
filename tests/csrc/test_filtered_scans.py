"""Exhaustive, list and forest searches with a filter give what searching the items that pass it alone would give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core

INT64 = np.iinfo(np.int64)


def kinds_of(allowed: np.ndarray) -> dict[str, Any]:
    answers = allowed.tolist()
    return {
        "bool": allowed,
        "bitmap": np.packbits(allowed, bitorder="little"),
        "ids": np.flatnonzero(allowed)[::-1].repeat(2),
        "callable": lambda item: answers[item],
    }


def some_of(rng: np.random.Generator, n: int, share: float, pattern: str) -> np.ndarray:
    """Which of n items pass: spread evenly, in runs as long as the blocks that a scan looks at, or from a place on."""
    if pattern == "spread":
        return rng.random(n) < share
    if pattern == "runs":
        return np.repeat(rng.random(n // 300 + 1) < share, 300)[:n]
    return np.arange(n) >= (1 - share) * n


def coded(n: int, dim: int, bits: int, seed: int) -> SimpleNamespace:
    """Random items, many of them equal: ties go to the lower id."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32)[rng.integers(0, n, n)]
    scale = np.full(dim, 8 / (2**bits - 1), np.float32)
    offset = np.full(dim, -4, np.float32)
    codes = _core.encode(vectors, scale, offset, bits=bits)
    how = {"codes": codes, "scale": scale, "offset": offset, "bits": bits}
    residuals = _core.encode_residuals(vectors, **how, span=2.0)
    return SimpleNamespace(
        how=how,
        vectors=vectors,
        norms=_core.squared_norms(codes, scale, offset, bits=bits),
        residuals=residuals,
        residual_norms=_core.residual_norms(residuals, **how, span=2.0),
    )


def flat_of(items: SimpleNamespace, metric: str, rows: Any, *, residual: bool, level: str = "auto") -> Any:
    how, is_l2 = items.how, metric == "l2"
    flat = _core.FlatSearcher(
        np.ascontiguousarray(how["codes"][rows]), np.ascontiguousarray(items.norms[rows]) if is_l2 else None,
        how["scale"], how["offset"], metric, bits=how["bits"], level=level,
    )  # fmt: skip
    if residual:
        norms = np.ascontiguousarray(items.residual_norms[rows]) if is_l2 else None
        flat.add_residuals(np.ascontiguousarray(items.residuals[rows]), norms, 2.0)
    return flat


def both_ways(search: Any, queries: np.ndarray, *rest: Any, **named: Any) -> list[Any]:
    """One answer of the batch and one of its queries searched one by one."""
    single = []
    for row in range(len(queries)):
        parts = [part[row : row + 1] if isinstance(part, np.ndarray) else part for part in (queries, *rest)]
        single.append(search(*parts, **named))
    return [search(queries, *rest, **named), tuple(np.concatenate(parts) for parts in zip(*single, strict=True))]


def assert_equal(answers: list[Any], wanted: Any, message: str) -> None:
    for distances, ids in answers:
        np.testing.assert_array_equal(ids, wanted[1], message)
        np.testing.assert_array_equal(distances, wanted[0], message)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.one_of(st.integers(1, 200), st.integers(1, 6000)),
    dim=st.integers(1, 40),
    k=st.sampled_from([1, 3, 10, 500]),
    n_queries=st.sampled_from([1, 2, 12, 40]),
    share=st.one_of(st.sampled_from([0.0, 0.001, 0.5, 0.87, 0.9, 1.0]), st.floats(0, 1)),
    pattern=st.sampled_from(["spread", "runs", "behind"]),
    metric=st.sampled_from(["l2", "ip", "cosine"]),
    bits=st.sampled_from([8, 4]),
    residual=st.booleans(),
)
def test_flat_search_is_one_of_what_passes(
    seed: int, n: int, dim: int, k: int, n_queries: int, share: float, pattern: str, metric: str, bits: int,
    residual: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    items = coded(n, dim, bits, seed)
    queries = rng.standard_normal((n_queries, dim)).astype(np.float32)
    allowed = some_of(rng, n, share, pattern)
    among = np.flatnonzero(allowed)
    distances, places = flat_of(items, metric, among, residual=residual).search(queries, k)
    wanted = distances, np.append(among, -1)[places]
    for level in _core.simd_levels():
        flat = flat_of(items, metric, slice(None), residual=residual, level=level)
        for kind, id_filter in kinds_of(allowed).items():
            assert_equal(both_ways(flat.search, queries, k, id_filter=id_filter), wanted, f"{kind}, {level}")


@pytest.mark.parametrize("num_threads", [1, 2, 0])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_flat_search_equals_the_oracle(metric: str, num_threads: int, level: str, oracle: SimpleNamespace) -> None:
    items = oracle.make_items(3000, 33)
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, metric, level=level)
    queries = oracle.make_items(40, 33, seed=1).vectors
    for share in (0.001, 0.2, 0.6, 0.95):
        allowed = np.random.default_rng(2).random(3000) < share
        rows = [oracle.search_among(items, metric, query, 10, np.flatnonzero(allowed)) for query in queries]
        wanted = np.array([row for row, _ in rows]), np.array([row for _, row in rows])
        for kind, id_filter in kinds_of(allowed).items():
            answers = [
                flat.search(part, 10, num_threads=num_threads, id_filter=id_filter)
                for part in np.split(queries, [1, 9])
            ]
            joined = tuple(np.concatenate(parts) for parts in zip(*answers, strict=True))
            assert_equal([joined], wanted, kind)


@pytest.mark.parametrize(
    "ids", [range(700), range(5, 5), range(9, 3), range(130, 1500), range(699, 700), range(300, 2**70), range(700, 900)]
)
def test_flat_search_of_a_range(ids: range, oracle: SimpleNamespace) -> None:
    items = oracle.make_items(700, 9)
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, "l2")
    among = np.arange(ids.start, min(ids.stop, 700))
    for count in (1, 30):
        rows = [oracle.search_among(items, "l2", query, 5, among) for query in items.vectors[:count]]
        wanted = np.array([row for row, _ in rows]), np.array([row for _, row in rows])
        assert_equal([flat.search(items.vectors[:count], 5, id_filter=ids)], wanted, str(ids))


def test_a_callable_is_asked_once_for_an_id(oracle: SimpleNamespace) -> None:
    items = oracle.make_items(500, 8)
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, "l2")
    asked: list[int] = []
    flat.search(items.vectors[:40], 10, num_threads=1, id_filter=lambda item: asked.append(item) or item % 7 == 0)
    assert len(asked) == len(set(asked)) > 0
    asked.clear()
    flat.search(items.vectors[:1], 1, id_filter=lambda item: asked.append(item) or True)
    assert len(asked) < 300


def lists_of(items: SimpleNamespace, ids: np.ndarray, owner: np.ndarray, rows: np.ndarray) -> tuple[list[Any], ...]:
    """Codes and ids of each list, of the items `rows` alone."""
    members = [rows[owner[rows] == number] for number in range(5)]
    return [np.ascontiguousarray(items.how["codes"][part]) for part in members], [ids[part] for part in members]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.one_of(st.integers(1, 200), st.integers(1, 6000)),
    dim=st.integers(1, 40),
    k=st.sampled_from([1, 10, 300]),
    n_queries=st.sampled_from([1, 3, 40]),
    share=st.one_of(st.sampled_from([0.0, 0.001, 1.0]), st.floats(0, 1)),
    metric=st.sampled_from(["l2", "ip"]),
    bits=st.sampled_from([8, 4]),
    residual=st.booleans(),
    names=st.sampled_from(["positions", "sparse", "any"]),
)
def test_list_search_is_one_of_what_passes(
    seed: int, n: int, dim: int, k: int, n_queries: int, share: float, metric: str, bits: int, residual: bool,
    names: str,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    items = coded(n, dim, bits, seed)
    owner = rng.integers(0, 5, n)
    ids = {
        "positions": rng.permutation(n),
        "sparse": np.sort(rng.permutation(100 * n)[:n]),
        "any": rng.integers(INT64.min, INT64.max, n, endpoint=True),
    }[names]
    ids[: n // 50] = ids[0]  # an id may stand in several places
    centroids = rng.standard_normal((5, dim)).astype(np.float32) if residual else None
    queries = rng.standard_normal((n_queries, dim)).astype(np.float32)
    assignment = np.array([rng.permutation(5)[:3] for _ in range(n_queries)])
    chosen = rng.permutation(np.unique(ids))
    chosen = chosen[: int(share * len(chosen))]
    allowed = np.isin(ids, chosen)
    how = (centroids, items.how["scale"], items.how["offset"], metric)
    few = _core.IvfSearcher(*lists_of(items, ids, owner, np.flatnonzero(allowed)), *how, bits=bits)
    wanted = few.search(queries, assignment, k)
    passing = set(chosen.tolist())
    forms: dict[str, Any] = {
        "ids": np.append(chosen, chosen[:1]),
        "strangers": np.append(chosen, np.setdiff1d(rng.integers(2**60, 2**62, 3), ids)),
        "callable": passing.__contains__,
    }
    if names != "any":
        table = np.zeros(100 * n, bool)
        table[chosen] = True
        short = table[: max(passing, default=-1) + 1].copy()  # ids outside are refused
        forms |= {"bool": table, "short": short, "bitmap": np.packbits(short, bitorder="little")}
    for level in _core.simd_levels():
        ivf = _core.IvfSearcher(*lists_of(items, ids, owner, np.arange(n)), *how, bits=bits, level=level)
        for form, id_filter in forms.items():
            answers = both_ways(ivf.search, queries, assignment, k, id_filter=id_filter)
            assert_equal(answers, wanted, f"{form}, {level}")


@pytest.mark.parametrize(
    ("ids", "passing"),
    [
        (range(-5, 8), [-5, 0, 7]),
        (range(8, 9), [8]),
        (range(INT64.min, 0), [INT64.min, -5]),
        (range(9, INT64.max), [10**12]),
        (range(-(2**70), 2**70), [INT64.min, -5, 0, 7, 8, 10**12]),
        (range(3, 3), []),
        (range(3, -3), []),
        (lambda _: True, [INT64.min, -5, 0, 7, 8, 10**12, INT64.max]),
        (np.array([INT64.max, INT64.min, 5, 8]), [INT64.min, 8, INT64.max]),
        (np.array([7, 6, 8]), [7, 8]),
        (np.array([-5, -6]), [-5]),
        (np.empty(0, np.int64), []),
        (np.ones(8, bool), [0, 7]),
        (np.array([129, 255], np.uint8), [0, 7, 8]),
        (np.empty(0, bool), []),
    ],
)
@pytest.mark.parametrize("n_queries", [1, 20])
def test_ids_of_lists_are_any_numbers(ids: Any, passing: list[int], n_queries: int) -> None:
    """As FAISS' selectors have it: what lies outside a bitmap or a range is refused."""
    own = np.array([INT64.min, -5, 0, 7, 8, 10**12, INT64.max])
    codes, ones = np.arange(28, dtype=np.uint8).reshape(7, 4), np.ones(4, np.float32)
    ivf = _core.IvfSearcher([codes[:3], codes[3:]], [own[:3], own[3:]], None, ones, ones, "ip")
    found = ivf.search(np.ones((n_queries, 4), np.float32), np.tile([0, 1], (n_queries, 1)), 7, id_filter=ids)[1]
    for row in found.tolist():
        assert row == passing[::-1] + [-1] * (7 - len(passing))


def forest_of(items: SimpleNamespace, leaves: list[np.ndarray], level: str = "auto") -> Any:
    """Three trees of two leaves each: the planes tell the sides of the first dimension apart."""
    dim = len(items.scale)
    planes = np.full((3, dim), 128, np.uint8)
    planes[:, 0] = 200
    return _core.ForestSearcher(
        items.codes, items.norms, items.scale, items.offset, planes, np.ones(3, np.float32),
        np.array([0, 1, -1], np.float32), np.array([[-1, -2], [-3, -4], [-5, -6]], np.int32),
        np.cumsum([0, *map(len, leaves)]).astype(np.uint32), np.concatenate(leaves).astype(np.int32),
        np.arange(3, dtype=np.int32), "l2", level=level,
    )  # fmt: skip


def halves(rng: np.random.Generator, ids: np.ndarray) -> list[np.ndarray]:
    """Three ways to deal all ids out to two leaves."""
    return [part for _ in range(3) for part in np.array_split(rng.permutation(ids), 2)]


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.02, 0.3, 0.9, 1.0])
def test_forest_search_where_all_leaves_are_visited(share: float, level: str, oracle: SimpleNamespace) -> None:
    """With search_k above all that passes, walked or scored without a walk, the answer is the exhaustive one."""
    rng = np.random.default_rng(7)
    items = oracle.make_items(2000, 12)
    tree = forest_of(items, halves(rng, np.arange(2000)), level)
    queries = oracle.make_items(25, 12, seed=1).vectors
    allowed = rng.random(2000) < share
    rows = [oracle.search_among(items, "l2", query, 10, np.flatnonzero(allowed)) for query in queries]
    wanted = np.array([row for row, _ in rows]), np.array([row for _, row in rows])
    for kind, id_filter in kinds_of(allowed).items():
        assert_equal(both_ways(tree.search, queries, 10, 10**6, id_filter=id_filter), wanted, kind)


def test_forest_search_counts_what_passes(oracle: SimpleNamespace) -> None:
    """search_k 100 of 2000: one leaf of 1000 has 500 that pass, a tenth of them would not do without the filter."""
    rng = np.random.default_rng(8)
    items = oracle.make_items(2000, 12)
    leaves = halves(rng, np.arange(2000))
    tree = forest_of(items, leaves)
    allowed = rng.random(2000) < 0.5
    queries = oracle.make_items(25, 12, seed=1).vectors
    plain = tree.search(queries, 10, 100)
    assert_equal(both_ways(tree.search, queries, 10, 100, id_filter=np.ones(2000, bool)), plain, "all")
    assert_equal(both_ways(tree.search, queries, 10, 100, id_filter=lambda _: True), plain, "all")
    first = [set(leaves[leaf][allowed[leaves[leaf]]].tolist()) for leaf in range(6)]
    for kind, id_filter in kinds_of(allowed).items():
        _, ids = tree.search(queries, 10, 100, id_filter=id_filter)
        assert all(any(set(row) <= leaf for leaf in first) for row in ids.tolist()), kind
    sparse = np.zeros(2000, bool)
    sparse[leaves[0][:400]] = True  # too many to score them all without a walk, and in one leaf of each tree's two
    for id_filter in kinds_of(sparse).values():
        found = tree.search(queries, 10, 100, id_filter=id_filter)[1]
        assert (found >= 0).all()
        assert sparse[found].all()


def test_items_in_no_leaf_are_not_found(oracle: SimpleNamespace) -> None:
    """Annoy's gaps: ids that were never added have a code, but no place in a tree."""
    items = oracle.make_items(100, 6)
    tree = forest_of(items, halves(np.random.default_rng(0), np.arange(0, 100, 2)))
    found = tree.search(items.vectors, 5, 1000, id_filter=range(10))[1]
    assert (np.sort(found) == [0, 2, 4, 6, 8]).all()


def searches(oracle: SimpleNamespace) -> dict[str, Any]:
    items = oracle.make_items(60, 8)
    ids = [np.arange(0, 30), np.arange(30, 60)]
    ivf = _core.IvfSearcher([items.codes[:30], items.codes[30:]], ids, None, items.scale, items.offset, "l2")
    flat = _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, "l2")
    tree = forest_of(items, halves(np.random.default_rng(0), np.arange(60)))
    queries = items.vectors[:30]
    return {
        "flat": lambda **how: flat.search(queries, 3, **how),
        "ivf": lambda **how: ivf.search(queries, np.tile([0, 1], (30, 1)), 3, **how),
        "forest": lambda **how: tree.search(queries, 3, 1000, **how),
    }


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("name", ["flat", "ivf", "forest"])
def test_a_callable_may_raise(oracle: SimpleNamespace, name: str, num_threads: int) -> None:
    search = searches(oracle)[name]
    asked: list[int] = []

    def fails(item: int) -> bool:
        asked.append(item)
        if len(asked) > 5:
            raise KeyError(item)
        return True

    class Truthless:
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    with pytest.raises(KeyError):
        search(id_filter=fails, num_threads=num_threads)
    assert len(asked) == 6  # nobody is asked any more
    with pytest.raises(ZeroDivisionError):
        search(id_filter=lambda _: Truthless(), num_threads=num_threads)
    assert (search()[1] >= 0).all()


@pytest.mark.parametrize("name", ["flat", "forest"])
@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (np.ones(61, bool), ValueError, "`id_filter` must have length 60, the number of ids, got 61: make it"),
        (np.ones(59, bool), ValueError, "`id_filter` must have length 60, the number of ids, got 59"),
        (np.ones(7, np.uint8), ValueError, "`id_filter` must have length 8, an eighth of the number of ids, got 7"),
        (np.array([3, 60]), ValueError, "`id_filter` must hold ids from 0 to 59, got 60 at position 1"),
        (range(-1, 5), ValueError, "`id_filter` must be a range of ids, got start -1: ids begin with 0"),
    ],
)
def test_what_is_not_of_these_ids_is_refused(
    oracle: SimpleNamespace, name: str, wrong: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        searches(oracle)[name](id_filter=wrong)


@pytest.mark.parametrize("name", ["flat", "ivf", "forest"])
@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (range(0, 10, 2), ValueError, "range of step 1, got step 2: pass the ids"),
        (np.ones((6, 10), bool), ValueError, "`id_filter` must be a C-contiguous bool array of 1 dimension"),
        (np.ones(60, np.float32), TypeError, "`id_filter` must be None, .* got an array of float32"),
        ([1, 2], TypeError, "`id_filter` must be None, .* got list"),
    ],
)
def test_other_objects_are_refused(
    oracle: SimpleNamespace, name: str, wrong: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        searches(oracle)[name](id_filter=wrong)
