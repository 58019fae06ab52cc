"""The runner of Annoy's own tests: what it runs them with, and what it makes of their outcome."""

import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("annoy_tests.py")
PASSES = """
from annoy import AnnoyIndex

def test_it_is_the_stand_in():
    assert AnnoyIndex.__module__ == "knn_adapters.annoy"
    assert open("test/data").read() == "there"
    open("written", "w").close()
"""
FAILS = "\ndef test_large_index():\n    assert 1 + 1 == 3\n"


@pytest.mark.parametrize(
    ("name", "content", "words", "code", "says"),
    [
        ("some_test.py", PASSES, [], 0, "1 passed"),
        ("some_test.py", PASSES + FAILS, [], 1, "FAILS: some_test.py::test_large_index: E   assert (1 + 1) == 3"),
        ("some_test.py", PASSES + FAILS, ["stand_in"], 0, "1 passed"),
        ("euclidean_index_test.py", PASSES + FAILS, [], 0, "fails as expected: euclidean_index_test.py::test_large_in"),
        ("euclidean_index_test.py", PASSES + FAILS, ["--rescore", "original"], 1, "FAILS: euclidean_index_test.py::te"),
        ("accuracy_test.py", PASSES, [], 1, "left out: accuracy_test.py: downloads data sets"),
        ("accuracy_test.py", PASSES, ["--all"], 0, "1 passed"),
        ("some_test.py", "import nothing_of_this_name", [], 1, "FAILS: some_test.py: E   ModuleNotFoundError"),
    ],
)
def test_outcomes(tmp_path, name, content, words, code, says):
    for folder in ("test", "examples"):
        (tmp_path / folder).mkdir()
    (tmp_path / "test" / name).write_text(content)
    (tmp_path / "test" / "data").write_text("there")
    command = [sys.executable, str(RUNNER), str(tmp_path), *words]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == code, run.stdout + run.stderr
    assert says in run.stdout
    assert not (tmp_path / "written").exists()


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    run = subprocess.run([sys.executable, str(RUNNER), str(tmp_path)], check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert "has no folder `test`: pass a checkout of Annoy" in run.stderr
