"""What a part of ``magic-pyramid demo`` is given and what it hands back.

The two halves of the project never import each other: a part that embeds texts leaves the vectors in
``DemoContext.artifacts``, and a part that indexes vectors names them in ``requires``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Check", "DemoContext", "DemoPart", "Figure", "Section", "Table"]


@dataclass(frozen=True)
class Table:
    """A table of the report; ``rows`` hold text that is ready to print."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A plot of the report, as SVG text."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Check:
    """One promise of the demo held against what this run measured."""

    promise: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Section:
    """The result of one part. ``data`` holds the same numbers in full precision, for the JSON file."""

    title: str
    summary: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    checks: tuple[Check, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class DemoContext:
    """What the parts of one run share.

    Attributes:
        output_dir: where the report goes; a part may leave files beside it.
        cache_dir: where downloads are kept between runs.
        seed: seed of every random choice.
        num_threads: threads for training and for searches.
        artifacts: what earlier parts provided, by name.
    """

    output_dir: Path
    cache_dir: Path
    seed: int
    num_threads: int
    artifacts: dict[str, Any] = field(default_factory=dict)


class DemoPart(Protocol):
    """A part of the demo: runs once everything in ``requires`` is in the artifacts, and adds ``provides`` to them."""

    requires: frozenset[str]
    provides: frozenset[str]

    def run(self, context: DemoContext) -> Section:
        """Do the work, with progress bars on standard error, and return the section of the report."""
