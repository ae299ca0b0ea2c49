"""The search space of a sweep: which settings there are, and that the config takes each of them.

A setting is {dotted key: value}: what one trial changes in the config.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from distseg.config.fields import Strict
from distseg.config.load import parse_config, set_key
from distseg.config.schema import Config
from distseg.config.tune import DistributionConfig, TuneConfig
from distseg.config.validate import num_folds
from distseg.jobs.versions import install_hint
from distseg.records.errors import UserError, unknown
from distseg.run.check import TUNE_PACKAGES, Purpose, missing
from distseg.run.check import mistakes as all_mistakes

if TYPE_CHECKING:
    from distseg.models.check import Tried

Setting = dict[str, Any]
Space = Mapping[str, DistributionConfig]

# What no trial may change: its score would say nothing, or not be comparable.
FIXED = {
    "name": "is the sweep's",
    "task": "decides what the masks mean",
    "classes": "decides what the masks mean",
    "void": "decides what the masks mean",
    "metric": "is what the trials are compared by",
    "data": "is the same for all trials, or their scores could not be compared",
    "rounds": "is not used: a trial trains round 0",
    "stop": "is not used: a trial trains round 0",
    "ensemble": "is not used by a trial; `distseg tune RUN --postprocess` searches it",
    "postprocess": "is not used by a trial; `distseg tune RUN --postprocess` searches it",
    "tune": "is the sweep itself",
}
MAX_GRID = 10_000
TRIAL = Purpose(sweep=True, data=False)  # the data is the same for all trials
NO_SWEEP = "tune: this key is required by `distseg tune`; see docs/tune.md"


def sweep_of(config: Config) -> TuneConfig:
    """The config's sweep; UserError where it has none."""
    if config.tune is None:
        raise UserError(NO_SWEEP)
    return config.tune


def with_setting(config: Config, setting: Mapping[str, Any]) -> Config:
    """The config that a trial trains: complete, without `tune`. UserError: it is not valid."""
    tree = config.model_dump(mode="json") | {"tune": None}
    for path, value in setting.items():
        set_key(tree, path, copy.deepcopy(value))
    return parse_config(tree, ", ".join(f"{key}={value}" for key, value in setting.items()))


def members_of(config: Config) -> list[tuple[str, int]]:
    """(name, fold) that a trial trains, fold by fold."""
    tune = sweep_of(config)
    return [(name, fold) for fold in tune.folds for name in tune.members or config.members]


def num_epochs(config: Config, members: list[tuple[str, int]]) -> int:
    """Epochs of a trial whose config this is."""
    return sum(config.epochs_of(name) for name, _ in members)


def longest_epochs(config: Config) -> int:
    """Epochs of the longest trial, by every end of a range and every choice. UserError: one of
    them gives no valid config; `space_mistakes` names all."""
    space = sweep_of(config).space
    trials = [with_setting(config, setting) for _, _, setting in settings_to_check(space)]
    return max((num_epochs(own, members_of(config)) for own in trials), default=0)


def space_mistakes(config: Config, tried: Tried) -> list[str]:
    """A line for each key of the sweep that the config does not have, and for each end of a range
    and each choice that it does not take. tried: see `run.check.mistakes`."""
    tune, num = sweep_of(config), num_folds(config.data.folds)
    lines = [
        f"tune.folds: fold {fold} does not exist; valid: 0..{num - 1}"
        for fold in tune.folds
        if num is not None and not 0 <= fold < num
    ]
    for path in tune.space:
        try:
            check_path(config, path)
        except UserError as error:
            lines.append(str(error))
    if lines:
        return lines
    known = set(all_mistakes(config, TRIAL, tried))
    for path, value, setting in settings_to_check(tune.space):
        try:
            found = all_mistakes(with_setting(config, setting), TRIAL, tried)
            problems = [line for line in found if line not in known]
        except UserError as error:
            problems = str(error).splitlines()
        if problems:
            lines.append(f"tune.space.{path}: {value!r} is not valid: {'; '.join(problems)}")
    return lines


