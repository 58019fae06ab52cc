import subprocess
import sys

import pytest

import mp_plugins
from knn_adapters import IndexAdapter, Quantizer, _core

BLOCKED = ("faiss", "hnswlib", "annoy", "torch", "matplotlib", "tqdm", "transformers")


def run_without_libraries(code):
    """Run ``code`` in a fresh interpreter in which the optional libraries cannot be imported."""
    blocking = f"import sys\nfor name in {BLOCKED}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys\n" + f"sys.path[:] = {sys.path!r}\n" + blocking + code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_works_with_numpy_alone(tmp_path):
    code = f"""
import numpy as np, knn_adapters
from knn_adapters import plugin
vectors = np.random.default_rng(0).standard_normal((200, 16))
quantizer = knn_adapters.Quantizer().train(vectors)
quantizer.save({str(tmp_path / "q.npz")!r})
assert knn_adapters.Quantizer.load({str(tmp_path / "q.npz")!r}).encode(vectors).shape == (200, 16)
print(knn_adapters.simd_level(), plugin._diagnostics())
"""
    assert _core.simd_level() in run_without_libraries(code)


@pytest.mark.parametrize("library", ["faiss", "hnswlib", "annoy"])
def test_a_missing_library_is_reported_with_the_extra_to_install(library):
    code = f"""
try:
    from knn_adapters import {library}
except ImportError as error:
    print(error)
"""
    assert f"pip install 'magic-pyramid[{library}]'" in run_without_libraries(code)


def test_importing_the_package_imports_none_of_the_libraries():
    code = f"""
import sys
sys.path[:] = {sys.path!r}
import knn_adapters.plugin
print([name for name in {BLOCKED} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_our_parts_come_in_by_the_public_door():
    adapters = mp_plugins.load_registry("index_adapters")
    assert {"annoy", "faiss", "hnswlib"} <= set(adapters)
    assert all(isinstance(adapter, IndexAdapter) for adapter in adapters.values())
    assert mp_plugins.load_registry("quantizers")["scalar"] is Quantizer
    assert mp_plugins.load_registry("demo_parts")["indexes"].requires == {"embeddings", "query_embeddings"}


def test_diagnostics_name_level_and_libraries():
    rows = mp_plugins.load_registry("diagnostics")["knn_adapters"]()
    assert rows["SIMD level"] in rows["SIMD levels of this machine"]
    assert {"faiss", "hnswlib", "annoy"} <= set(rows)


def test_diagnostics_name_the_extra_of_a_missing_library(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr("mp_plugins.diagnostics.version", missing)
    rows = mp_plugins.load_registry("diagnostics")["knn_adapters"]()
    assert "magic-pyramid[annoy]" in rows["annoy"]
