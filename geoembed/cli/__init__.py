"""The command line: `parser` says what the commands take, `commands` what they do. Help imports nothing heavy."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from geoembed.cli.parser import build_parser, named_task
from geoembed.errors import GeoEmbedError, UnknownNameError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 1 an error that the user can mend, 130 an interruption."""
    args, rest = build_parser(named_task(argv)).parse_known_args(argv)
    try:
        if rest:
            _unknown(args, rest)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            args.run(args)
    except GeoEmbedError as error:
        print(f"geoembed: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ngeoembed: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _unknown(args: argparse.Namespace, rest: list[str]) -> None:
    """Report a flag that the command does not have, with the closest one it has."""
    flags = [flag for action in args.parser._actions for flag in action.option_strings if flag.startswith("--")]
    bad = next((word for word in rest if word.startswith("-")), rest[0])
    if bad.startswith("--"):
        raise UnknownNameError("option", bad.split("=")[0], flags)
    raise UnknownNameError("argument", bad, flags)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"geoembed: {category.__name__}: {message}", file=sys.stderr)
