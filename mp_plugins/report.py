"""The demo's result as text for the terminal, as one HTML page and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from mp_plugins.demo_parts import Check, Figure, Section, Table

__all__ = ["render_html", "render_section", "render_table", "sections_as_json"]

_STYLE = """\
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --good: #0b6e4f; --bad: #b3261e; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--soft); }
.pass { color: var(--good); } .fail { color: var(--bad); font-weight: 600; }
"""


def render_table(table: Table) -> str:
    """Return the table as aligned text, first column to the left, the others to the right."""
    cells = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    lines = [_text_row(row, widths) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([table.title, *lines])


def render_section(section: Section) -> str:
    """Return a section as text for the terminal: heading, summary, tables, checks."""
    blocks = [f"{section.title}\n{'=' * len(section.title)}", section.summary]
    blocks += [render_table(table) for table in section.tables]
    if section.checks:
        blocks.append("\n".join(_text_check(check) for check in section.checks))
    return "\n\n".join(blocks)


def render_html(title: str, facts: Sequence[tuple[str, str]], sections: Iterable[Section]) -> str:
    """Return one self-contained page: the facts of the run, then each section with its tables, plots and checks."""
    body = [f"<h1>{escape(title)}</h1>", _html_table(Table("This run", ("fact", "value"), tuple(facts)))]
    for section in sections:
        body += [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.summary)}</p>"]
        body += [_html_table(table) for table in section.tables]
        body += [_html_figure(figure) for figure in section.figures]
        if section.checks:
            body.append("<ul>" + "".join(_html_check(check) for check in section.checks) + "</ul>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def sections_as_json(sections: dict[str, Section]) -> dict[str, Any]:
    """Return the measured data and the checks of every section, ready for :func:`json.dumps`."""
    return {
        name: {
            "title": section.title,
            "data": section.data,
            "checks": [vars(check) for check in section.checks],
        }
        for name, section in sections.items()
    }


def _text_row(row: tuple[str, ...], widths: list[int]) -> str:
    first = row[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()


def _text_check(check: Check) -> str:
    return f"[{'ok' if check.passed else 'MISSED'}] {check.promise}: {check.measured}"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _html_figure(figure: Figure) -> str:
    # Matplotlib's XML prologue is not allowed inside an HTML body.
    svg = figure.svg[figure.svg.index("<svg") :]
    return f"<figure>{svg}<figcaption>{escape(figure.caption)}</figcaption></figure>"


def _html_check(check: Check) -> str:
    verdict = '<span class="pass">ok</span>' if check.passed else '<span class="fail">missed</span>'
    return f"<li>{verdict} {escape(check.promise)}: {escape(check.measured)}</li>"
