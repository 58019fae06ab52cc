import json
from dataclasses import dataclass

import pytest

from mp_plugins import Check, DemoContext, Figure, PluginError, Registry, Section, Table, cli
from mp_plugins.demo import run_parts


@dataclass
class Part:
    requires: frozenset
    provides: frozenset
    passed: bool = True
    keeps_promise: bool = True

    def run(self, context):
        if self.keeps_promise:
            context.artifacts.update(dict.fromkeys(self.provides, 1))
        return Section(
            title="A <title>",
            summary="What was done.",
            tables=(Table("Numbers", ("what", "value"), (("speed", "2.0"), ("size & shape", "10"))),),
            figures=(Figure("A caption", '<?xml version="1.0"?>\n<svg id="plot"></svg>'),),
            checks=(Check("within a point", "0.2 points", self.passed),),
            data={"speed": 2.0},
        )


def part(requires=(), provides=(), **options):
    return Part(frozenset(requires), frozenset(provides), **options)


@pytest.fixture
def context(tmp_path):
    return DemoContext(output_dir=tmp_path, cache_dir=tmp_path, seed=0, num_threads=1)


def test_parts_run_in_the_order_of_their_artifacts(context):
    parts = {
        "a": part(requires=["vectors"]),
        "b": part(requires=["texts"], provides=["vectors"]),
        "c": part([], ["texts"]),
    }
    assert list(run_parts(parts, context)) == ["c", "b", "a"]


def test_a_missing_artifact_names_who_needs_it(context):
    with pytest.raises(PluginError, match="a needs vectors"):
        run_parts({"a": part(requires=["vectors"])}, context)


def test_a_broken_promise_is_reported(context):
    with pytest.raises(PluginError, match="`a` promised vectors and did not provide it"):
        run_parts({"a": part(provides=["vectors"], keeps_promise=False)}, context)


def run_demo(monkeypatch, tmp_path, *, passed, flags=()):
    parts = Registry("demo part")
    parts.register("only", part(passed=passed))
    monkeypatch.setattr("mp_plugins.demo.load_registry", lambda kind: parts)
    return cli.main(["demo", "--output-dir", str(tmp_path / "out"), *flags])


def test_the_report_holds_tables_plots_checks_and_numbers(monkeypatch, tmp_path, capsys):
    assert run_demo(monkeypatch, tmp_path, passed=True) == 0
    printed = capsys.readouterr().out
    assert "speed           2.0" in printed
    assert "[ok] within a point: 0.2 points" in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    assert '<svg id="plot">' in page
    assert "<?xml" not in page
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["sections"]["only"]["data"] == {"speed": 2.0}
    assert results["sections"]["only"]["checks"][0]["passed"] is True


def test_a_missed_promise_fails_the_command(monkeypatch, tmp_path, capsys):
    assert run_demo(monkeypatch, tmp_path, passed=False) == 1
    assert "[MISSED] within a point" in capsys.readouterr().out


def test_json_goes_to_standard_output_alone(monkeypatch, tmp_path, capsys):
    assert run_demo(monkeypatch, tmp_path, passed=True, flags=["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sections"]["only"]["data"] == {"speed": 2.0}
