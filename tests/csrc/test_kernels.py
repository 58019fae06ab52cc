"""The integer products are exact at every level, and no kernel reads behind a code."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import _core


def expected(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    return codes.astype(np.int64) @ query.astype(np.int64)


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("n", [1, 3, 4, 9, 35])  # one code at a time, four, sixteen, and what is left over
def test_dot_equals_numpy(dim: int, level: str, n: int, run: bool) -> None:
    rng = np.random.default_rng(dim)
    codes = rng.integers(0, 256, (n, dim), dtype=np.uint8)
    query = rng.integers(-128, 128, dim, dtype=np.int8)
    dots = _core.dot_u8s8(codes, query, level=level, run=run)
    assert dots.dtype == np.int32
    np.testing.assert_array_equal(dots, expected(codes, query))


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("value", [-128, 127])
def test_dot_does_not_saturate(dim: int, level: str, value: int, run: bool) -> None:
    """Catches maddubs: two products of 255 * 127 don't fit 16 bits."""
    codes = np.full((21, dim), 255, np.uint8)
    query = np.full(dim, value, np.int8)
    np.testing.assert_array_equal(_core.dot_u8s8(codes, query, level=level, run=run), expected(codes, query))


@pytest.mark.parametrize("run", [False, True])
def test_dot_fits_32_bits_at_the_largest_dimension(level: str, run: bool) -> None:
    codes = np.full((21, 65536), 255, np.uint8)
    query = np.full(65536, -128, np.int8)
    np.testing.assert_array_equal(_core.dot_u8s8(codes, query, level=level, run=run), expected(codes, query))


@settings(deadline=None)
@given(data=st.data(), dim=st.integers(1, 130), n=st.integers(0, 40))
def test_levels_agree(data: st.DataObject, dim: int, n: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(0, 256, (n, dim), dtype=np.uint8)
    query = rng.integers(-128, 128, dim, dtype=np.int8)
    for level in _core.simd_levels():
        for run in (False, True):
            np.testing.assert_array_equal(_core.dot_u8s8(codes, query, level=level, run=run), expected(codes, query))


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from knn_adapters import _core

level, dims = sys.argv[1], [int(dim) for dim in sys.argv[2:]]
page = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def at_the_end_of_a_page(array):
    room = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, room + page)
    base = np.frombuffer(memory, np.uint8)
    assert libc.mprotect(base.ctypes.data + room, page, 0) == 0
    placed = base[room - array.nbytes : room].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed

rng = np.random.default_rng(0)
for dim in dims:
    for n in (1, 2, 3, 4, 7, 33):
        plain = rng.integers(0, 256, (n, dim), dtype=np.uint8)
        codes = at_the_end_of_a_page(plain)
        query = rng.integers(-128, 128, dim, dtype=np.int8)
        for run in (False, True):
            dots = _core.dot_u8s8(codes, query, level=level, run=run)
            assert (dots == plain.astype(int) @ query.astype(int)).all()
        ones, zeros = np.ones(dim, np.float32), np.zeros(dim, np.float32)
        queries = rng.standard_normal((13, dim)).astype(np.float32)
        flat = _core.FlatSearcher(codes, None, ones, zeros, "ip", level=level)
        again = _core.FlatSearcher(plain, None, ones, zeros, "ip", level=level)
        for rows in (queries, queries[:1]):
            for got, wanted in zip(flat.search(rows, 3), again.search(rows, 3)):
                assert (got == wanted).all()
        ring = at_the_end_of_a_page(((np.arange(n) + 1) % n).astype(np.int32))
        offsets, cum = np.arange(n + 1, dtype=np.uint64), np.array([0, 1], np.int32)
        linked = _core.LinkedGraphSearcher(codes, None, offsets, ring, cum, 0, 0, ones, zeros, "ip", level=level)
        linked.search(queries, 3, 50)
"""


def test_no_byte_behind_the_last_code_is_read(level: str) -> None:
    """A read behind the codes is a crash here, and in production when FAISS' memory ends with a mapping."""
    pytest.importorskip("mmap")
    if not sys.platform.startswith("linux"):
        pytest.skip("needs mprotect through ctypes")
    dims = [*range(1, 70), 100, 127, 128, 129, 384]
    command = [sys.executable, "-I", "-c", GUARDED, level, *map(str, dims)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"
