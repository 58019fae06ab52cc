"""The runner of other libraries' tests: what it lets fail, and what it doesn't."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import hnswlib
import pytest

import knn_adapters.hnswlib

TESTS = """
import unittest
import hnswlib

class Case(unittest.TestCase):
    def test_good(self):
        open("left behind", "w").close()
        self.assertEqual(hnswlib.Index.__module__, "knn_adapters.hnswlib")

    def test_partly_bad(self):
        stored = 2
        self.assertEqual(stored, 1)
        self.later()

    def later(self):
        {later}

    def test_last(self):
        {last}
"""


@pytest.fixture
def runner() -> ModuleType:
    path = Path(__file__).with_name("runner.py")
    spec = importlib.util.spec_from_file_location("peers_runner", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["peers_runner"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(runner: ModuleType, folder: Path, expected: dict[str, str], later: str = "pass", last: str = "pass") -> int:
    (folder / "peer_checks.py").write_text(TESTS.format(later=later, last=last))
    failing = {f"peer_checks.Case.{name}": runner.Failing(word, "a reason") for name, word in expected.items()}
    with runner.standing_in("hnswlib"):
        code: int = runner.run(runner.fetched(folder, ["*_checks.py"]), failing)
    assert sys.modules["hnswlib"] is hnswlib
    assert not Path("left behind").exists()
    return code


@pytest.mark.parametrize(
    ("expected", "later", "last", "code", "says"),
    [
        ({"test_partly_bad": "stored"}, "pass", "pass", 0, "expected: peer_checks.Case.test_partly_bad: a reason"),
        ({}, "pass", "pass", 1, "WRONG: peer_checks.Case.test_partly_bad: failed"),
        ({"test_partly_bad": "other"}, "pass", "pass", 1, "WRONG: peer_checks.Case.test_partly_bad: failed"),
        ({"test_partly_bad": "stored"}, "self.fail()", "pass", 1, "test_partly_bad: failed"),
        ({"test_partly_bad": "stored"}, "1 // 0", "pass", 1, "test_partly_bad: raised an exception"),
        ({"test_partly_bad": "stored"}, "pass", "self.skipTest('so')", 1, "test_last: skipped (so)"),
        ({"test_partly_bad": "stored", "test_good": "stored"}, "pass", "pass", 1, "WRONG: peer_checks.Case.test_good"),
        ({"test_partly_bad": "stored", "test_gone": ""}, "pass", "pass", 1, "test_gone: there is no such test"),
    ],
)
def test_only_what_is_listed_may_fail(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], expected: dict[str, str], later: str,
    last: str, code: int, says: str,
) -> None:  # fmt: skip
    assert outcome(runner, tmp_path, expected, later, last) == code
    assert says in capsys.readouterr().out


def test_a_folder_without_tests_is_named(runner: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no test file matches"):
        runner.fetched(tmp_path, ["*_checks.py"])
    assert knn_adapters.hnswlib.Index is not hnswlib.Index
