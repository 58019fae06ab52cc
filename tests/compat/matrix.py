"""Run the tests against several releases of a library: ``python tests/compat/matrix.py --library transformers``.

Each release gets a virtual environment with a wheel of this checkout, and a row in the table that is printed;
``--json`` keeps the rows. The exit status is 1 if a release fails.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Library:
    """What is tried of one library.

    Attributes:
        distribution: its name for pip.
        versions: releases tried by default, oldest first.
        tests: what is run against them.
        loosened: pinned distributions that its older releases need older.
    """

    distribution: str
    versions: tuple[str, ...]
    tests: tuple[str, ...]
    loosened: tuple[str, ...] = ()


LIBRARIES = {
    "transformers": Library(
        "transformers",
        ("4.56.2", "4.57.6", "5.0.0", "5.10.4", "5.23.0"),
        ("tests/hf_integration",),
        ("tokenizers", "sentence-transformers", "accelerate"),
    ),
    "faiss": Library(
        "faiss-cpu", ("1.8.0.post1", "1.10.0", "1.12.0", "1.15.1"), ("tests/knn_adapters",), ("numpy", "scipy")
    ),
    "hnswlib": Library("hnswlib", ("0.7.0", "0.8.0"), ("tests/knn_adapters",)),
}

# Releases of the past deprecate what they use themselves; our own warnings stay errors.
_OLD_WARNINGS = (
    *("-W", "default::DeprecationWarning", "-W", "default::FutureWarning"),
    # Of the Trainer of 4.56, on file systems whose clock is coarse.
    *("-W", "default:mtime may not be reliable:UserWarning"),
)


@dataclass(frozen=True)
class Row:
    """The outcome for one release; ``note`` says what stopped it before any test ran."""

    library: str
    version: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether something ran and nothing failed."""
        return self.passed > 0 and self.failed == 0 and not self.note


def loosened_constraints(text: str, names: Iterable[str]) -> str:
    """Return a constraints file without the pins of ``names``."""
    dropped = {_normal(name) for name in names}
    kept = [line for line in text.splitlines() if _normal(re.split(r"[=<>!~ ;\[]", line, maxsplit=1)[0]) not in dropped]
    return "\n".join(kept) + "\n"


def install_commands(
    python: Path, library: Library, version: str, wheel: Path, constraints: Path, *, shared: bool
) -> list[list[str]]:
    """Return the commands that fill an environment; ``shared`` says that everything else is there already."""
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pinned = f"{library.distribution}=={version}"
    if shared:
        # What is shared stays in use wherever this release takes it.
        return [[*install, pinned, *library.loosened], [*install, "--no-deps", "--force-reinstall", str(wheel)]]
    return [[*install, "--constraint", str(constraints), pinned, f"{wheel}[test]"]]


def count_outcomes(report: str) -> tuple[int, int, int]:
    """Return how many tests passed, failed and were skipped by a JUnit report; an error counts as a failure."""
    suites = list(ElementTree.fromstring(report).iter("testsuite"))  # noqa: S314 - as above
    total, failed, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return total - failed - skipped, failed, skipped


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows under a heading, in columns."""
    cells = [("library", "version", "passed", "failed", "skipped", "seconds", "note")]
    cells += [
        (row.library, row.version, str(row.passed), str(row.failed), str(row.skipped), f"{row.seconds:.0f}", row.note)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def try_release(
    name: str, version: str, folder: Path, wheel: Path, tests: Sequence[str], shared: Path | None, pytest: Sequence[str]
) -> Row:
    """Make the environment of one release, or take the one of an earlier run, and run the tests in it."""
    library, start = LIBRARIES[name], time.monotonic()
    environment = folder / f"{name}-{version}"
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    if shared is not None:
        site = next((environment / "lib").glob("python*/site-packages"))
        (site / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
    constraints = environment / "constraints.txt"
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    loosened = loosened_constraints(pins, (library.distribution, *library.loosened))
    constraints.write_text(loosened, encoding="utf-8")
    for command in install_commands(python, library, version, wheel, constraints, shared=shared is not None):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            return Row(name, version, seconds=time.monotonic() - start, note=reason[:200])
    report = environment / "report.xml"
    report.unlink(missing_ok=True)
    # Isolated, so that the wheel is imported and not this checkout.
    run = [str(python), "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", *_OLD_WARNINGS, f"--junitxml={report}"]
    with (environment / "pytest.log").open("w", encoding="utf-8") as log:
        subprocess.run([*run, *pytest, *tests], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    seconds = time.monotonic() - start
    if not report.exists():
        return Row(name, version, seconds=seconds, note=f"pytest did not finish, see {log.name}")
    passed, failed, skipped = count_outcomes(report.read_text(encoding="utf-8"))
    note = "" if passed + failed + skipped else f"no test ran, see {log.name}"
    return Row(name, version, passed, failed, skipped, seconds, note)


def build_wheel(folder: Path, *, shared: bool) -> Path:
    """Build a wheel of this checkout in ``folder``; ``shared`` says that the build tools are installed."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*command, *(["--no-build-isolation"] if shared else [])], check=True)
    return max(folder.glob("magic_pyramid-*.whl"), key=lambda path: path.stat().st_mtime)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=sorted(LIBRARIES), action="append", help="what to vary; all by default")
    parser.add_argument("--versions", nargs="+", help="releases in place of the usual ones; needs one --library")
    parser.add_argument("--tests", nargs="+", help="files or folders in place of the usual ones")
    parser.add_argument("--folder", type=Path, default=Path("build/compat"), help="for the environments and reports")
    parser.add_argument("--shared", type=Path, help="site-packages with all the rest, for environments in seconds")
    parser.add_argument("--wheel", type=Path, help="a wheel of this checkout; built if left out")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--list", action="store_true", help="say what would run, and stop")
    parser.add_argument("pytest", nargs="*", help="after --: arguments for pytest")
    options = parser.parse_args(arguments)
    if options.versions and len(options.library or ()) != 1:
        parser.error("--versions needs exactly one --library")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix and print it; see ``--help``."""
    options = parse(arguments)
    cells = [
        (name, version)
        for name in options.library or sorted(LIBRARIES)
        for version in options.versions or LIBRARIES[name].versions
    ]
    if options.list:
        print(format_table([Row(name, version) for name, version in cells]))
        return 0
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = options.wheel or build_wheel(folder, shared=options.shared is not None)
    rows: list[Row] = []
    for name, version in cells:
        tests = options.tests or LIBRARIES[name].tests
        rows.append(try_release(name, version, folder, wheel.resolve(), tests, options.shared, options.pytest))
        print(format_table(rows[-1:]).splitlines()[-1], flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    print(format_table(rows))
    return 0 if all(row.good for row in rows) else 1


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


if __name__ == "__main__":
    sys.exit(main())
