"""Products with prepacked weights against sums in double, at every level, at awkward sizes."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_integration import _linear

CSRC = Path(__file__).parents[2] / "csrc"
LEVELS = pytest.mark.parametrize("level_of_products", list(_linear.linear_levels()))
# Around tiles (6 and 14 rows), the rows that meet a panel (48), panels (8, 16 and 32) and the depth of a panel (768).
ROWS = st.sampled_from([0, 1, 2, 5, 6, 7, 13, 14, 15, 29, 48, 49, 95, 96, 97, 200])
OUTPUTS = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 70, 129])
INPUTS = st.sampled_from([1, 2, 3, 16, 63, 384, 767, 768, 769, 1537])


def draw(n, n_in, n_out, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (n, n_in), (n_out, n_in), (n_out,)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def pack(weight, level):
    columns = _linear.linear_levels()[level]
    panels = np.full((-(-len(weight) // columns), weight.shape[1], columns), np.nan, np.float32)
    _linear.pack_weight(weight, panels)
    return panels


def multiply(states, weight, bias, level, num_threads=1):
    # What nothing writes stays NaN.
    out = np.full((len(states), len(weight)), np.nan, np.float32)
    _linear.multiply(states, pack(weight, level), bias, out, num_threads)
    return out


def expect_product(received, states, weight, bias):
    exact = states.astype(np.float64) @ weight.T.astype(np.float64) + (0 if bias is None else bias)
    # Of a sum in order: each step rounds a partial sum, which is no larger than the sum of sizes.
    sizes = np.abs(states).astype(np.float64) @ np.abs(weight).T.astype(np.float64) + (0 if bias is None else abs(bias))
    assert (np.abs(received - exact) <= 2**-24 * np.sqrt(states.shape[1] + 1) * 4 * sizes).all()


@LEVELS
@given(n=ROWS, n_in=INPUTS, n_out=OUTPUTS, with_bias=st.booleans(), num_threads=st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_products(level_of_products, n, n_in, n_out, with_bias, num_threads):
    states, weight, bias = draw(n, n_in, n_out)
    bias = bias if with_bias else None
    expect_product(multiply(states, weight, bias, level_of_products, num_threads), states, weight, bias)


@LEVELS
@given(n_in=INPUTS, n_out=OUTPUTS)
@settings(max_examples=40, deadline=None)
def test_panels_hold_the_weight_and_zeros(level_of_products, n_in, n_out):
    weight = draw(1, n_in, n_out)[1]
    panels = pack(weight, level_of_products)
    in_rows = panels.transpose(0, 2, 1).reshape(-1, n_in)
    np.testing.assert_array_equal(in_rows[:n_out], weight)
    assert not in_rows[n_out:].any()
    unpacked = np.full_like(weight, np.nan)
    _linear.unpack_weight(panels, unpacked)
    np.testing.assert_array_equal(unpacked, weight)


@LEVELS
@pytest.mark.parametrize(("n_in", "n_out"), [(768, 96), (1537, 70), (5, 3)])
def test_a_row_does_not_depend_on_the_others_or_on_the_threads(level_of_products, n_in, n_out):
    states, weight, bias = draw(131, n_in, n_out)
    whole = multiply(states, weight, bias, level_of_products)
    for num_threads in (2, 3, 7):
        np.testing.assert_array_equal(multiply(states, weight, bias, level_of_products, num_threads), whole)
    for some in (slice(0, 1), slice(40, 47), slice(100, 131)):
        np.testing.assert_array_equal(multiply(states[some].copy(), weight, bias, level_of_products), whole[some])


@LEVELS
def test_what_is_not_a_number_stays_in_its_row_and_column(level_of_products):
    states, weight, bias = draw(9, 20, 35)
    states[3, 7], states[5, 2] = np.nan, np.inf
    weight[11, 4] = np.nan
    received = multiply(states, weight, bias, level_of_products)
    expected = np.isnan(states).any(1)[:, None] | np.isnan(weight).any(1)[None]
    np.testing.assert_array_equal(np.isnan(received), expected)
    assert np.isinf(np.delete(received[5], 11)).all()


def test_without_inputs_there_is_the_bias():
    states, weight, bias = draw(3, 0, 20)
    np.testing.assert_array_equal(multiply(states, weight, bias, "serial"), np.tile(bias, (3, 1)))


def test_bad_arguments_are_named():
    states, weight, bias = draw(4, 6, 10)
    panels, out = pack(weight, "serial"), np.empty((4, 10), np.float32)
    for arguments, message in (
        ((states[:, :5].copy(), panels, bias, out, 1), "`states` must have"),
        ((states.astype(np.float64), panels, bias, out, 1), "`states` must be"),
        ((states, panels, bias[:9].copy(), out, 1), "`bias` must have"),
        ((states, panels, bias, out[:3].copy(), 1), "`out` must have"),
        ((states, panels, bias, np.empty((4, 99), np.float32), 1), "`out` must have as many outputs as `panels`"),
        ((states, panels[:, :, :5].copy(), bias, out, 1), "`panels` must have as many columns as a level.*got 5"),
        ((states, panels, bias, out, 0), "`num_threads` must be"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            _linear.multiply(*arguments)
    for wrong, message in (
        (weight[:, :5].copy(), "`weight` must have"),
        (np.empty((99, 6), np.float32), "`weight` must have as many outputs as `panels`, up to 16, got 99"),
        (weight.astype(np.float64), "`weight` must be"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            _linear.pack_weight(wrong, panels)
        with pytest.raises((ValueError, TypeError), match=message):
            _linear.unpack_weight(panels, wrong)


def test_it_works_where_no_openmp_library_is_loaded():
    code = """
