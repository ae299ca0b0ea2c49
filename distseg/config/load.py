"""Configs from YAML: trees of keys, `key.sub=value` set in them, one message a mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from distseg.config.rounds import check_rounds
from distseg.config.schema import Config
from distseg.config.validate import check_member, check_names, check_tune
from distseg.config.zero import check_zero
from distseg.records.errors import UserError, nearest


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (PyYAML keeps the last, silently)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; UserError names the file and the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    try:
        loaded = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, TypeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: a config is a mapping of keys, this is {type(loaded).__name__}")
    return loaded


def apply_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Set `key.sub=value` in a config tree; values are YAML. List items go by number."""
    for text in overrides:
        key, equals, value_text = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r}: write it as key.sub=value")
        try:
            value = yaml.safe_load(value_text)
        except yaml.YAMLError:
            raise UserError(f"override {text!r}: the value is not YAML") from None
        set_key(tree, key, value)
    return tree


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key` in a config tree, in place; list items go by number.

    UserError: a part of the key is no item of its list, or lies below a value.
    """
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, key)
    if isinstance(node, list):
        node[_list_index(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"override {key}: {parents[-1]!r} holds a value, not keys")


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_list_index(node, part, key)]
    if not isinstance(node, dict):
        raise UserError(f"override {key}: {part!r} lies below a value, not below keys")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _list_index(items: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"override {key}: {part!r} is no item of a list of {len(items)}")
    return int(part)


def load_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Read, override and check a config. UserError lists every mistake, one line each."""
    tree = apply_overrides(load_yaml(Path(path)), overrides or [])
    return parse_config(tree, str(path))


def parse_config(tree: Mapping[str, Any], where: str) -> Config:
    try:
        config = Config.model_validate(tree)
    except pydantic.ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None
    try:
        _validate(config)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return config


def _validate(config: Config) -> None:
    """What crosses fields. ValueError for the first mistake."""
    check_names(config)
    for name in config.members:
        check_member(config, name)
    check_rounds(config)
    check_tune(config)
    check_zero(config)


def _explain(item: Any) -> str:
    """One line for one pydantic error: key, value, what is valid, the nearest name."""
    location = [str(part) for part in item["loc"] if not str(part).startswith("function-")]
    key = ".".join(location)
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        valid = _keys_at(item["loc"][:-1])
        close = nearest(location[-1], valid)
        hint = f" Did you mean {close!r}?" if close else ""
        return f"{key}: unknown key (value {value!r}).{hint} Valid: {', '.join(valid)}"
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        close = nearest(value, expected)
        hint = f" Did you mean {close!r}?" if close else ""
        return f"{key}: {value!r} is not valid.{hint} Valid: {item['ctx']['expected']}"
    if kind == "missing":
        return f"{key}: this key is required"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if not location or kind == "value_error" else f" (value {value!r})"
    return f"{key}: {message}{shown}" if key else message


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """Names of the keys that the config has at `location`."""
    model: type[BaseModel] = Config
    for part in location:
        if part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The model inside `X | None`, `list[X]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(inner) for inner in getattr(annotation, "__args__", ())]
    return next((model for model in found if model is not None), None)


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def json_schema() -> dict[str, Any]:
    """JSON schema of a config, for editors and docs/config.md."""
    return Config.model_json_schema()
