"""Keys that are valid by themselves and would do nothing: a rule for a head that no model has, what
an earlier stage is to keep, a patience that is longer than the stage."""

from __future__ import annotations

from collections.abc import Iterator

from distseg.config.schema import Config
from distseg.config.training import BY_SCORE, StageConfig
from distseg.functional.evaluations import num_evaluations

# By the key of a patience that is never reached: what becomes of it, and what to write instead.
OUT_OF_REACH = {
    "schedule": ("the learning rate never falls", "write kind: constant"),
    "early_stopping": ("the stage never ends early", "leave early_stopping out"),
}


def vain_mistakes(config: Config) -> Iterator[str]:
    """A line for each key that nothing would come of."""
    if config.postprocess.gate == "search" and config.task != "multiclass":
        yield from _gate(config)
    written = list(config.written_stages())
    last = {key.rpartition(".")[0]: key for key, _ in written}
    for key, stage in written:
        if key != last[key.rpartition(".")[0]]:
            yield from _kept(key, stage)
        yield from _patience(config, key, stage)


def _gate(config: Config) -> Iterator[str]:
    """A gate needs a model with a head in some round."""
    heads = [name for name, model in config.members.items() if model.image_head is not None]
    planned = _planned(config)
    if not set(heads) & set(planned):
        first = next((name for name in planned if name not in heads), next(iter(config.members)))
        untrained = (
            f"; that of {', '.join(heads)} is not trained (rounds[].members, members.NAME.folds, "
            "data.folds.use)"
        )
        yield (
            "postprocess.gate: search: needs an image head; write "
            f"members.{first}.image_head: .1{untrained if heads else ''}"
        )


def _planned(config: Config) -> list[str]:
    """The models that train in any round, as far as the config alone says it: of folds from a file
    those that the config names, or one that it does not name."""
    folds = config.data.folds
    every = list(range(1 if folds.kind in ("holdout", "split") else folds.num))
    if folds.kind == "file":
        own = [fold for member in config.members.values() for fold in member.folds or []]
        every = sorted({0, *own, *(folds.use or [])})
    found = [config.planned_members(every, key) for key in range(len(config.rounds))]
    return list(dict.fromkeys(name for one in found for name, _ in one))


def _kept(key: str, stage: StageConfig) -> Iterator[str]:
    """Snapshots are taken of the last stage alone: what chooses or averages them is in vain before.
    `keep: cycles` chooses nothing, and may stay where a stage has been added behind it."""
    asked = {
        "keep": stage.keep if stage.keep in BY_SCORE else "",
        "swa": "true" if stage.swa else "",
    }
    for name, value in asked.items():
        if value:
            yield (
                f"{key}.{name}: {value}: only the last stage leaves snapshots, and the next stage "
                "begins from the weights at the end of this one; leave it out here"
            )


def _patience(config: Config, key: str, stage: StageConfig) -> Iterator[str]:
    every = config.train.evaluate_every
    if every == "auto":  # what that is depends on the data, and is said in the member's log
        every = 1
    yield from (f"{key}.{line}" for line in out_of_reach(stage, every))


def out_of_reach(stage: StageConfig, every: int) -> Iterator[str]:
    """A line for each patience that a stage never reaches, which begins with its key.

    every: epochs from one evaluation to the next. The first evaluation is always a gain.
    """
    epochs = stage.schedule.epochs
    number = num_evaluations(epochs, stage.schedule.epochs_per_cycle, every)
    rare = "" if number == epochs else f", of which {number} are evaluated (train.evaluate_every)"
    for one in stage.followers:
        if one.waits >= number:
            happens, instead = OUT_OF_REACH[one.key]
            most = one.patience - one.waits + number - 1
            yield (
                f"{one.key}.patience: {one.patience} evaluations of {epochs} epochs{rare}: "
                f"{happens}; {f'at most {most}' if number > 1 else instead}"
            )
