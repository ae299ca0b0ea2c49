"""A config as YAML that a person reads: a comment over each choice, one line a small thing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

WIDTH = 100


def config_text(tree: Mapping[str, Any], why: Mapping[str, str], header: Sequence[str]) -> str:
    """The file: header, then each key with the comments of `why`, by dotted key."""
    lines = [line for text in header for line in _comment(text, "", "  ")]
    for key, value in tree.items():
        lines += _comment(why.get(key, ""), "")
        below = {name.removeprefix(f"{key}."): text for name, text in why.items()
                 if name.startswith(f"{key}.")}  # fmt: skip
        lines += _key(str(key), value, below)
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str, further: str = "") -> list[str]:
    """Comment lines of a text; `further` indents all but the first. A text may come from names of
    files: no line of it leaves the comment."""
    plain = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "?" for c in plain)
    wrapped = textwrap.wrap(
        plain, WIDTH - len(indent) - 2, subsequent_indent=further, break_on_hyphens=False
    )
    return [f"{indent}# {line}" for line in wrapped]


def _key(key: str, value: Any, why: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, Mapping) and (why or len(_line(key, value)) > WIDTH or _is_deep(value)):
        yield f"{key}:"
        for name, item in value.items():
            # a comment on a key below this one stands over its parent
            told = [text for path, text in why.items() if path.partition(".")[0] == name]
            for text in told:
                yield from _comment(text, "  ")
            yield f"  {_line(str(name), item)}"
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        yield f"{key}:"
        for item in value:
            yield from _item(item)
    else:
        yield _line(key, value)


def _is_deep(value: Mapping[str, Any]) -> bool:
    return any(isinstance(item, Mapping) for item in value.values())


def _item(item: Mapping[str, Any]) -> Iterator[str]:
    """An item of a list: on one line where it is short, else a line for each of its keys."""
    whole = f"  - {_flow(item)}"
    if len(whole) <= WIDTH and not (len(item) > 2 and _is_deep(item)):
        yield whole
        return
    for number, (key, value) in enumerate(item.items()):
        yield f"  {'- ' if number == 0 else '  '}{_line(str(key), value)}"


def _line(key: str, value: Any) -> str:
    return f"{_flow(key)}: {_flow(value)}"


def _flow(value: Any) -> str:
    """A value on one line, as YAML's safe loader reads it back."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9,
                          allow_unicode=False)  # fmt: skip
    return text.removesuffix("\n").removesuffix("\n...").strip()