def sweep_mistakes(config: Config, tried: Tried) -> list[str]:
    """What `distseg tune` needs beside the others: a space that the config takes, and the packages
    of its extra."""
    lines = space_mistakes(config, tried) if config.tune else [NO_SWEEP]
    if names := missing(TUNE_PACKAGES):
        lines.append(f"tune: `distseg tune` needs {names}: {install_hint('ray')}")
    return lines


def check_path(config: Config, path: str) -> None:
    """UserError unless the config has the key `path`, or its parent takes any key."""
    where, names = f"tune.space.{path}: ", path.split(".")
    if names[0] in FIXED:
        raise UserError(f"{where}{names[0]!r} {FIXED[names[0]]}")
    node: Any = config
    for number, name in enumerate(names):
        if isinstance(node, Strict):
            if name not in type(node).model_fields:
                raise unknown("key", name, type(node).model_fields, where)
            node = getattr(node, name)
        elif isinstance(node, list | tuple):
            if not name.isdigit() or int(name) >= len(node):
                raise unknown("item", name, range(len(node)), where)
            node = node[int(name)]
        elif node is config.members and name not in node:
            raise unknown("member", name, node, where)
        elif isinstance(node, dict) and (name in node or number + 1 == len(names)):
            node = node.get(name)  # options: any key may be new
        else:
            before = ".".join(names[:number])
            raise UserError(f"{where}{before} is {node!r} here, it has no key {name!r}")


def settings_to_check(space: Space) -> Iterator[tuple[str, Any, Setting]]:
    """(key, value, a whole setting with it) for every end of every key.

    The setting holds what must hold for the key to be drawn; the other keys that are then drawn
    get the first of their ends.
    """
    for path, distribution in space.items():
        for value in distribution.ends():
            fixed = {**_conditions(space, path), path: value}
            setting: Setting = {}
            for other, its in space.items():
                if other in fixed or its.applies(setting):
                    setting[other] = fixed.get(other, its.ends()[0])
            yield path, value, setting


def _conditions(space: Space, path: str) -> Setting:
    """What a key's `when` asks for, and what that asks for in turn."""
    found: Setting = {}
    for key, value in space[path].when.items():
        found |= {**_conditions(space, key), key: value}
    return found


class Suggester(Protocol):
    """What draws values one by one, as an Optuna trial does."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


def suggest(space: Space, trial: Suggester) -> Setting:
    """The setting that `trial` suggests, key by key."""
    setting: Setting = {}
    for path, distribution in space.items():
        if distribution.applies(setting):
            setting[path] = suggest_value(distribution, path, trial)
    return setting


def suggest_value(distribution: DistributionConfig, path: str, trial: Suggester) -> Any:
    """The value of the key `path` that `trial` suggests."""
    if distribution.choice is not None:
        return trial.suggest_categorical(path, distribution.choice)
    low, high = distribution.bounds[0], distribution.ends()[-1]
    if distribution.randint is not None:
        return trial.suggest_int(path, low, high)
    step = distribution.quniform[2] if distribution.quniform else None
    return trial.suggest_float(path, low, high, step=step, log=distribution.kind == "loguniform")


def grid(space: Space) -> list[Setting]:
    """Every combination, the last key changing fastest. UserError: more than MAX_GRID.

    Optuna has two samplers for a grid. `GridSampler` knows no conditions: it would try the same
    setting once for each value of a key that `when` leaves out. `BruteForceSampler` knows them,
    but draws in a random order, so that `num_trials` would cut at random, and looks at all trials
    for each new one. How many settings there are must be known before the first trial anyway.
    """
    settings: list[Setting] = [{}]
    for path, distribution in space.items():
        grown = []
        for setting in settings:
            values = distribution.values() if distribution.applies(setting) else None
            grown += [{**setting, path: v} for v in values] if values else [setting]
        settings = grown
        if len(settings) > MAX_GRID:
            raise UserError(f"tune.space: a grid of more than {MAX_GRID:,} settings; use optuna")
    return settings