import numpy as np
from hf_integration import _linear
weight, states = np.ones((64, 512), np.float32), np.ones((128, 512), np.float32)
out, panels = np.empty((128, 64), np.float32), np.empty((8, 512, 8), np.float32)
_linear.pack_weight(weight, panels)
_linear.multiply(states, panels, None, out, 2)
assert (out == 512).all() and "gomp" not in open("/proc/self/maps").read()
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_avx512_on_other_machines(tmp_path):
    """Its source with the compiler's own splitting of wide registers: the same sums, in the same order."""
    if not shutil.which("gcc") or not CSRC.is_dir():
        pytest.skip("needs gcc and the sources")
    library = tmp_path / "linear.so"
    flags = ["-std=c11", "-O2", "-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{CSRC / 'include'}", "-Wno-psabi"]
    sources = [CSRC / name for name in ("linear.c", "memory.c", "openmp.c", "threads.c", "kernels/linear_serial.c")]
    if platform.machine().lower() in {"x86_64", "amd64"}:
        flags += ["-DMP_X86"]
        sources += [CSRC / "kernels/linear_avx2.c"]
    subprocess.run(
        ["gcc", *flags, *sources, CSRC / "kernels/linear_avx512.c", "-o", library, "-lpthread", "-ldl"], check=True
    )
    core = ctypes.CDLL(str(library))
    kernel = ctypes.addressof(ctypes.c_char.in_dll(core, "mp_linear_avx512"))
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    core.mp_linear_pack.argtypes = [pointer, size, size, size, pointer]
    core.mp_linear_multiply.argtypes = [
        pointer, pointer, size, size, pointer, size, pointer, pointer, ctypes.c_int
    ]  # fmt: skip
    for n, n_in, n_out in ((1, 5, 3), (14, 40, 64), (15, 769, 33), (97, 768, 70), (200, 1537, 129)):
        states, weight, bias = draw(n, n_in, n_out)
        panels, out = np.empty((-(-n_out // 32), n_in, 32), np.float32), np.full((n, n_out), np.nan, np.float32)
        core.mp_linear_pack(weight.ctypes.data, n_out, n_in, 32, panels.ctypes.data)
        core.mp_linear_multiply(
            kernel, states.ctypes.data, n, n_in, panels.ctypes.data, n_out, bias.ctypes.data, out.ctypes.data, 2
        )
        expect_product(out, states, weight, bias)
