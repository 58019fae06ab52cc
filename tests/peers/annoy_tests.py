"""Runs Annoy's own Python tests with ``knn_adapters.annoy`` in place of ``annoy``.

    git clone https://github.com/spotify/annoy
    python tests/peers/annoy_tests.py annoy                       # all but checks of stored values, see EXPECTED
    python tests/peers/annoy_tests.py annoy --rescore original    # all pass

Needs the `test` extra. Nothing is written to the checkout: the tests run in a directory of their own, where the
relative paths that they use lead back to it. The exit code is 0 if every test passes but those that ``EXPECTED``
explains.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import pytest

import knn_adapters
import knn_adapters.annoy

_TWINS = "tells apart items whose coordinates differ by 0.01 in a range of 8, where a step of the codes is 0.03"
_RANKS = "wants items in order that differ by 1 in a range of 20 000, where a step of the codes is 80"

EXPECTED: dict[str, dict[str, str]] = {
    "none": {
        "angular_index_test.py::test_large_index": _TWINS,
        "euclidean_index_test.py::test_large_index": _TWINS,
        "euclidean_index_test.py::test_precision_10": _RANKS,
        "euclidean_index_test.py::test_precision_100": _RANKS,
        "euclidean_index_test.py::test_precision_1000": _RANKS,
    },
    "original": {},
}
"""What fails, by mode, file and test, and why it should: exact values of vectors that are kept as 8-bit codes."""

LEFT_OUT = {
    "accuracy_test.py": "downloads data sets, and needs h5py",
    "examples_test.py": "its functions are no tests for pytest",
    "memory_leak_test.py::test_get_item_vector": "100 million calls",
    "memory_leak_test.py::test_include_distances": "10 million searches",
}
"""What is not run without ``--all``."""


class Results:
    """Collects outcomes: a pytest plug-in."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test, or of what goes before and after it."""
        name = report.nodeid.removeprefix("test/")
        if report.failed:
            self.failed[name] = _first_error(report)
        elif report.when == "call" and report.passed:
            self.passed.append(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            self.failed[report.nodeid.removeprefix("test/")] = _first_error(report)


def _first_error(report: pytest.TestReport | pytest.CollectReport) -> str:
    lines = str(report.longrepr).splitlines()
    return next((line for line in lines if line.startswith("E ")), lines[-1] if lines else "no reason given")


def run(checkout: Path, words: list[str], run_all: bool) -> Results:
    """Run the tests of ``checkout`` whose names hold one of ``words``, all for none."""
    results = Results()
    sys.modules["annoy"] = knn_adapters.annoy
    with tempfile.TemporaryDirectory(prefix="annoy-tests-") as directory:
        for name in ("test", "examples"):
            (Path(directory) / name).symlink_to(checkout / name)
        (Path(directory) / "pytest.ini").write_text("[pytest]\npython_files = *_test.py\n")
        os.chdir(directory)
        options = [
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            "--tb=short",
            "--disable-warnings",
        ]
        if words:
            options += ["-k", " or ".join(words)]
        if not run_all:
            options += [f"--deselect=test/{name}" for name in LEFT_OUT if "::" in name]
            options += [f"--ignore=test/{name}" for name in LEFT_OUT if "::" not in name]
        pytest.main([*options, "test"], plugins=[results])
        os.chdir(checkout)
    return results


def main() -> int:
    """Run, and say what differs from ``EXPECTED``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of https://github.com/spotify/annoy")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only tests whose names hold one of these")
    parser.add_argument("--rescore", choices=sorted(EXPECTED), default="none", help="mode of the indexes")
    parser.add_argument("--all", action="store_true", help="those too that take hours or the network")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not (checkout / "test").is_dir():
        parser.error(f"{checkout} has no folder `test`: pass a checkout of Annoy")
    knn_adapters.configure(rescore=options.rescore)
    results, expected = run(checkout, options.words, options.all), EXPECTED[options.rescore]
    surprises = {name: why for name, why in results.failed.items() if name not in expected}
    print(f"\n{len(results.passed)} passed")
    for name, reason in expected.items():
        if name in results.failed:
            print(f"fails as expected: {name}: {reason}")
    if not options.all:
        for name, reason in LEFT_OUT.items():
            print(f"left out: {name}: {reason}")
    for name in sorted(expected.keys() & {*results.passed}):
        print(f"passes, against expectation: {name}")
    for name, why in surprises.items():
        print(f"FAILS: {name}: {why}")
    return 1 if surprises or not results.passed else 0


if __name__ == "__main__":
    sys.exit(main())
