"""Reading labelled texts from a file or from a data set of the Hugging Face Hub, for the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mp_plugins import ArgumentError, argument_error, missing_dependency

__all__ = ["ColumnNames", "LabelledTexts", "label_ids", "label_names", "read_texts"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_FORMATS = (*_SEPARATORS, *_JSON_LINES, ".parquet")

# Tried in this order; the usual names of public classification sets.
_TEXT_NAMES = ("text", "sentence", "sentence1", "premise", "question", "question1", "content", "document", "review")
_PAIR_NAMES = ("text_pair", "sentence2", "hypothesis", "question2")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "coarse_label")

_Table = dict[str, list[Any]]


@dataclass(frozen=True)
class ColumnNames:
    """Columns that the user names; ``None`` = found by their usual names."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with their classes.

    Attributes:
        texts: one per sample.
        pairs: the second text of each sample, or ``None``.
        labels: name of the class of each sample.
        columns: where they came from.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[str]
    columns: ColumnNames


def read_texts(source: str, columns: ColumnNames, *, split: str) -> LabelledTexts:
    """Read a data set.

    Args:
        source: a .csv, .tsv, .jsonl, .ndjson or .parquet file, or ``NAME`` or ``NAME:SUBSET`` for the library
            ``datasets``.
        columns: which columns to take.
        split: of a named data set; files have none.

    Raises:
        mp_plugins.ArgumentError: no such column, no rows, or a row without text or label.
        mp_plugins.MissingDependencyError: parquet files and names need the library ``datasets``.
        OSError: the file cannot be read.
    """
    path = Path(source)
    if path.suffix.lower() in _FORMATS:
        table = _read_file(path)
    elif path.exists():
        raise argument_error("DATA", f"must be a file of one of {', '.join(_FORMATS)}", source, "convert it")
    else:
        table = _read_named(source, split)
    if not table or not next(iter(table.values())):
        raise argument_error("DATA", "must hold at least one row", f"none in {source}", "check the file")
    return _select(table, columns)


def label_names(labels: Sequence[str]) -> list[str]:
    """Return the distinct labels, whole numbers by value and others by letter.

    Raises:
        mp_plugins.ArgumentError: there is only one, or nearly each text has its own.
    """
    names = set(labels)
    if len(names) < 2 or (len(names) > 20 and len(names) > len(labels) / 2):
        raise argument_error(
            "DATA",
            "must have at least two classes, of several texts each",
            f"{len(names)} distinct labels in {len(labels)} rows",
            "name the right column with --label-column",
        )
    return sorted(names, key=int) if all(map(_is_whole_number, names)) else sorted(names)


def label_ids(labels: Sequence[str], label2id: Mapping[str, int]) -> list[int]:
    """Return the model's ids of labels, given by their names or as the ids themselves.

    Raises:
        mp_plugins.ArgumentError: the model does not know a label.
    """
    known = {str(name): int(index) for name, index in label2id.items()}
    if not set(labels) <= known.keys():
        numbered = {str(index): index for index in known.values()}
        if unknown := sorted(set(labels) - numbered.keys()):
            shown = ", ".join(repr(name) for name in unknown[:5])
            raise argument_error(
                "DATA",
                f"must have labels of the model ({', '.join(list(known)[:10])})",
                shown,
                "check --label-column, or train a model with these labels",
            )
        known = numbered
    return [known[label] for label in labels]


def _read_file(path: Path) -> _Table:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    # utf-8-sig drops the byte order mark that spreadsheets write.
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = _json_rows(path, lines) if suffix in _JSON_LINES else _csv_rows(path, lines, _SEPARATORS[suffix])
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _csv_rows(path: Path, lines: Any, separator: str) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(lines, delimiter=separator, strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise argument_error(
                    "DATA",
                    f"must have {len(reader.fieldnames or ())} fields in every row",
                    f"another number at {path}:{reader.line_num}",
                    "quote texts that hold separators",
                )
            rows.append(row)
    except csv.Error as error:
        raise ArgumentError(f"`DATA` is not valid CSV at {path}:{reader.reader.line_num}: {error}") from error
    return rows


def _json_rows(path: Path, lines: Any) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ArgumentError(f"`DATA` is not valid JSON at {path}:{number}: {error}") from error
        if not isinstance(row, dict):
            received = f"{line.strip()[:40]} at {path}:{number}"
            raise argument_error("DATA", "must have one JSON object a line", received, "write one sample a line")
        rows.append(row)
    return rows


def _read_parquet(path: Path) -> _Table:
    return _columns_of(_library().Dataset.from_parquet(str(path), keep_in_memory=True))


def _read_named(source: str, split: str) -> _Table:
    name, _, subset = source.partition(":")
    return _columns_of(_library().load_dataset(name, subset or None, split=split))


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        wanted_by = "`DATA` other than .csv, .tsv and .jsonl files"
        raise missing_dependency("datasets", "datasets", wanted_by=wanted_by) from error
    return datasets


def _columns_of(dataset: Any) -> _Table:
    """Return the columns of a ``datasets.Dataset``, with classes by name."""
    table: _Table = {}
    for name, feature in dataset.features.items():
        values = list(dataset[name])
        classes = getattr(feature, "names", None)
        if classes:
            # -1 stands for an unknown class, as in test splits.
            values = [None if value is None or value < 0 else classes[value] for value in values]
        table[name] = values
    return table


def _select(table: _Table, columns: ColumnNames) -> LabelledTexts:
    label = _find(table, columns.label, _LABEL_NAMES, "--label-column")
    others = [name for name in table if name != label]
    # With two columns there is no doubt which one holds the texts.
    usual = others if len(others) == 1 else _TEXT_NAMES
    text = _find(table, columns.text, usual, "--text-column")
    pair = columns.text_pair or next((name for name in _PAIR_NAMES if name in table and columns.text is None), None)
    if pair is not None:
        pair = _find(table, pair, (), "--text-pair-column")
    return LabelledTexts(
        texts=_texts(table, text),
        pairs=None if pair is None else _texts(table, pair),
        labels=[_label(value, label, row) for row, value in enumerate(table[label], start=1)],
        columns=ColumnNames(text, pair, label),
    )


def _find(table: _Table, wanted: str | None, usual: Sequence[str], option: str) -> str:
    found = wanted if wanted is not None else next((name for name in usual if name in table), None)
    if found is None or found not in table:
        raise argument_error(
            option,
            f"must be one of the columns {', '.join(map(repr, table))}",
            repr(wanted) if wanted is not None else "none with a usual name",
            f"pass {option} NAME",
        )
    return found


def _texts(table: _Table, column: str) -> list[str]:
    for row, value in enumerate(table[column], start=1):
        if not isinstance(value, str):
            raise argument_error(
                "DATA", f"must have a text in column {column!r}", f"{value!r} in row {row}", "leave such rows out"
            )
    return table[column]


def _label(value: Any, column: str, row: int) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, (float, list, dict)) or not str(value).strip():
        raise argument_error(
            "DATA", f"must have a class in column {column!r}", f"{value!r} in row {row}", "leave such rows out"
        )
    return str(value).strip()


def _is_whole_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()
