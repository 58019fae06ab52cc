"""Runs a library's own Python tests, from the user's copy of its repository, against what stands in for the library.

Nothing of theirs is kept here. A test file imports the library by its name and gets the stand-in; it runs in a folder
of its own that is deleted afterwards. Assertions that are expected to fail are listed, each with its reason: they are
noted, and the test goes on behind them, so that everything else that it asks for is checked. A run is green if these
fail, and nothing else does.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import linecache
import os
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO

__all__ = ["Expected", "Failing", "arguments", "fetched", "run", "standing_in"]


class Failing(NamedTuple):
    """What fails in a test: the assertions in whose source line ``word`` is, and why."""

    word: str
    why: str


Expected = Mapping[str, Failing]
"""``file stem.class.method`` of a test -> what must fail in it."""


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
        outcomes |= _outcomes(path, expected, show_output=show_output)
    stems = {path.stem for path in paths}
    wanted = {name: "failed where expected" for name in expected if name.partition(".")[0] in stems}
    wrong = [name for name in outcomes.keys() | wanted.keys() if outcomes.get(name) != wanted.get(name, "passed")]
    n_passed = sum(outcome == "passed" for outcome in outcomes.values())
    print(f"{len(outcomes)} tests of {len(paths)} files: {n_passed} passed, {len(wanted)} expected to fail in part")
    for name in wanted:
        print(f"  expected: {name}: {expected[name].why}")
    for name in sorted(wrong):
        print(f"  WRONG: {name}: {outcomes.get(name, 'there is no such test')}")
    return 1 if wrong or not outcomes else 0


class _Outcomes(unittest.TestResult):
    """Notes how each test ends, by its name, and lets the assertions fail that are expected to."""

    def __init__(self, stem: str, expected: Expected) -> None:
        super().__init__()
        self.by_name: dict[str, str] = {}
        self._stem = stem
        self._expected = expected

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802  # unittest's name
        super().startTest(test)
        name = self._name(test)
        self.by_name[name] = "passed"
        if name in self._expected:
            for method in (method for method in dir(test) if method.startswith("assert")):
                checked = self._softened(getattr(test, method), name, self._expected[name].word)
                setattr(test, method, checked)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802  # unittest's name
        super().addFailure(test, err)
        self.by_name[self._name(test)] = "failed"

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802  # unittest's name
        super().addError(test, err)
        self.by_name[self._name(test)] = "raised an exception"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802  # unittest's name
        super().addSkip(test, reason)
        self.by_name[self._name(test)] = f"skipped ({reason})"

    def _softened(self, method: Callable[..., Any], name: str, word: str) -> Callable[..., Any]:
        def check(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except AssertionError:
                caller = sys._getframe(1)
                if word not in linecache.getline(caller.f_code.co_filename, caller.f_lineno):
                    raise
                self.by_name[name] = "failed where expected"

        return check

    def _name(self, test: unittest.TestCase) -> str:
        return f"{self._stem}.{type(test).__name__}.{test.id().rpartition('.')[2]}"


def _outcomes(path: Path, expected: Expected, *, show_output: bool) -> dict[str, str]:
    result = _Outcomes(path.stem, expected)
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
