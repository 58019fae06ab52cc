"""The parts of the matrix that need no network."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("compat_matrix", Path(__file__).with_name("matrix.py"))
matrix = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = matrix
_SPEC.loader.exec_module(matrix)


def test_pins_of_what_varies_are_dropped_and_others_stay():
    pins = "# why\nnumpy==2.4.6; python_version >= '3.11'\nfaiss-cpu==1.15.1\nfaiss_cpu ==1\ntorch==2.13.0\n"
    assert matrix.loosened_constraints(pins, ("faiss-cpu", "NumPy")) == "# why\ntorch==2.13.0\n"
    ours = (matrix.ROOT / "constraints.txt").read_text(encoding="utf-8")
    for library in matrix.LIBRARIES.values():
        loosened = matrix.loosened_constraints(ours, (library.distribution, *library.loosened))
        assert f"\n{library.distribution}==" in ours
        assert f"\n{library.distribution}==" not in loosened
        assert "\ntorch==2.13.0\n" in loosened


def test_what_is_installed_where():
    library, wheel = matrix.LIBRARIES["hnswlib"], Path("w.whl")
    given = (Path("e/bin/python"), library, "0.7.0", wheel, Path("c.txt"))
    (full,) = matrix.install_commands(*given, shared=False)
    assert full[-4:] == ["--constraint", "c.txt", "hnswlib==0.7.0", "w.whl[test]"]
    first, second = matrix.install_commands(*given, shared=True)
    assert first[-1] == "hnswlib==0.7.0"
    assert second[-3:] == ["--no-deps", "--force-reinstall", "w.whl"]
    assert all(command[:3] == ["e/bin/python", "-m", "pip"] for command in (full, first, second))


def test_what_a_release_needs_older_is_installed_beside_it_where_the_rest_is_shared():
    given = (Path("e/bin/python"), matrix.LIBRARIES["transformers"], "4.57.6", Path("w.whl"), Path("c.txt"))
    first, _ = matrix.install_commands(*given, shared=True)
    assert first[-4:] == ["transformers==4.57.6", "tokenizers", "sentence-transformers", "accelerate"]


def test_outcomes_are_counted_as_pytest_reports_them(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise ValueError\n"
        "def test_a(): pass\ndef test_b(): pass\ndef test_c(): assert 0\ndef test_d(): pytest.skip('x')\n"
        "def test_e(broken): pass\n"
    )
    report = tmp_path / "report.xml"
    pytest.main(["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "--rootdir", str(tmp_path), str(tmp_path)])
    assert matrix.count_outcomes(report.read_text()) == (2, 2, 1)


@pytest.mark.parametrize(
    ("fields", "good"),
    [({"passed": 3}, True), ({"passed": 3, "failed": 1}, False), ({}, False), ({"passed": 3, "note": "no"}, False)],
)
def test_a_release_is_good_where_something_ran_and_nothing_failed(fields, good):
    assert matrix.Row("hnswlib", "0.7.0", **fields).good is good


def test_the_table_has_a_line_for_each_release(capsys):
    assert matrix.main(["--library", "transformers", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["library", "version", "passed", "failed", "skipped", "seconds", "note"]
    assert [line.split()[1] for line in lines[1:]] == list(matrix.LIBRARIES["transformers"].versions)


def test_versions_need_one_library(capsys):
    with pytest.raises(SystemExit):
        matrix.main(["--versions", "1.0"])
    assert "--versions needs exactly one --library" in capsys.readouterr().err


def test_rows_are_kept_and_a_failure_is_told(monkeypatch, tmp_path, capsys):
    outcomes = {"0.7.0": {"failed": 1, "passed": 2}, "0.8.0": {"passed": 3}}
    monkeypatch.setattr(matrix, "try_release", lambda name, version, *_: matrix.Row(name, version, **outcomes[version]))
    target, wheel = tmp_path / "rows.json", tmp_path / "w.whl"
    command = ["--library", "hnswlib", "--json", str(target), "--wheel", str(wheel), "--folder", str(tmp_path)]
    assert matrix.main(command) == 1
    assert [row["failed"] for row in json.loads(target.read_text())] == [1, 0]
    assert matrix.main([*command, "--versions", "0.8.0"]) == 0
    assert "hnswlib  0.8.0" in capsys.readouterr().out
