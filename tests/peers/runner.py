"""Runs a library's own Python tests, from the user's copy of its repository, against what stands in for the library.

Nothing of theirs is kept here. A test file imports the library by its name and gets the stand-in; it runs in a folder
of its own that is deleted afterwards. Tests that are expected to fail are listed with the reason; a run is green if
these fail, by an assertion, and all others pass.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import unittest
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TextIO

__all__ = ["Expected", "arguments", "fetched", "run", "standing_in"]

Expected = Mapping[str, str]
"""``file stem.class.method`` of a test that must fail -> why."""


def arguments(library: str, url: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of what all runners take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkout", type=Path, help=f"your copy of {library}'s repository: git clone {url}")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only test files whose path has this in it")
    parser.add_argument("--show-output", action="store_true", help="show what the tests print")
    return parser


def fetched(checkout: Path, patterns: Sequence[str], only: str = "") -> list[Path]:
    """Return the test files, or end the program with what is wrong with ``checkout``."""
    paths = [path.resolve() for pattern in patterns for path in sorted(checkout.glob(pattern)) if only in str(path)]
    if not paths:
        sys.exit(f"no test file matches {', '.join(patterns)} in {checkout}: pass the root of the library's repository")
    return paths


@contextmanager
def standing_in(library: str) -> Iterator[ModuleType]:
    """Have ``import library`` give what stands in for it."""
    stand_in = importlib.import_module(f"knn_adapters.{library}")
    before = sys.modules[library]
    sys.modules[library] = stand_in
    try:
        yield stand_in
    finally:
        sys.modules[library] = before


def run(paths: Sequence[Path], expected: Expected, *, show_output: bool = False) -> int:
    """Run the test files, print what came out, and return the exit code: 0 if it is what was expected."""
    outcomes: dict[str, str] = {}
    for path in paths:
        outcomes |= _outcomes(path, show_output=show_output)
    wrong = [f"{name}: {outcome}" for name, outcome in outcomes.items() if name not in expected and outcome != "passed"]
    failing = {name: outcomes[name] for name in expected if name in outcomes}
    wrong += [f"{name}: expected to fail, {outcome}" for name, outcome in failing.items() if outcome != "failed"]
    stems = {path.stem for path in paths}
    absent = [name for name in expected if name.partition(".")[0] in stems and name not in outcomes]
    wrong += [f"{name}: expected to fail, but there is no such test" for name in absent]
    n_passed = sum(outcome == "passed" for outcome in outcomes.values())
    print(f"{len(outcomes)} tests of {len(paths)} files: {n_passed} passed, {len(failing)} expected to fail")
    for name in failing:
        print(f"  expected: {name}: {expected[name]}")
    for line in wrong:
        print(f"  WRONG: {line}")
    return 1 if wrong or not outcomes else 0


class _Outcomes(unittest.TestResult):
    def __init__(self, stem: str) -> None:
        super().__init__()
        self.by_name: dict[str, str] = {}
        self._stem = stem

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802  # unittest's name
        super().startTest(test)
        self.by_name[self._name(test)] = "passed"

    def addFailure(self, test: unittest.TestCase, err: object) -> None:  # noqa: N802  # unittest's name
        super().addFailure(test, err)  # type: ignore[arg-type]
        self._note(test, "failed")

    def addError(self, test: unittest.TestCase, err: object) -> None:  # noqa: N802  # unittest's name
        super().addError(test, err)  # type: ignore[arg-type]
        self._note(test, "raised an exception")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802  # unittest's name
        super().addSkip(test, reason)
        self._note(test, f"skipped ({reason})")

    def _note(self, test: unittest.TestCase, outcome: str) -> None:
        self.by_name[self._name(test)] = outcome

    def _name(self, test: unittest.TestCase) -> str:
        return f"{self._stem}.{type(test).__name__}.{test.id().rpartition('.')[2]}"


def _outcomes(path: Path, *, show_output: bool) -> dict[str, str]:
    result = _Outcomes(path.stem)
    with _folder_of_its_own(), _printing(sys.stderr if show_output else None), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs: files that are not closed, and the like
        unittest.defaultTestLoader.loadTestsFromModule(_imported(path)).run(result)
    for _, trace in [*result.failures, *result.errors]:
        print(trace, file=sys.stderr)
    return result.by_name


def _imported(path: Path) -> ModuleType:
    name = f"peer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # by its name, for pickle
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@contextmanager
def _folder_of_its_own() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@contextmanager
def _printing(to: TextIO | None) -> Iterator[None]:
    before = sys.stdout
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = to or nowhere
        try:
            yield
        finally:
            sys.stdout = before
