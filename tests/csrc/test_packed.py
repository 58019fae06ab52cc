"""Packed 4-bit codes: exact at every level and dimension, and the same searches as over the same codes in bytes."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes 0..15 as bytes; FAISS' order: the even dimension in the low half."""
    padded = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return np.ascontiguousarray(padded[:, ::2] | padded[:, 1::2] << 4)


def make_items(n: int, dim: int, seed: int = 0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32) * rng.uniform(0.2, 2, dim).astype(np.float32)
    low, high = vectors.min(0), vectors.max(0)
    scale = ((high - low) / 15).astype(np.float32)
    steps = np.clip(np.rint((vectors - low) / np.where(scale > 0, scale, 1)), 0, 15)
    codes = np.where(scale > 0, steps, 0).astype(np.uint8)
    norms = _core.squared_norms(codes, scale, low)
    return SimpleNamespace(vectors=vectors, codes=codes, packed=pack(codes), norms=norms, scale=scale, offset=low)


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("n", [1, 3, 4, 9, 35])
def test_dot_equals_numpy(dim: int, level: str, n: int, run: bool) -> None:
    rng = np.random.default_rng(dim)
    codes = rng.integers(0, 16, (n, dim), dtype=np.uint8)
    query = rng.integers(-128, 128, dim, dtype=np.int8)
    wanted = codes.astype(np.int64) @ query.astype(np.int64)
    np.testing.assert_array_equal(_core.dot_u4s8(pack(codes), query, level=level, run=run), wanted)


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("value", [-128, 127])
def test_dot_does_not_saturate(dim: int, level: str, value: int, run: bool) -> None:
    """The unused half of an odd dimension's last byte is 15 here too, and counts for nothing."""
    codes = np.full((21, (dim + 1) // 2), 255, np.uint8)
    dots = _core.dot_u4s8(codes, np.full(dim, value, np.int8), level=level, run=run)
    np.testing.assert_array_equal(dots, np.full(21, 15 * value * dim))


@pytest.mark.parametrize("run", [False, True])
def test_the_largest_dimension(level: str, run: bool) -> None:
    codes = np.full((21, 32768), 255, np.uint8)
    dots = _core.dot_u4s8(codes, np.full(65536, -128, np.int8), level=level, run=run)
    np.testing.assert_array_equal(dots, np.full(21, -15 * 128 * 65536))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 300), n=st.integers(0, 40))
def test_levels_agree(seed: int, dim: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (n, dim), dtype=np.uint8)
    query = rng.integers(-128, 128, dim, dtype=np.int8)
    for level in _core.simd_levels():
        for run in (False, True):
            dots = _core.dot_u4s8(pack(codes), query, level=level, run=run)
            np.testing.assert_array_equal(dots, codes.astype(np.int64) @ query.astype(np.int64))


def test_encode_decode_and_norms(dim: int) -> None:
    items = make_items(23, dim, seed=dim)
    packed = _core.encode(items.vectors, items.scale, items.offset, bits=4)
    np.testing.assert_array_equal(packed, items.packed)
    decoded = _core.decode(packed, items.scale, items.offset, bits=4)
    np.testing.assert_array_equal(decoded, _core.decode(items.codes, items.scale, items.offset))
    np.testing.assert_array_equal(_core.squared_norms(packed, items.scale, items.offset, bits=4), items.norms)


def test_encode_clamps_and_rounds_ties_to_even() -> None:
    vectors = np.array([[0.5, 1.5, 7, 1e30, -1e30]], np.float32)
    scale = np.array([1, 1, 0, 1, 1], np.float32)
    packed = _core.encode(vectors, scale, np.zeros(5, np.float32), bits=4)
    assert packed.tolist() == [[0 | 2 << 4, 0 | 15 << 4, 0]]


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_flat_search_equals_the_oracle(dim: int, metric: str, oracle: SimpleNamespace) -> None:
    items = make_items(333, dim, seed=dim)
    queries = make_items(21, dim, seed=dim + 1).vectors
    wanted = [oracle.search_among(items, metric, query, 10, np.arange(333)) for query in queries]
    for level in _core.simd_levels():
        flat = _core.FlatSearcher(items.packed, items.norms, items.scale, items.offset, metric, bits=4, level=level)
        single = [flat.search(query[None], 10) for query in queries]
        for distances, ids in (flat.search(queries, 10), tuple(np.concatenate(p) for p in zip(*single, strict=True))):
            np.testing.assert_array_equal(ids, [row for _, row in wanted])
            np.testing.assert_array_equal(distances, [row for row, _ in wanted])


