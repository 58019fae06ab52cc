"""The arrows of the architecture: csrc -> binding -> knn_adapters -> mp_plugins <- hf_integration, and no other."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

OURS = {"mp_plugins", "hf_integration", "knn_adapters"}
ALLOWED = {
    "mp_plugins": {"mp_plugins", "pluggy"},
    "hf_integration": {"hf_integration", "mp_plugins"},
    "knn_adapters": {"knn_adapters", "mp_plugins"},
}
FORBIDDEN_LIBRARIES = {
    "hf_integration": {"faiss", "hnswlib", "annoy"},
    "knn_adapters": {"torch", "transformers"},
}


def imported_packages(source: str) -> set[str]:
    """Top-level names of every import statement, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def sources(package: str) -> Iterator[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no sources of {package} found"
    yield from files


@pytest.mark.parametrize("package", sorted(OURS))
def test_only_the_drawn_arrows_between_our_packages(package):
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in sources(package)
        if (bad := (imported_packages(path.read_text(encoding="utf-8")) & OURS) - ALLOWED[package])
    }
    assert not wrong


def test_mp_plugins_imports_pluggy_and_the_standard_library_only():
    allowed = ALLOWED["mp_plugins"] | sys.stdlib_module_names
    wrong = {
        path.name: sorted(bad)
        for path in sources("mp_plugins")
        if (bad := imported_packages(path.read_text(encoding="utf-8")) - allowed)
    }
    assert not wrong


@pytest.mark.parametrize(("package", "libraries"), FORBIDDEN_LIBRARIES.items())
def test_neither_half_imports_the_libraries_of_the_other(package, libraries):
    wrong = {
        path.name: sorted(bad)
        for path in sources(package)
        if (bad := imported_packages(path.read_text(encoding="utf-8")) & libraries)
    }
    assert not wrong


def test_only_the_binding_knows_python():
    wrong = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "csrc").rglob("*.[ch]"))
        if "binding" not in path.parts and re.search(r"#\s*include\s*[<\"](Python\.h|nanobind)", path.read_text())
    ]
    assert not wrong


def test_the_check_sees_a_forbidden_import():
    source = "def late():\n    import hf_integration.modeling\n    from torch.nn import Linear\n"
    assert imported_packages(source) == {"hf_integration", "torch"}
