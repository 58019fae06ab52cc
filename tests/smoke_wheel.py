"""Smoke test of the built wheel, in an environment that holds nothing but it, numpy and pluggy.

Run as a script. Each step says which packaging failure it catches.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.resources import files

import numpy as np


def catches_a_missing_or_unloadable_extension() -> None:
    """Catch: `_core` or `_linear` left out of the wheel, or linked against a library that is not there."""
    import knn_adapters

    core = importlib.import_module("knn_adapters._core")
    codes = np.arange(200, dtype=np.uint8).reshape(2, 100)
    query = np.arange(-50, 50, dtype=np.int8)
    expected = codes.astype(np.int32) @ query.astype(np.int32)
    np.testing.assert_array_equal(core.dot_u8s8(codes, query), expected)
    linear = importlib.import_module("hf_integration._linear")
    level, columns = list(linear.linear_levels().items())[-1]
    states, out = np.ones((3, 8), np.float32), np.empty((3, 5), np.float32)
    panels = np.empty((1, 8, columns), np.float32)
    linear.pack_weight(np.full((5, 8), 2, np.float32), panels)
    linear.multiply(states, panels, None, out, 1)
    np.testing.assert_array_equal(out, np.full((3, 5), 16))
    print("core works at level", knn_adapters.simd_level(), "and products at", level)


def catches_an_illegal_instruction_in_the_base_build() -> None:
    """Catch: code above the base instruction set in the common objects, which the serial level must not need."""
    code = "import knn_adapters; print(knn_adapters.simd_level())"
    result = subprocess.run(
        [sys.executable, "-c", code], env={"MP_SIMD_LEVEL": "serial"}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "serial", result.stdout


def catches_a_hard_dependency_on_an_optional_library() -> None:
    """Catch: an import at module level of a library that belongs to an extra."""
    for module in ("torch", "transformers", "faiss", "hnswlib", "annoy", "matplotlib", "tqdm"):
        assert importlib.util.find_spec(module) is None, f"{module} must not be installed for this test"
    for name, extra in (("hnswlib", "hnswlib"), ("faiss", "faiss"), ("annoy", "annoy")):
        try:
            importlib.import_module(f"knn_adapters.{name}")
        except ImportError as error:
            assert f"magic-pyramid[{extra}]" in str(error), error
        else:
            raise AssertionError(f"knn_adapters.{name} must need its library")
    hf_integration = importlib.import_module("hf_integration")
    try:
        hf_integration.register()
    except ImportError as error:
        assert "magic-pyramid[hf]" in str(error), error
    else:
        raise AssertionError("hf_integration.register must need transformers")


def catches_missing_metadata() -> None:
    """Catch: entry points, typing markers or stubs left out of the wheel."""
    names = {entry_point.name for entry_point in entry_points(group="magic_pyramid")}
    assert {"mp_plugins", "hf_integration", "knn_adapters"} <= names, names
    for package in ("mp_plugins", "hf_integration", "knn_adapters"):
        assert files(package).joinpath("py.typed").is_file(), package
    assert files("knn_adapters").joinpath("_core.pyi").is_file()
    assert files("hf_integration").joinpath("_linear.pyi").is_file()


def catches_a_command_that_needs_extras_to_start() -> None:
    """Catch: `magic-pyramid` failing to start, or `doctor` failing just where it is needed."""
    from mp_plugins.cli import main

    assert main(["doctor"]) == 0


if __name__ == "__main__":
    for step in (
        catches_a_missing_or_unloadable_extension,
        catches_an_illegal_instruction_in_the_base_build,
        catches_a_hard_dependency_on_an_optional_library,
        catches_missing_metadata,
        catches_a_command_that_needs_extras_to_start,
    ):
        step()
        print("passed:", step.__name__.replace("_", " "))
