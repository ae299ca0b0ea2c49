"""`distseg init`: look at the data, measure this machine, spend the budget, write the config."""

from __future__ import annotations

import copy
import logging
import math
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distseg.config.data import FoldsConfig
from distseg.config.load import apply_overrides, parse_config
from distseg.config.schema import ComputeConfig, Config
from distseg.config.write import config_text
from distseg.data.formats.row import plain
from distseg.init.budget import Candidate, Data, Spent, divided, scaled, spend
from distseg.init.choices import allowed, draft
from distseg.init.encoders import Encoder, Offer, at_hand
from distseg.init.folds import Folds, divisions
from distseg.init.given import given_keys, other_keys, with_given
from distseg.init.look import Facts, look
from distseg.init.recipe import (
    AUGMENT,
    LOSSES,
    MEASURED,
    batch_size,
    header,
    predict_batch,
    recipe,
)
from distseg.init.sizes import Size, possible_sizes
from distseg.jobs.hardware import Gpu, Slot, make_slots, num_cores, visible_gpus
from distseg.records.errors import UserError, printable_path
from distseg.records.files import atomic_write
from distseg.records.log import counted, duration
from distseg.records.paces import Pace, write_paces
from distseg.records.tables import write_table
from distseg.run.forecast import Machine
from distseg.run.measure import DataSize
from distseg.run.pace import device_name, known_paces, measured_paces, pace_key

logger = logging.getLogger("distseg.init")

DEFAULT_BUDGET_S = 1800.0
LOOKING_SHARE, MEASURING_SHARE, AGAIN_SHARE = 0.04, 0.06, 0.04  # of the budget
LEAST_S, MOST_S = 10.0, 60.0  # that measuring takes
MEASURED_PIXELS = {False: 128 * 128, True: 384 * 384}  # of what is measured; True: on a GPU
MAX_SLOTS = 8
MOST_AGAIN = 2  # times that a choice is measured, which may be another after the first
Shown = dict[tuple[Size, int | None], Pace]  # by size and jobs side by side, of one of these


@dataclass(frozen=True, slots=True)
class Written:
    """What `init` has made. text: of the config; groups: by id, the table that it names; spent:
    the plan; said: lines for the person."""

    config: Config
    text: str
    groups: Mapping[str, str] | None
    spent: Spent
    said: list[str]


