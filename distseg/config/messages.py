"""pydantic's errors as a user should read them: one line a key, with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import pydantic
from pydantic import BaseModel

from distseg.config.keys import elsewhere
from distseg.functional.naming import nearest
from distseg.records.errors import shown

Keys = tuple[str | int, ...]
# What a key needs, by pydantic's name of the error; {gt} and the like come with it.
NEEDS = {
    "model_type": "keys",
    "model_attributes_type": "keys",
    "dict_type": "keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "string_pattern_mismatch": "letters, digits, '_', '.' and '-', the first a letter or a digit,",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g} up",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number up to {le:g}",
}


def explain(model: type[BaseModel], error: pydantic.ValidationError) -> dict[Keys, str]:
    """{keys: line} of a validation of `model`. A union gives several errors for one key: they
    become one line."""
    found: dict[Keys, list[Any]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_real_keys(model, item), []).append(item)
    return {keys: _line(model, keys, items) for keys, items in found.items()}


def _real_keys(model: type[BaseModel], item: Any) -> Keys:
    """Where an error is, without what pydantic adds: names of validators and of a union's types."""
    annotation: Any = model
    keys: list[str | int] = []
    for part in item["loc"]:
        annotation = _inside(annotation, part)
        if annotation is None:
            # a key that the model does not have is a key all the same
            keys += [part] if item["type"] == "extra_forbidden" else []
            break
        keys.append(part)
    return tuple(keys)


def _inside(annotation: Any, part: str | int) -> Any:
    """The type of key or item `part` of a model, list, tuple or dict; None: it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal or part == "[key]":
        return None
    if origin is dict:
        return arguments[1]
    if origin in (list, tuple):
        return arguments[0] if isinstance(part, int) else None
    inner = [_inside(one, part) for one in arguments]
    return next((found for found in inner if found is not None), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `X`, `X | None` or Annotated[X, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(inner) for inner in get_args(annotation)]
    return next((model for model in found if model is not None), None)


def _line(model: type[BaseModel], keys: Keys, items: list[Any]) -> str:
    """Key, value, what is valid, the nearest name."""
    item, key = items[0], ".".join(map(str, keys))
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        valid = _keys_at(model, keys[:-1])
        others = " or ".join(map(repr, elsewhere(model, keys)))
        hint = f" Did you mean {others}?" if others else _hint(keys[-1], valid)
        return f"{key}: unknown key (value {shown(value)}).{hint} Valid: {', '.join(valid)}"
    if kind == "missing":
        return f"{key}: this key is required"
    if all(map(_needs, items)):
        return f"{key}: needs {' or '.join(dict.fromkeys(map(_needs, items)))}, not {shown(value)}"
    texts = [
        _expected(one) or _needs(one) or one["msg"].removeprefix("Value error, ") for one in items
    ]
    if kind == "value_error" and len(items) == 1:
        told = isinstance(value, dict) or shown(value) in texts[0]
        given = "" if told else f"{shown(value)}: "
        return f"{key}: {given}{texts[0]}" if key else texts[0]
    choices = [name for one in items for name in re.findall(r"'([^']*)'", _expected(one))]
    if choices or any(map(_expected, items)):
        hint = _hint(value, choices)
        return f"{key}: {shown(value)} is not valid.{hint} Valid: {', or: '.join(texts)}"
    return f"{key}: {', or: '.join(texts)} (value {shown(value)})"


def _keys_at(model: type[BaseModel], keys: Keys) -> list[str]:
    """Names of the keys that a model has below `keys`."""
    annotation: Any = model
    for part in keys:
        annotation = _inside(annotation, part)
    found = _model_in(annotation)
    return list(found.model_fields) if found else []


def _expected(item: Any) -> str:
    """The choices of a Literal as pydantic writes them: "'pad', 'resize' or 'crop'"."""
    return str(item["ctx"]["expected"]) if item["type"] == "literal_error" else ""


def _needs(item: Any) -> str:
    """What a key of another type or range needs; "" for other mistakes."""
    return NEEDS.get(item["type"], "").format(**item.get("ctx", {}))


def _hint(value: object, valid: Sequence[str]) -> str:
    close = nearest(value, valid)
    return f" Did you mean {close!r}?" if close else ""
