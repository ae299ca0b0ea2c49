"""Keys of the config that the user has decided: `key=value` on the line of `init` or `run`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from distseg.config.load import apply_overrides, key_mistakes
from distseg.init.recipe import AUGMENT
from distseg.records.errors import UserError

LOOKED_AT = ("task", "classes", "void", "data", "metric", "input")  # what changes what is found


def given_keys(overrides: Sequence[str], where: str) -> dict[str, Any]:
    """What the user has said of data, labels and input, as a tree.

    UserError: a key that no config has, or a value that it cannot have. It is looked for here,
    before anything is measured; what lies across keys is found when the config is whole.
    """
    # with what every config of `init` has: items of a list can be named by their numbers alone
    tree: dict[str, Any] = {"name": "given", "members": {"any": {}}, "stages": [{}, {}],
                            "augment": copy.deepcopy(AUGMENT)}  # fmt: skip
    apply_overrides(tree, list(overrides))
    if lines := key_mistakes(tree):
        raise UserError("\n".join(f"{where}: {line}" for line in lines))
    return {key: value for key, value in tree.items() if key in LOOKED_AT}


def other_keys(overrides: Sequence[str]) -> list[str]:
    """What the user has said of all else, which is set in the config once it is whole: what
    `given_keys` returns is in it from the start."""
    return [text for text in overrides if text.partition("=")[0].split(".")[0] not in LOOKED_AT]


def with_given(why: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """The reasons, where what the user has decided has none but that."""
    keys = [text.partition("=")[0] for text in overrides]

    def is_given(path: str) -> bool:
        return any(f"{key}.".startswith(f"{path}.") or path.startswith(f"{key}.") for key in keys)

    return {path: "as given" if is_given(path) else text for path, text in why.items()}
