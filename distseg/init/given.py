"""What the user has said on the line of `init` or `run`: keys of the config, `key=value`, and the
budget."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distseg.config.load import apply_overrides, key_mistakes
from distseg.init.recipe import AUGMENT
from distseg.records.errors import UserError

LOOKED_AT = ("task", "classes", "void", "data", "metric", "input")  # what changes what is found
_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


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


def parse_budget(text: str) -> float:
    """Seconds of `30m`, `1h30m`, `90s` or `45` (seconds). UserError: none of them, or no time."""
    found = _BUDGET.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < 1e7:
        raise UserError(f"--budget: {text!r}: write it as 30m, 1h30m or 90s")
    return total
