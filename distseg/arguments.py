"""How the command line is read: commands by name, their arguments, one parser for all.

It imports nothing heavy: `distseg --help` must come at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from distseg import __version__

Function = Callable[[argparse.Namespace], int]
Argument = tuple[str, dict[str, Any]]  # a name or a flag, and what argparse is to do with it


# By name: the function and its arguments.
COMMANDS: dict[str, tuple[Function, tuple[Argument, ...]]] = {}
HIDDEN = ("predict-test", "teach")  # what the driver launches; no command for a person


def command(name: str, *arguments: Argument) -> Callable[[Function], Function]:
    """Make the decorated function the command `distseg NAME`."""

    def add(function: Function) -> Function:
        COMMANDS[name] = function, arguments
        return function

    return add


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments; overrides `key=value` may stand anywhere after the config."""
    parser = make_parser()
    args, extra = parser.parse_known_args(argv)
    wrong = [text for text in extra if text.startswith("-") or "=" not in text]
    if wrong or (extra and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or extra)}")
    if extra:
        args.overrides = [*args.overrides, *extra]
    return args


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, made of COMMANDS."""
    parser = argparse.ArgumentParser(
        prog="distseg",
        description="From a segmentation competition's files to an ensembled submission.",
    )
    parser.add_argument("--version", action="version", version=f"distseg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (function, arguments) in COMMANDS.items():
        text = " ".join((function.__doc__ or "").split())
        # argparse lists a command that has a help, and leaves out one that has none.
        shown: dict[str, Any] = {} if name in HIDDEN else {"help": text.rstrip(".")}
        own = commands.add_parser(name, description=text, **shown)
        for argument, options in arguments:
            own.add_argument(argument, **options)
    return parser


def arg(name: str, help: str, **options: Any) -> Argument:
    """An argument as `argparse.add_argument` takes it."""
    return name, {"help": help, **options}
