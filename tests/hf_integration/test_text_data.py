from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from hf_integration.text_data import ColumnNames, label_ids, label_names, read_texts
from mp_plugins import ArgumentError, MissingDependencyError


@pytest.fixture
def read(tmp_path):
    def read_content(name, content, columns=None, split="train"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return read_texts(str(tmp_path / name), columns or ColumnNames(), split=split)

    return read_content


def test_csv_columns_are_found_by_their_usual_names(read):
    found = read("a.csv", '\ufeffid,sentence,label\n1,"one, two",pos\n2,"three\nfour",neg\n')
    assert found.texts == ["one, two", "three\nfour"]
    assert found.labels == ["pos", "neg"]
    assert found.pairs is None
    assert found.columns == ColumnNames("sentence", None, "label")


def test_of_two_columns_the_other_one_holds_the_texts(read):
    assert read("a.tsv", "body\ttarget\nhello\t1\n").texts == ["hello"]


def test_pairs_are_found_or_named(read):
    content = "premise,hypothesis,label,other\na,b,1,c\n"
    assert read("a.csv", content).pairs == ["b"]
    assert read("a.csv", content, ColumnNames(text="premise")).pairs is None
    assert read("a.csv", content, ColumnNames(text="premise", text_pair="other")).pairs == ["c"]


def test_json_lines_with_numbers_as_classes(read):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0.0}, {"text": "c", "label": True}]
    content = "\n".join(map(json.dumps, rows)) + "\n\n"
    assert read("a.jsonl", content).labels == ["1", "0", "True"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "`DATA` must hold at least one row"),
        ("a.csv", "text,label\n", "`DATA` must hold at least one row"),
        ("a.csv", "text,label\na,b,c\n", "2 fields in every row, got another number at .*a.csv:2"),
        ("a.csv", "text,label\na\n", "2 fields in every row"),
        ("a.csv", 'text,label\n"a"b,c\n', "not valid CSV at .*a.csv:2"),
        ("a.csv", "text,kind\na,b\n", "`--label-column` must be one of the columns 'text', 'kind', got none"),
        ("a.csv", "id,body,label\n1,a,b\n", "`--text-column` must be one of the columns"),
        ("a.jsonl", '{"text": "a"', "not valid JSON at .*a.jsonl:1"),
        ("a.jsonl", "[1]\n", "one JSON object a line, got .*1.* at .*a.jsonl:1"),
        ("a.jsonl", '{"text": null, "label": 1}', "must have a text in column 'text', got None in row 1"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', "must have a class in column 'label', got 0.5 in row 1"),
        ("a.csv", "text,label\na, \n", "must have a class"),
        ("a.xlsx", "", "must be a file of one of"),
    ],
)
def test_broken_files_are_told_with_the_place(read, name, content, message):
    with pytest.raises(ArgumentError, match=message):
        read(name, content)


def test_a_wrong_column_name_shows_the_columns(read):
    with pytest.raises(ArgumentError, match="`--text-column` must be one of the columns 'text', 'label', got 'body'"):
        read("a.csv", "text,label\na,b\n", ColumnNames(text="body"))
    with pytest.raises(ArgumentError, match="`--text-pair-column` must be one of"):
        read("a.csv", "text,label\na,b\n", ColumnNames(text_pair="second"))


def test_absent_files_are_told_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_texts(str(tmp_path / "none.csv"), ColumnNames(), split="train")


class NamedData(dict):
    features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=["neg", "pos"])}  # noqa: RUF012


def test_names_are_loaded_with_their_classes(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return NamedData(text=["a", "b"], label=[1, 0])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read_texts("glue:sst2", ColumnNames(), split="validation").labels == ["pos", "neg"]
    assert asked == [(("glue", "sst2"), {"split": "validation"})]
    NamedData.features["label"] = SimpleNamespace(names=["neg", "pos"])
    monkeypatch.setitem(
        sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: NamedData(text=["a"], label=[-1]))
    )
    with pytest.raises(ArgumentError, match="must have a class"):
        read_texts("glue", ColumnNames(), split="test")


@pytest.mark.parametrize("source", ["a.parquet", "imdb"])
def test_without_the_library_its_extra_is_named(monkeypatch, source):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'magic-pyramid\[datasets\]'"):
        read_texts(source, ColumnNames(), split="train")


def test_parquet_files_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}).to_parquet(str(path))
    found = read_texts(str(path), ColumnNames(), split="train")
    assert (found.texts, found.labels) == (["a", "b"], ["1", "0"])


def test_label_names_are_in_order():
    assert label_names(["10", "9", "10"]) == ["9", "10"]
    assert label_names(["b", "a", "10"]) == ["10", "a", "b"]
    for labels in (["a", "a"], [str(row) for row in range(30)]):
        with pytest.raises(ArgumentError, match="at least two classes"):
            label_names(labels)


def test_labels_are_names_or_ids_of_the_model():
    label2id = {"neg": 0, "pos": 1}
    assert label_ids(["pos", "neg"], label2id) == [1, 0]
    assert label_ids(["1", "0"], label2id) == [1, 0]
    with pytest.raises(ArgumentError, match=r"labels of the model \(neg, pos\), got 'maybe'"):
        label_ids(["pos", "maybe"], label2id)
    with pytest.raises(ArgumentError, match="got '2'"):
        label_ids(["0", "2"], label2id)
