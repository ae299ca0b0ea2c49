"""Every key that a config may have, by its dotted path."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel


@functools.cache
def key_paths(model: type[BaseModel]) -> tuple[str, ...]:
    """Dotted paths below a model, as an override writes them: `stages.0.optimizer.lr`. `0` stands
    for any item of a list, NAME for any name."""
    return tuple(_paths(model, "", (model,)))


def _paths(model: type[BaseModel], prefix: str, above: tuple[type, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for between, inner in _models(field.annotation):
            if inner not in above:
                yield from _paths(inner, f"{prefix}{name}.{between}", (*above, inner))


def _models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """(what stands between, model) of every model in `X | None`, `list[X]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    between = {list: "0.", tuple: "0.", dict: "NAME."}.get(origin, "")
    for argument in arguments[1:] if origin is dict else arguments:
        yield from ((between + more, inner) for more, inner in _models(argument))


def elsewhere(model: type[BaseModel], keys: Sequence[str | int]) -> list[str]:
    """Paths of the keys that are called like the last of `keys`, or begin like it, but stand
    elsewhere: those nearest to where it was written, then those least deep."""
    name, parents = str(keys[-1]), [str(key) for key in keys[:-1]]
    split = [path.split(".") for path in key_paths(model)]
    found = [parts for parts in split if parts[-1] == name] or [
        parts for parts in split if parts[-1].startswith(f"{name}_")
    ]
    if any(len(parts) == len(parents) + 1 == len(_shared(parts, parents)) + 1 for parts in found):
        return []  # a key beside it is meant
    ranked = [(len(_shared(parts, parents)), parts) for parts in found]
    best = min(((-shared, len(parts)) for shared, parts in ranked), default=None)
    return [
        ".".join([*parents[:shared], *parts[shared:]])
        for shared, parts in ranked
        if (-shared, len(parts)) == best
    ]


def _shared(parts: Sequence[str], parents: Sequence[str]) -> list[str]:
    """The parents that a path has, too; a number is any number, NAME any name."""
    shared: list[str] = []
    for part, parent in zip(parts, parents, strict=False):
        if part not in (parent, "NAME") and not (part.isdigit() and parent.isdigit()):
            break
        shared.append(parent)
    return shared
