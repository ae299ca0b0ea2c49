"""What a run trains: members, which are (model, fold), by round."""

from __future__ import annotations

from collections.abc import Iterable

from distseg.config.schema import Config
from distseg.data.folds import find_file
from distseg.jobs.job import measured_pace
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest, pair_folds
from distseg.records.paths import RoundKey, Run, is_teachers, members_on_disk, round_number
from distseg.records.tables import read_table

MemberKey = tuple[str, int]


def configured_folds(config: Config) -> list[int]:
    """The folds that the config makes, before any data is read."""
    folds = config.data.folds
    if folds.kind == "file" and folds.path and (path := find_file(config, folds.path)).is_file():
        found = {cells["fold"] or "" for _, cells in read_table(path, ["fold"])}
        return sorted(int(fold) for fold in found if fold.isdigit())
    return [0] if folds.kind in ("holdout", "split") else list(range(folds.num))


def known_folds(config: Config, run: Run) -> list[int]:
    """The folds of a run: by its Manifest where there is one, else by the config."""
    try:
        return Manifest.read(run.truth).folds if run.truth.is_file() else configured_folds(config)
    except UserError:  # damaged: the run's first step makes it again
        return configured_folds(config)


def known_members(config: Config, run: Run, round: RoundKey = 0) -> list[MemberKey]:
    """Members of a round, or of the pair teachers of a round."""
    folds = known_folds(config, run)
    if not is_teachers(round):
        return config.planned_members(folds, round)
    students = {fold for _, fold in config.planned_members(folds, round_number(round))}
    numbers = [number for number, pair in pair_folds(folds).items() if students & set(pair)]
    return [(name, number) for name in config.members for number in numbers]


def round_keys(config: Config, run: Run) -> list[RoundKey]:
    """All that is trained, in order: rounds, each after the pair teachers that it needs."""
    keys: list[RoundKey] = []
    for number, round_config in enumerate(config.rounds):
        if round_config.judges_labeled and round_config.judge == "pair":
            keys.append(run.teachers(number))
        keys.append(number)
    return keys


def unused_members(config: Config, run: Run) -> list[str]:
    """Finished members on disk that the config does not ask for, as ROUND:NAME_foldK."""
    planned = {
        run.member(key, *member).folder
        for key in round_keys(config, run)
        for member in known_members(config, run, key)
    }
    return [
        f"{key}:{paths.folder.name}"
        for key, paths in members_on_disk(run)
        if paths.folder not in planned and paths.done.is_file()
    ]


def member_costs(config: Config, run: Run, round: RoundKey = 0) -> dict[str, float]:
    """How long a member of each model takes, in units of its own: epochs by the pace that an
    earlier round has shown, and where none has, epochs x pixels of the canvas."""
    pace = shown_paces(config, run, round_keys(config, run)) if round != 0 else {}
    known = all(name in pace for name in config.members)
    costs = {}
    for name in config.members:
        size, stages = config.input_of(name), config.stages_of(name, round)
        pixels = [s.input_size or (size.height, size.width) for s in stages]
        costs[name] = sum(
            stage.schedule.epochs * (1.0 / pace[name] if known else height * width)
            for stage, (height, width) in zip(stages, pixels, strict=True)
        )
    return costs


def shown_paces(config: Config, run: Run, keys: Iterable[RoundKey]) -> dict[str, float]:
    """Images per second by model, by the first round that has trained it."""
    found: dict[str, float] = {}
    for key in keys:
        found = {**measured_pace(run, known_members(config, run, key), key), **found}
    return found
