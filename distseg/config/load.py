"""YAML files as trees of keys, and `key.sub=value` set in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distseg.records.errors import UserError


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
