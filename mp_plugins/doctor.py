"""``magic-pyramid doctor``: what is installed, what is in use, what is missing for which feature."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version

from mp_plugins.demo_parts import Table
from mp_plugins.hookspecs import ENTRY_POINT_GROUP
from mp_plugins.manager import create_plugin_manager, load_registry
from mp_plugins.report import render_table
from mp_plugins.subcommands import Subcommand

__all__ = ["SUBCOMMAND"]

_DESCRIPTION = """\
Shows versions, the SIMD level in use, the plug-ins found, and what is missing for which feature.

  magic-pyramid doctor          a table for people
  magic-pyramid doctor --json   the same for programs and bug reports"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _run(arguments: argparse.Namespace) -> int:
    facts = _facts()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        for title, rows in facts.items():
            print(render_table(Table(title, ("fact", "value"), tuple(rows.items()))), end="\n\n")
    return 0


def _facts() -> dict[str, dict[str, str]]:
    manager = create_plugin_manager()
    plugins = {name: getattr(module, "__name__", repr(module)) for name, module in manager.list_name_plugin()}
    facts = {
        "magic-pyramid": {
            "version": version("magic-pyramid"),
            "python": sys.version.split()[0],
            "platform": platform.platform(),
        },
        f"plug-ins (entry points of the group {ENTRY_POINT_GROUP})": plugins,
    }
    diagnostics = load_registry("diagnostics", manager)
    return facts | {name: _guarded(diagnose) for name, diagnose in sorted(diagnostics.items())}


def _guarded(diagnose: object) -> dict[str, str]:
    # A broken part is what this command is there to show: one that raises must not hide the others.
    try:
        rows: Mapping[str, str] = diagnose()  # type: ignore[operator]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return dict(rows)


SUBCOMMAND = Subcommand(
    summary="versions, SIMD level, plug-ins, and what is missing for which feature",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
