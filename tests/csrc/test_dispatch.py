"""Levels are chosen once, can be overridden, and nothing outside the kernels needs more than the base ABI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_integration import _linear
from knn_adapters import _core

LEVELS = ("serial", "avx2", "avxvnni", "avx512vnni", "amx", "neondot", "neoni8mm")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_levels_are_known_and_start_with_serial() -> None:
    levels = _core.simd_levels()
    assert levels[0] == "serial"
    assert levels == [level for level in LEVELS if level in levels]


def test_the_best_level_is_the_default() -> None:
    done = run("from knn_adapters import _core; print(_core.simd_level())", MP_SIMD_LEVEL="")
    assert done.stdout.split() == _core.simd_levels()[-1:], done.stderr


def test_environment_overrides_the_level(level: str) -> None:
    done = run("from knn_adapters import _core; print(_core.simd_level())", MP_SIMD_LEVEL=level)
    assert done.stdout.split() == [level], done.stderr


@pytest.mark.parametrize("wrong", ["sse9", "AVX2", "auto "])
def test_a_wrong_level_in_the_environment_is_an_error(wrong: str) -> None:
    done = run("from knn_adapters import _core; _core.simd_level()", MP_SIMD_LEVEL=wrong)
    assert done.returncode == 1
    assert f"`MP_SIMD_LEVEL` must be one of {', '.join(_core.simd_levels())}" in done.stderr
    assert f'got "{wrong}"' in done.stderr


def test_features_are_those_that_linux_reports() -> None:
    """Catches a missing check of what the operating system enables: /proc/cpuinfo lists a feature only if it does."""
    info = Path("/proc/cpuinfo")
    if not info.exists() or " avx " not in f"{info.read_text()} ":
        pytest.skip("needs /proc/cpuinfo of an x86 machine with AVX")
    flags = set(re.search(r"^flags\s*:(.*)$", info.read_text(), re.MULTILINE).group(1).split())
    assert ("avx2" in _core.simd_levels()) == ("avx2" in flags)
    assert ("avxvnni" in _core.simd_levels()) == ("avx_vnni" in flags)
    needed = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
    assert ("avx512vnni" in _core.simd_levels()) == (needed <= flags)
    assert ("amx" in _core.simd_levels()) == (needed | {"amx_tile", "amx_int8"} <= flags)


# Everything VEX or EVEX encoded begins with v (base x86-64 has only verr and verw there); AMX; then what SSE3, SSSE3,
# SSE4 and the bit manipulation sets add. tzcnt is missing on purpose: it is how objdump shows the base ABI's `rep bsf`.
ABOVE_BASE = re.compile(
    r"\s(v(?!err|erw)[a-z0-9]+|ldtilecfg|tile\w+|tdp\w+|%[tyz]mm\d+|%k[0-7]|p?haddp?[a-z]*|pshufb|pmaddubsw|pabs[bwd]|palignr|pmul(?:ld|dq|hrsw)"
    r"|ptest|round[sp][sd]|pmov[sz]x\w+|pinsr[bdq]|pextr[bdq]|p(?:min|max)(?:sb|sd|uw|ud)|pblend\w+|blendv?p[sd]"
    r"|pcmpeqq|pcmpgtq|crc32\w*|popcnt\w*|lzcnt\w*|andn|bextr|bls\w+|mulx|pdep|pext|rorx|sarx|shlx|shrx|movbe\w*)\b"
)


def sections(module: str) -> dict[str, list[str]]:
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", module], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, list[str]] = {}
    for part in listing.split("Disassembly of section ")[1:]:
        name, _, body = part.partition(":\n")
        # "  401000:	mov %rax,%rbx  # comment <symbol>": the instruction alone
        instructions = [line.partition("\t")[2] for line in body.splitlines() if "\t" in line]
        found[name] = [re.sub(r"<.*|#.*", "", line) for line in instructions]
    return found


@pytest.mark.parametrize("module", [_core, _linear], ids=lambda module: module.__name__)
def test_only_kernels_need_more_than_the_base_abi(module) -> None:
    """Catches a flag or an inline function that leaks out of a kernel's file: it would crash older machines."""
    if not shutil.which("objdump"):
        pytest.skip("needs objdump")
    if len(_core.simd_levels()) == 1:
        pytest.skip("no kernel above the base ABI runs here")
    code = sections(module.__file__)
    kernels = {name: lines for name, lines in code.items() if name.startswith("mp_text_")}
    late = {"mp_text_avxvnni", "mp_text_amx"}  # old compilers lack them
    of_codes, of_products = {"mp_text_avx2", "mp_text_avx512vnni"}, {"mp_text_linear_avx2", "mp_text_linear_avx512"}
    assert set(kernels) - late == (of_products if module is _linear else of_codes)
    for name, lines in kernels.items():  # the pattern does see such instructions
        assert any(ABOVE_BASE.search(f" {line}") for line in lines), name
    for name in kernels.keys() - {"mp_text_avx512vnni", "mp_text_linear_avx512"}:
        assert not any(re.search(r"%zmm|%k[1-7]", line) for line in kernels[name]), name
    rest = [line for name, lines in code.items() if name not in kernels for line in lines]
    assert len(rest) > 10_000
    assert [line for line in rest if ABOVE_BASE.search(f" {line}")] == []
