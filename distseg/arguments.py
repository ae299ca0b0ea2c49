"""How the command line is read: commands by name, their arguments, one parser for all.

It imports nothing heavy: `distseg --help` must come at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from distseg import __version__
from distseg.functional.naming import nearest, unknown_text

Function = Callable[[argparse.Namespace], int]
Argument = tuple[str, dict[str, Any]]  # a name or a flag, and what argparse is to do with it


# By name: the function and its arguments.
COMMANDS: dict[str, tuple[Function, tuple[Argument, ...]]] = {}
# What the driver launches, and what a shell asks for: no commands for a person.
HIDDEN = ("predict-test", "teach", "track", "measure", "complete")
LISTED = (  # what `distseg list` knows; run/names.py makes the lines
    "configs", "launch", "architectures", "encoders", "losses", "metrics", "augmentations",
    "optimizers",
)  # fmt: skip


def command(name: str, *arguments: Argument) -> Callable[[Function], Function]:
    """Make the decorated function the command `distseg NAME`."""

    def add(function: Function) -> Function:
        COMMANDS[name] = function, arguments
        return function

    return add


def arg(name: str, help: str, **options: Any) -> Argument:
    """An argument as `argparse.add_argument` takes it."""
    return name, {"help": help, **options}


RUN = arg("run", "a run folder", type=Path, metavar="RUN")


def visible() -> list[str]:
    """The commands that a person may want."""
    return [name for name in COMMANDS if name not in HIDDEN]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line each, with the nearest valid name."""

    def error(self, message: str) -> NoReturn:
        """Print the line, and leave with exit status 2."""
        print(f"distseg: error: {_plain(message)}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


def _plain(message: str) -> str:
    """argparse's message in the words of all others."""
    found = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
    if found:
        where, value, listed = found.groups()
        valid = [name for name in re.findall(r"[\w-]+", listed) if name not in HIDDEN]
        what = "command" if where == "COMMAND" else f"value of {where}"
        return unknown_text(what, value, valid)
    return message.replace("the following arguments are required:", "needs")


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments; overrides `key=value` may stand anywhere after the config."""
    parser = make_parser()
    args, extra = parser.parse_known_args(argv)
    takes = hasattr(args, "overrides")
    wrong = [text for text in extra if text.startswith("-") or "=" not in text or not takes]
    if wrong:
        parser.error(", ".join(_unrecognized(args.command, text, takes) for text in wrong))
    if extra:
        args.overrides = [*args.overrides, *extra]
    return args


def _unrecognized(command: str, text: str, takes_overrides: bool) -> str:
    if text.startswith("-"):
        close = nearest(text.partition("=")[0], flags(command))
        return f"{command}: unknown option {text}" + (f" (did you mean {close}?)" if close else "")
    if takes_overrides and "=" not in text:
        return f"{command}: {text!r}: write a change of the config as key=value"
    return f"{command}: unexpected argument {text!r}"


def flags(command: str) -> list[str]:
    """The options of a command."""
    return [name for name, _ in COMMANDS[command][1] if name.startswith("-")] + ["--help"]


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, made of COMMANDS."""
    parser = Parser(
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


# -- completion -----------------------------------------------------------------------------------

# How each shell asks `distseg complete` for what may stand in place of the word being written.
SCRIPTS = {
    "bash": """\
_distseg() {
    local IFS=$'\\n'
    COMPREPLY=($(distseg complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _distseg distseg""",
    "zsh": """\
#compdef distseg
_distseg() {
    local -a found
    found=(${(f)"$(distseg complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    compadd -- $found
    _files
}
compdef _distseg distseg""",
    "fish": """\
function __distseg
    distseg complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c distseg -a '(__distseg)'""",
}


def candidates(words: list[str]) -> list[str]:
    """What may stand in place of the last of the words after `distseg`, besides files."""
    *before, word = words or [""]
    if not before:
        found = [*visible(), "--help", "--version"]
    elif before[0] not in COMMANDS:
        found = []
    elif word.startswith("-"):
        found = flags(before[0])
    else:
        found = _values(before[0], [one for one in before[1:] if not one.startswith("-")])
    return [one for one in found if one.startswith(word)]


def _values(command: str, before: list[str]) -> list[str]:
    """Values of the positional argument that comes after `before`."""
    positional = [one for one in COMMANDS[command][1] if not one[0].startswith("-")]
    name, options = positional[min(len(before), len(positional) - 1)] if positional else ("", {})
    if name == "overrides":
        from distseg.config.keys import key_paths
        from distseg.config.schema import Config

        return [f"{path}=" for path in key_paths(Config) if "NAME" not in path]
    if name == "config":
        from distseg.config.find import config_names

        return list(config_names())
    return list(options.get("choices", ()))