def graph_arrays(vectors: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """hnswlib's graph as it packs it, and its level 0 as FAISS would link it."""
    index = hnswlib.Index("l2", vectors.shape[1])
    index.init_index(len(vectors), M=8, ef_construction=60, random_seed=1)
    index.add_items(vectors, num_threads=1)
    state = index.__getstate__()[0]
    rows = state["data_level0"].view(np.uint8).reshape(len(vectors), -1)
    level0 = rows[:, : 4 * (1 + state["max_M0"])].copy().view(np.uint32)
    packed = {
        "level0": level0,
        "element_levels": np.ascontiguousarray(state["element_levels"][: len(vectors)]),
        "link_lists": np.frombuffer(state["link_lists"].tobytes(), np.uint32).copy(),
        "max_m": state["max_M"],
        "entry_point": state["enterpoint_node"],
        "max_level": state["max_level"],
    }
    width = state["max_M0"]
    used = np.arange(width) < (level0[:, :1] & 0xFFFF)
    linked = {
        "offsets": np.arange(len(vectors) + 1, dtype=np.uint64) * width,
        "neighbors": np.where(used, level0[:, 1:].astype(np.int32), -1).ravel(),
        "cum_neighbors": np.array([0, width], np.int32),
        "entry_point": 0,
        "max_level": 0,
    }
    return packed, linked


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("width", [7, 64, 101])
def test_graph_search_equals_that_over_bytes(metric: str, width: int, oracle: SimpleNamespace) -> None:
    items = make_items(700, width)
    queries = make_items(30, width, seed=1).vectors
    norms = items.norms if metric == "l2" else None
    how = {"scale": items.scale, "offset": items.offset, "metric": metric}
    filled, linked = graph_arrays(items.vectors)

    def make(codes: np.ndarray, **options: Any) -> tuple[Any, Any]:
        return (
            oracle.filled(codes, **filled, **how, **options),
            _core.LinkedGraphSearcher(codes, norms, **linked, **how, **options),
        )

    wanted = [graph.search(queries, 10, 40) for graph in make(items.codes)]
    for level in _core.simd_levels():
        graphs = make(items.packed, bits=4, level=level)
        for graph, answer in zip(graphs, wanted, strict=True):
            for got, expected in zip(graph.search(queries, 10, 40), answer, strict=True):
                np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(graphs[0].codes(np.array([5, 0])), items.packed[[5, 0]])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_forest_search_equals_that_over_bytes(dim: int, metric: str) -> None:
    """One plane, two leaves: planes have bytes for codes whatever the items have."""
    items = make_items(60, dim)
    norms = items.norms if metric == "l2" else None
    rng = np.random.default_rng(3)
    forest = {
        "plane_codes": rng.integers(0, 256, (1, dim), dtype=np.uint8),
        "plane_scale": np.ones(1, np.float32),
        "plane_bias": np.zeros(1, np.float32),
        "children": np.array([[-1, -2]], np.int32),
        "leaf_offsets": np.array([0, 30, 60], np.uint32),
        "leaf_items": rng.permutation(60).astype(np.int32),
        "roots": np.array([0], np.int32),
    }
    queries = make_items(11, dim, seed=1).vectors
    how = {"scale": items.scale, "offset": items.offset, "metric": metric, **forest}
    wanted = _core.ForestSearcher(items.codes, norms, **how).search(queries, 5, 20)
    for level in _core.simd_levels():
        forest_searcher = _core.ForestSearcher(items.packed, norms, **how, bits=4, level=level)
        for got, expected in zip(forest_searcher.search(queries, 5, 20), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s, o: _core.FlatSearcher(np.ones((2, 4), np.uint8), None, s, o, "ip", bits=3), "`bits` must be 8 or 4"),
        (lambda s, o: _core.FlatSearcher(np.ones((2, 4), np.uint8), None, s, o, "ip", bits=4), "must have 3 columns"),
        (lambda s, o: _core.decode(np.ones((2, 2), np.uint8), s, o, bits=4), "must have 3 columns, half of the dim"),
        (lambda s, o: _core.encode(np.ones((2, 5), np.float32), s, o, bits=16), "`bits` must be 8 or 4, got 16"),
        (lambda s, o: _core.dot_u4s8(np.ones((2, 5), np.uint8), np.ones(5, np.int8)), "a column for two dimensions"),
    ],
)
def test_widths_that_do_not_fit_are_refused(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(np.ones(5, np.float32), np.zeros(5, np.float32))


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from knn_adapters import _core

level, page, libc = sys.argv[1], mmap.PAGESIZE, ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

for dim in (*range(1, 140), 255, 256, 257, 385):
    for n in (1, 3, 4, 33):
        plain = np.random.default_rng(dim).integers(0, 256, (n, (dim + 1) // 2), dtype=np.uint8)
        room = -(-plain.nbytes // page) * page
        base = np.frombuffer(mmap.mmap(-1, room + page), np.uint8)
        assert libc.mprotect(base.ctypes.data + room, page, 0) == 0
        codes = base[room - plain.nbytes : room].reshape(plain.shape)
        codes[...] = plain
        query = np.ones(dim, np.int8)
        for run in (False, True):
            dots = _core.dot_u4s8(codes, query, level=level, run=run)
            assert (dots == _core.dot_u4s8(plain, query, level="serial")).all()
        flat = _core.FlatSearcher(codes, None, np.ones(dim, "f4"), np.zeros(dim, "f4"), "ip", bits=4, level=level)
        for rows in (13, 1):
            flat.search(np.ones((rows, dim), np.float32), 3)
"""


def test_no_byte_behind_the_last_code_is_read(level: str) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs mprotect through ctypes")
    command = [sys.executable, "-I", "-c", GUARDED, level]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"
