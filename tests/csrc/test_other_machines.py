"""Kernels of machines that this one is not: compiled, and run by an emulator or looked at in disassembly."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from knn_adapters import _core

DRIVER = Path(__file__).with_name("kernels_driver.c")
CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-D_GNU_SOURCE", f"-I{CSRC / 'include'}"]
FLAGS += ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
ARM_FLAGS = {"neondot": "-march=armv8.2-a+dotprod", "neoni8mm": "-march=armv8.2-a+dotprod+i8mm"}

# The EVEX form of the instruction computes the same; with it the kernels run on machines with AVX-512 VNNI.
AS_EVEX = "#include <immintrin.h>\n#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32\n"


def need(*tools: str) -> None:
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing or not CSRC.is_dir():
        pytest.skip(f"needs {', '.join(missing) or 'the sources'}")


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def arm_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("aarch64-linux-gnu-gcc", "qemu-aarch64")
    folder = tmp_path_factory.mktemp("arm")
    objects = []
    for level in ("serial", *ARM_FLAGS):
        for source in sorted((CSRC / "kernels").glob(f"{level}*.c")):
            objects.append(folder / f"{source.stem}.o")
            flags = ARM_FLAGS.get(level, "-march=armv8-a")
            run("aarch64-linux-gnu-gcc", *FLAGS, flags, "-DMP_ARM64", "-c", source, "-o", objects[-1])
    program = folder / "driver"
    run(
        "aarch64-linux-gnu-gcc", *FLAGS, "-DMP_ARM64", "-static", DRIVER, CSRC / "simd.c", *objects, "-o", program
    )  # fmt: skip
    return program


@pytest.mark.parametrize(
    ("cpu", "levels"),
    [
        ("cortex-a53", ["serial"]),
        ("neoverse-n1", ["serial", "neondot"]),
        ("max", ["serial", "neondot", "neoni8mm"]),
    ],
)
def test_arm_levels_equal_serial(arm_driver: Path, cpu: str, levels: list[str]) -> None:
    """Each processor gets the levels that it has, and all of them agree with serial."""
    assert run("qemu-aarch64", "-cpu", cpu, arm_driver).split() == levels


def driver(folder: Path, level: str, sources: dict[str, list[str | Path]]) -> Path:
    """Build the driver for one level, whatever this machine is, from kernels with their flags."""
    flags = [*FLAGS, "-DMP_X86", "-DMP_AVXVNNI", "-DMP_AMX", f"-DMP_DRIVER_LEVEL=mp_kernels_{level}"]
    objects = []
    for pattern, own in sources.items():
        for source in sorted((CSRC / "kernels").glob(pattern)):
            objects.append(folder / f"{source.stem}.o")
            run("gcc", *flags, *own, "-c", source, "-o", objects[-1])
    program = folder / "driver"
    run("gcc", *flags, DRIVER, *objects, "-o", program)
    return program


def need_avx512vnni() -> None:
    if "avx512vnni" not in _core.simd_levels():
        pytest.skip("needs a machine with AVX-512 VNNI")
    need("gcc")


def test_avxvnni_equals_serial(tmp_path: Path) -> None:
    need_avx512vnni()  # its instructions stand in
    (tmp_path / "evex.h").write_text(AS_EVEX)
    evex = ["-mavx2", "-mavx512vl", "-mavx512vnni", "-include", tmp_path / "evex.h"]
    program = driver(tmp_path, "avxvnni", {"serial.c": [], "avx2*.c": ["-mavx2"], "avxvnni*.c": evex})
    assert run(program).split() == ["avxvnni"]


def test_amx_equals_serial(tmp_path: Path) -> None:
    need_avx512vnni()  # for what the level takes from there
    avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"]
    emulated = ["-include", DRIVER.with_name("amx_emulation.h")]
    program = driver(tmp_path, "amx", {"serial.c": [], "avx512vnni*.c": avx512, "amx.c": emulated})
    assert run(program).split() == ["amx"]


def test_amx_is_compiled_to_tile_instructions(tmp_path: Path) -> None:
    """The emulation shows what is computed; this, that the real instructions are there and in the kernel's section."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        pytest.skip("needs an x86 compiler")
    need("gcc", "objdump")
    compiled = tmp_path / "amx.o"
    flags = [*FLAGS, "-DMP_X86", "-DMP_AMX", "-mamx-tile", "-mamx-int8"]
    run("gcc", *flags, "-c", CSRC / "kernels" / "amx.c", "-o", compiled)
    listing = run("objdump", "--disassemble", "--no-show-raw-insn", "--section=mp_text_amx", compiled)
    found = re.findall(r"\b(ldtilecfg|tileloadd|tdpbusd|tilestored|tilerelease)\b", listing)
    assert set(found) == {"ldtilecfg", "tileloadd", "tdpbusd", "tilestored", "tilerelease"}
    assert found.index("ldtilecfg") < found.index("tileloadd")
    assert set(re.findall(r"%tmm(\d)", listing)) == set("012345")
    assert not re.search(r"%[yz]mm|%k[1-7]", listing)


def test_avxvnni_is_vex_encoded(tmp_path: Path) -> None:
    """It is for machines without AVX-512: EVEX encodings, zmm registers and masks would be illegal there."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        pytest.skip("needs an x86 compiler")
    need("gcc", "objdump")
    for source in sorted((CSRC / "kernels").glob("avxvnni*.c")):
        compiled = tmp_path / f"{source.stem}.o"
        run("gcc", *FLAGS, "-DMP_X86", "-DMP_AVXVNNI", "-mavx2", "-mavxvnni", "-c", source, "-o", compiled)
        listing = run("objdump", "--disassemble", compiled)
        products = re.findall(r"^\s*[0-9a-f]+:\t((?:[0-9a-f]{2} )+)[ \t].*vpdpbusd", listing, re.MULTILINE)
        assert len(products) >= 8
        assert all(encoding.startswith("c4") for encoding in products)  # 62 would be EVEX
        assert not re.search(r"%zmm|%k[0-7]|%[xy]mm(?:1[6-9]|2\d|3[01])\b", listing)
