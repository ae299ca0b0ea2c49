"""Configs from YAML: trees of keys, `key.sub=value` set in them, one message a mistake."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from distseg.config.fields import Strict
from distseg.config.messages import Keys, explain
from distseg.config.schema import Config
from distseg.config.validate import mistakes
from distseg.records.errors import UserError, printable_path, shown
from distseg.records.files import open_regular

MAX_BYTES = 1 << 20  # of a config
MAX_NODES, MAX_DEPTH = 20_000, 40  # keys, values and lists of a config, and levels of them
# What PyYAML raises: for 2024-99-99, !!int abc and the like what Python's constructors do.
YAML_ERRORS = (
    *(yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError),
    RecursionError,
)
MAX_ATTEMPTS = 5  # a mistake that is set aside may show another
PLACEHOLDER = "unnamed"  # where the name is wrong, so that the rest can be judged
M = TypeVar("M", bound=Strict)
SCHEMA = "https://json-schema.org/draft/2020-12/schema"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (PyYAML keeps the last, silently), and a tree that
    aliases make larger than any config."""

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is not None:
            _count_nodes(node, {}, ())
        return None if node is None else self.construct_document(node)


def _count_nodes(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Nodes of a tree once every alias is written out. ConstructorError: too many, too deep, or a
    node that holds itself. known: what is counted already, by the id of the node."""

    def refuse(why: str) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, why, node.start_mark)

    if id(node) in above:
        raise refuse("an alias of what it stands in")
    if len(above) > MAX_DEPTH:
        raise refuse(f"more than {MAX_DEPTH} levels of keys")
    if id(node) not in known:
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        inside = (*above, id(node))
        known[id(node)] = 1 + sum(_count_nodes(child, known, inside) for child in children)
    if known[id(node)] > MAX_NODES:
        raise refuse(f"more than {MAX_NODES:,} keys and values, aliases written out")
    return known[id(node)]


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
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{printable_path(path)}: cannot be read as a config: {why}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: a config has at most {MAX_BYTES:,} bytes, this one has more")
    try:
        loaded = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except YAML_ERRORS as error:
        raise UserError(f"{path}{_not_yaml(error)}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: a config is a mapping of keys, this is {type(loaded).__name__}")
    return loaded


def _not_yaml(error: Exception) -> str:
    """ ", line 3, column 5: not YAML: ..." of an error of the YAML reader, on one line."""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    if "'\\t'" in problem:
        problem = "a tab; YAML is indented with spaces"
    if isinstance(error, RecursionError):
        problem = f"more than {MAX_DEPTH} levels of keys"
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: not YAML: {problem}"


def apply_overrides(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Set `key.sub=value` in a config tree; values are YAML, but for a pattern of names that begins
    with `{id}`, which stands for itself. List items go by number. UserError lists every override
    that cannot be set."""
    lines = []
    for text in overrides:
        key, equals, value = text.partition("=")
        try:
            if not equals or not key:
                raise UserError(f"override {shown(text)}: write it as key.sub=value")
            if key.count(".") > MAX_DEPTH:
                raise UserError(f"override {shown(text)}: more than {MAX_DEPTH} levels of keys")
            is_name = value.startswith("{id}")  # no mapping: data.folder.mask={id}_mask.png
            set_key(tree, key, value if is_name else yaml.load(value, Loader=_Loader))  # safe
        except UserError as error:
            lines.append(str(error))
        except YAML_ERRORS as error:
            lines.append(f"override {shown(text)}{_not_yaml(error)}")
    if lines:
        raise UserError("\n".join(lines))
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
    return parse_config(load_tree(path, overrides), str(path))


def load_tree(path: Path | str, overrides: list[str] | None = None) -> dict[str, Any]:
    """A config's tree of keys with overrides set in it, not checked."""
    return apply_overrides(load_yaml(Path(path)), overrides or [])


def parse_config(tree: Mapping[str, Any], where: str) -> Config:
    """A checked config; UserError lists every mistake, each line begins with `where`."""
    read = read_tree(tree)
    if read.lines:
        raise UserError("\n".join(f"{where}: {line}" for line in read.lines))
    assert read.config is not None
    return read.config


def parse_section(model: type[M], tree: Any, where: str) -> M:
    """A section of a config, as a snapshot's record holds it; UserError lists every mistake. The
    record may be somebody else's: what would open a file or a pickle is refused here too."""
    try:
        return model.model_validate(tree)
    except pydantic.ValidationError as error:
        lines = explain(model, error).values()
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


@dataclass(frozen=True)
class Read:
    """What a tree of keys says, and what is wrong with it.

    config: the config without the keys that are wrong; None where too little is left.
    lines: every mistake.
    spoiled: keys that cannot be judged because something in them is wrong; "" is all of them.
    """

    config: Config | None
    lines: list[str]
    spoiled: tuple[str, ...] = ()

    def judges(self, line: str) -> bool:
        """Whether the mistake that a later check finds is more than the echo of a known one."""
        return not any(not key or line.startswith((f"{key}.", f"{key}:")) for key in self.spoiled)


def read_tree(tree: Mapping[str, Any]) -> Read:
    """Check a tree against the models, then across fields. A key that is wrong is set aside, so
    that the rest can be checked too, and all mistakes are found at once."""
    rest: dict[str, Any] = copy.deepcopy(dict(tree))
    lines: list[str] = []
    spoiled: list[str] = []
    for attempt in range(MAX_ATTEMPTS):
        try:
            config = Config.model_validate(rest)
        except pydantic.ValidationError as error:
            found = explain(Config, error)
            if attempt == 0:  # later ones are echoes: of a list that is empty now, ...
                lines = list(found.values())
            # the last item of a list first: then the others keep their places
            for keys in sorted(found, key=_place, reverse=True):
                spoiled.append(_spoiled_by(keys))
                if not _set_aside(rest, keys):
                    return Read(None, lines)
        else:
            read = Read(config, lines, tuple(spoiled))
            return replace(read, lines=lines + [m for m in mistakes(config) if read.judges(m)])
    return Read(None, lines)


def key_mistakes(tree: Mapping[str, Any]) -> list[str]:
    """A line for each key that is unknown or has a value that it cannot have, whatever the other
    keys say."""
    try:
        Config.model_validate(tree)
    except pydantic.ValidationError as error:
        return list(explain(Config, error).values())
    return []


def _place(keys: Keys) -> list[str]:
    return [f"{key:06}" if isinstance(key, int) else key for key in keys]


def _spoiled_by(keys: Keys) -> str:
    """The key below which nothing can be judged when `keys` is wrong: a default stands there."""
    if not keys or keys[0] in ("task", "classes"):
        return ""  # they say what all of the rest means
    if keys[0] == "input" or keys[:2] in (("data", "format"), ("data", "root")):
        return str(keys[0])
    if keys[0] == "members" and keys[2:3] in (("arch",), ("encoder",), ("input",)):
        return ".".join(map(str, keys[:2]))
    depth = 5 if "stages" in keys[2:3] else 3
    return ".".join(map(str, keys[:depth]))


def _set_aside(tree: dict[str, Any], keys: Keys) -> bool:
    """Take a wrong key out of a tree, in place; of one that is required and missing, what it is
    missing in. False: that cannot be done."""
    if keys == ("name",):  # the config itself
        tree["name"] = PLACEHOLDER
        return True
    return _remove(tree, keys) or (len(keys) > 1 and _remove(tree, keys[:-1]))


def _remove(tree: Any, keys: Keys) -> bool:
    """Delete a key of a tree, or an item of a list, in place; False: it is not there."""
    try:
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def flat_keys(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b.0": value} of nested dicts and lists."""
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(number), value) for number, value in enumerate(tree)]
    else:
        return {prefix: tree}
    if not items:
        return {prefix: tree}
    dot = "." if prefix else ""
    return {
        k: v for key, value in items for k, v in flat_keys(value, f"{prefix}{dot}{key}").items()
    }


def json_schema() -> dict[str, Any]:
    """JSON schema of a config, for editors and docs/config.md."""
    return {"$schema": SCHEMA, **Config.model_json_schema()}
