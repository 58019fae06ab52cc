"""The ``magic-pyramid`` command. Its subcommands come through the hook ``mp_register_subcommands``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from mp_plugins.errors import MagicPyramidError, UsageError
from mp_plugins.manager import load_registry
from mp_plugins.subcommands import add_subcommand

__all__ = ["main"]

_OK, _FAILED, _WRONG_USAGE, _INTERRUPTED = 0, 1, 2, 130

_DESCRIPTION = """\
Adaptive inference for BERT checkpoints, and quantized metrics under FAISS, hnswlib and Annoy.

Start with `magic-pyramid demo`: it trains, measures and reports on real text.
If something is missing, `magic-pyramid doctor` says what and how to install it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when it worked, 1 when it failed and 2 when it was used wrongly."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        parsed = _parser().parse_args(arguments)
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        print("magic-pyramid: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except UsageError as error:
        return _fail(error, debug, _WRONG_USAGE)
    except (MagicPyramidError, ImportError, OSError, ValueError) as error:
        return _fail(error, debug, _FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="magic-pyramid", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"magic-pyramid {version('magic-pyramid')}")
    commands = parser.add_subparsers(title="subcommands", metavar="COMMAND", required=True)
    for name, subcommand in sorted(load_registry("subcommands").items()):
        add_subcommand(commands, name, subcommand)
    return parser


def _fail(error: Exception, debug: bool, code: int) -> int:
    if debug:
        raise error
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"magic-pyramid: error: {message}", file=sys.stderr)
    return code