def default_name(root: Path) -> str:
    """A config's name of a folder's or a file's: letters, digits and `_.-` stay."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", plain(root.absolute().name)).strip("_.-")
    return (name or "data")[:80]


def make(
    root: Path, overrides: Sequence[str] = (), *, budget: float = DEFAULT_BUDGET_S,
    weights: Path | None = None, target: str = "my.yaml", groups: Path = Path("my_groups.csv"),
    name: str | None = None, spent_s: float = 0.0,
) -> Written:  # fmt: skip
    """A config for the data of a folder.

    Args:
        overrides: keys of the config that the user decides, as `key=value`.
        budget: seconds that a run may take.
        weights: a folder of .safetensors files, each named by its encoder.
        target: what follows `distseg run` in the first line of the config.
        groups: where the table of groups will lie, if the names have groups.
        name: of the config, and so of its run folder; the data folder's by default.
        spent_s: seconds of the budget that are gone already.

    UserError: the data cannot be read, or needs a decision, or a key cannot be: each line names the
    key. All of that is found before anything is measured.
    """
    began = time.monotonic()
    where, called = printable_path(root), name or default_name(root)
    given, gpus = given_keys(overrides, where), visible_gpus()
    named = None if weights is None else at_hand(bool(gpus), weights)
    facts = look(root, given, seconds=max(2.0, LOOKING_SHARE * budget))
    offer = named or at_hand(bool(gpus), None)
    data, slots = numbers(facts), _slots(gpus)
    possible = possible_sizes(facts, given.get("input", {}), bool(gpus))

    def written(spent: Spent, encoder: Encoder) -> tuple[dict[str, Any], dict[str, str]]:
        tree, why = recipe(
            facts, spent, encoder, name=called, gpu=bool(gpus), slots=len(slots), groups=groups
        )
        tree = copy.deepcopy(tree)  # it holds constants, in which a key may be set
        return apply_overrides(tree, other_keys(overrides)), with_given(why, overrides)

    def tree_of(
        size: Size, folds: Folds, encoder: Encoder, first: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        return written(draft(size, folds, batch_size(facts, size, bool(gpus)), first), encoder)[0]

    if overrides:  # without a key of the user's there is nothing that it could be at odds with
        possible, folds, encoders = allowed(
            possible, data.folds, offer.encoders, tree_of, where, groups
        )
        data, offer = replace(data, folds=folds), replace(offer, encoders=encoders)

    def left() -> float:
        return budget - spent_s - (time.monotonic() - began if spent_s else 0.0)

    spent, fits = best_way(facts, data, offer, slots, gpus, possible, budget, left)
    tree, why = written(spent, offer.encoders[spent.candidate.encoder])
    config = parse_config(tree, where)
    keep_paces(config, data, spent, gpus)
    command = _command(root, overrides, budget, weights)
    machine_name = device_name(slots[0], gpus)
    machine_name += f", {counted(len(gpus), 'GPU')}" if gpus else ""
    lines = header(facts, spent, offer.said, command, target, machine_name, budget, fits)
    own = config.data.folds.kind == "group" and config.data.folds.groups == str(groups)
    grouped = facts.groups if own else None
    return Written(config, config_text(tree, why, lines), grouped, spent, lines[2:])


def keep_paces(config: Config, data: Data, spent: Spent, gpus: list[Gpu]) -> None:
    """Let `plan` know what was measured, at the size that was chosen."""
    size = DataSize(data.num_train, data.num_test, data.height, data.width)
    slot = make_slots(config.compute, gpus, num_cores())[0]
    known = known_paces(config, size, slot, gpus)
    new = {name: spent.candidate.pace for name in config.members if name not in known}
    batches = {name: config.batch_size_of(name) for name in new}
    write_paces(
        {
            pace_key(config, name, size, slot, gpus): pace
            for name, pace in new.items()
            if batches[name] == pace.batch_size  # the user may have given another
        }
    )


def _command(root: Path, overrides: Sequence[str], budget: float, weights: Path | None) -> str:
    parts = ["distseg", "init", str(root), *overrides, "--budget", duration(budget)]
    return printable_path(shlex.join([*parts, *(["--weights", str(weights)] if weights else [])]))


def numbers(facts: Facts) -> Data:
    """The counts of the arithmetic."""
    asked = FoldsConfig.model_validate(facts.keys["data"].get("folds", {}))
    groups = facts.num_groups or len(set((facts.groups or {}).values()))
    found = divisions(facts.num_train, asked, groups=groups, validated=facts.num_validated,
                      listed=facts.listed)  # fmt: skip
    return Data(
        facts.num_train,
        facts.num_test,
        facts.height,
        facts.width,
        len(facts.keys["classes"]),
        folds=tuple(found),
        test=facts.test,
        object_widths=facts.objects,
    )


def _slots(gpus: list[Gpu]) -> list[Slot]:
    """The slots of a run: a GPU each, or on a CPU two cores each, and one where there are few."""
    cores = num_cores()
    compute = ComputeConfig() if gpus else ComputeConfig(slots=cpu_slots(cores))
    return make_slots(compute, gpus, cores)


def cpu_slots(cores: int) -> int:
    """Members that a CPU trains side by side: small nets gain little from many threads."""
    return cores if cores <= 2 else min(MAX_SLOTS, cores // 2)


# -- what is measured ------------------------------------------------------------------------------


def best_way(
    facts: Facts, data: Data, offer: Offer, slots: Sequence[Slot], gpus: list[Gpu],
    possible: Sequence[Size], budget: float, left: Callable[[], float],
) -> tuple[Spent, bool]:  # fmt: skip
    """(the best way to spend what is left of a budget, whether it fits): all that there is is
    measured at one size, and then what was chosen as it was chosen. Where that changes the choice,
    the new one is measured, too: what a step takes beside its pixels makes a smaller size look
    faster than it is. Of what was measured so, the best that fits. UserError as in
    `candidates`."""
    machine = Machine(len(slots), sum(slot.processes for slot in slots), members_per_job=100)
    seconds = min(MOST_S, max(LEAST_S, MEASURING_SHARE * budget))
    options = candidates(facts, data, offer, slots, gpus, possible, seconds)
    chosen = spend(options, data, machine, left())[0].candidate
    seconds = min(MOST_S, max(LEAST_S, AGAIN_SHARE * budget))
    shown: Shown = {}
    while (chosen.size, chosen.jobs) not in shown and len(shown) < MOST_AGAIN:
        pace = measured_again(chosen, facts, data, offer, slots, gpus, seconds)
        if pace is None:
            break
        shown[chosen.size, chosen.jobs] = pace
        options = paced(options, chosen.encoder, shown, facts)
        chosen = spend(options, data, machine, left())[0].candidate
    sure = [one for one in options if (one.size, one.jobs) in shown]
    best, fits = spend(sure or options, data, machine, left())
    return (best, fits) if fits else spend(options, data, machine, left())


def candidates(
    facts: Facts, data: Data, offer: Offer, slots: Sequence[Slot], gpus: list[Gpu],
    possible: Sequence[Size], seconds: float,
) -> list[Candidate]:  # fmt: skip
    """Each encoder at each size, by the pace of one size that is measured. UserError: nothing could
    be measured."""
    whole = [size for size in possible if size.fit != "crop"] or possible
    measured = min(whole, key=lambda size: _apart(size, MEASURED_PIXELS[bool(gpus)]))
    config = measured_config(facts, offer, measured, bool(gpus))
    size = DataSize(data.num_train, data.num_test, data.height, data.width)
    logger.info("measuring %s for about %s", " and ".join(e.name for e in offer.encoders),
                duration(seconds))  # fmt: skip
    # Each time anew: who else works on this machine decides, too. What was found before is for
    # where that fails.
    paces = known_paces(config, size, slots[0], gpus)
    paces |= measured_paces(config, size, slots if not gpus else slots[:1], gpus, seconds)
    found = [
        Candidate(number, size, pace, encoder.quality, encoder.weights is not None, tta, jobs,
                  first)
        for number, encoder in enumerate(offer.encoders) if f"m{number}" in paces
        for size in possible for tta in (True, False)
        for jobs, pace in _by_jobs(
            _scaled(paces[f"m{number}"], measured, size, facts, tta), len(slots), gpus
        )
        for first in dict.fromkeys((None, None if gpus else encoder.smaller(size)))
    ]  # fmt: skip
    memory = min((gpu.memory for gpu in gpus), default=0)
    fitting = [c for c in found if not memory or c.pace.memory < 0.9 * memory]
    if not fitting:
        raise UserError(
            f"{facts.root}: no network could be measured on this machine; `distseg doctor` says "
            "what is wrong with it"
        )
    return fitting


def measured_again(
    chosen: Candidate, facts: Facts, data: Data, offer: Offer, slots: Sequence[Slot],
    gpus: list[Gpu], seconds: float,
) -> Pace | None:  # fmt: skip
    """What a candidate takes at its own size, beside as many jobs as it has; None: that could not
    be measured."""
    encoder, size = offer.encoders[chosen.encoder], chosen.size
    config = measured_config(facts, replace(offer, encoders=(encoder,)), size, bool(gpus))
    images = DataSize(data.num_train, data.num_test, data.height, data.width)
    logger.info("measuring %s at %d x %d for about %s", encoder.name, size.height, size.width,
                duration(seconds))  # fmt: skip
    beside = slots[:1]
    if chosen.jobs is not None:
        beside = make_slots(ComputeConfig(slots=chosen.jobs), gpus, num_cores())
    return measured_paces(config, images, beside, gpus, seconds).get("m0")


def paced(
    options: Sequence[Candidate], encoder: int, shown: Shown, facts: Facts
) -> list[Candidate]:
    """The candidates of an encoder, each by what was measured at its size and number of jobs, or at
    the nearest. The other encoders are left out: one would be chosen for a hopeful figure that
    nobody has measured there."""

    def own(option: Candidate) -> Candidate:
        def away(key: tuple[Size, int | None]) -> tuple[float, bool]:
            return _apart(key[0], option.size.pixels), key[1] != option.jobs

        size, jobs = near = min(shown, key=away)
        pace = _scaled(shown[near], size, option.size, facts, option.tta)
        if jobs is not None and option.jobs is not None:
            pace = divided(pace, num_cores(), jobs, option.jobs)
        return replace(option, pace=pace)

    return [own(one) for one in options if one.encoder == encoder]


def _by_jobs(pace: Pace, slots: int, gpus: list[Gpu]) -> list[tuple[int | None, Pace]]:
    """A pace of one of as many jobs as there are slots, by each number of jobs that there may be:
    those of a CPU divide its cores."""
    if gpus:
        return [(None, pace)]
    return [(jobs, divided(pace, num_cores(), slots, jobs)) for jobs in range(1, slots + 1)]


def _scaled(pace: Pace, measured: Size, size: Size, facts: Facts, tta: bool) -> Pace:
    """The pace at a size, with what opening the train images has taken when they were looked at."""
    return replace(scaled(pace, measured, size, tta), prepare_s=facts.decode_s)


def _apart(size: Size, pixels: int) -> float:
    """0 where a size has so many pixels; the same for half as many as for twice."""
    return abs(math.log(size.pixels / pixels))


def measured_config(facts: Facts, offer: Offer, size: Size, gpu: bool) -> Config:
    """A config whose members m0, m1, ... are the encoders of an offer, at one size."""
    tiles = {"foreground": 0.5, "overlap": 0.25} if size.fit == "crop" else {}
    given = facts.keys.get("input", {})
    shown = {key: value for key, value in given.items() if key not in MEASURED["train"]}
    data = {key: value for key, value in facts.keys["data"].items() if key != "folds"}
    tree = {
        **facts.keys,
        "name": "measured",
        "data": data,  # of which a measurement takes a few images, in folds of its own
        "input": {**tiles, **shown, "channels": facts.channels, "height": size.height,
                  "width": size.width, "fit": size.fit},
        "augment": AUGMENT,
        "members": {f"m{n}": {**e.member(), "encoder_weights": None}
                    for n, e in enumerate(offer.encoders)},
        "stages": [{"loss": loss} for loss in LOSSES[facts.task]],
        "train": {"batch_size": batch_size(facts, size, gpu)},
        "predict": {"tta": ["hflip"], "batch_size": predict_batch(facts, size, gpu)},
    }  # fmt: skip
    return parse_config(tree, facts.root)


# -- what is written -------------------------------------------------------------------------------


def write(made: Written, path: Path, groups: Path) -> None:
    """Put the config, and the table of groups that it names, on disk. UserError: one is there."""
    for one in (path, *([groups] if made.groups else [])):
        if one.exists():
            raise UserError(f"{printable_path(one)}: is there already; choose another name with -o")
    if made.groups:
        write_table(groups, ("id", "group"), made.groups.items())
    atomic_write(path, made.text)
