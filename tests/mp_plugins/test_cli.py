import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from mp_plugins import Registry, Subcommand, UsageError, argument_error, cli


def run_installed(*arguments):
    command = [sys.executable, "-c", "import sys; from mp_plugins.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def with_subcommand(monkeypatch, run):
    registry = Registry("subcommand")
    registry.register("try", Subcommand("a summary", "a description", lambda parser: None, run))
    monkeypatch.setattr(cli, "load_registry", lambda kind: registry)


def test_help_lists_the_subcommands_of_plugins():
    result = run_installed("--help")
    assert result.returncode == 0
    assert "demo" in result.stdout
    assert "doctor" in result.stdout


def test_a_subcommands_help_teaches_by_example():
    result = run_installed("demo", "--help")
    assert result.returncode == 0
    assert "magic-pyramid demo --json" in result.stdout


def test_no_subcommand_is_wrong_usage():
    result = run_installed()
    assert result.returncode == 2
    assert "COMMAND" in result.stderr


def test_wrong_flag_value_is_wrong_usage():
    result = run_installed("demo", "--num-threads", "0")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "magic-pyramid: error: `--num-threads` must be at least 1, got 0: leave it out for all cores"
    ]


def test_doctor_prints_json_with_our_plugins():
    result = run_installed("doctor", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["plug-ins (entry points of the group magic_pyramid)"]["mp_plugins"] == "mp_plugins.plugin"
    assert facts["demo"]["matplotlib"] == version("matplotlib")


def test_doctor_prints_tables():
    result = run_installed("doctor")
    assert result.returncode == 0, result.stderr
    assert "magic-pyramid" in result.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (argument_error("k", "must be at least 1", 0, "pass more"), 1),
        (FileNotFoundError("no such\nfile"), 1),
        (UsageError("two flags contradict"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_take_one_line_and_set_the_exit_code(monkeypatch, capsys, error, code):
    def run(arguments):
        raise error

    with_subcommand(monkeypatch, run)
    assert cli.main(["try"]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_debug_shows_the_traceback(monkeypatch):
    def run(arguments):
        raise UsageError("wrong")

    with_subcommand(monkeypatch, run)
    with pytest.raises(UsageError):
        cli.main(["try", "--debug"])


def test_the_subcommands_exit_code_is_returned(monkeypatch):
    with_subcommand(monkeypatch, lambda arguments: 1)
    assert cli.main(["try"]) == 1


def test_doctor_says_which_extra_brings_what_is_missing(monkeypatch, capsys):
    def absent(distribution):
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr("mp_plugins.diagnostics.version", absent)
    assert cli.main(["doctor"]) == 0
    assert "missing: pip install 'magic-pyramid[demo]' to run the demo" in capsys.readouterr().out


def test_doctor_goes_on_when_a_diagnostic_breaks(monkeypatch, capsys):
    def broken():
        raise OSError("no such device")

    monkeypatch.setattr("mp_plugins.plugin._demo_libraries", broken)
    assert cli.main(["doctor"]) == 0
    assert "OSError: no such device" in capsys.readouterr().out
