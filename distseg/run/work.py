"""What the members of a config do, in counts: what `forecast` multiplies with measured seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from distseg.config.schema import Config
from distseg.data.fit import Fit
from distseg.functional.evaluations import evaluate_every, num_evaluations
from distseg.jobs.hardware import Slot
from distseg.records.log import duration
from distseg.records.paces import Pace
from distseg.records.paths import RoundKey
from distseg.run.forecast import Forecast, Machine, Work, forecast
from distseg.run.measure import DataSize

FORWARD_SHARE = 1 / 3  # of a training step's time, where nothing has shown it
Todo = tuple[RoundKey, str, int]  # round and model of a member, images that it trains on


def work_of(
    config: Config, name: str, images: int, val_images: float, key: RoundKey = 0,
    native: tuple[int, int] | None = None,
) -> Work:  # fmt: skip
    """What a member of model `name` does in a round.

    images: that it trains on, over all epochs; see `plan.member_images`. val_images: of its fold.
    native: height and width of the images; None: those of the input.
    """
    stages, size = config.stages_of(name, key), config.input_of(name)
    epochs = sum(stage.schedule.epochs for stage in stages)
    seen = [math.prod(stage.input_size or (size.height, size.width)) for stage in stages]
    pixels = sum(stage.schedule.epochs * own for stage, own in zip(stages, seen, strict=True))
    teacher = FORWARD_SHARE if config.recipe(key).has_mean_teacher else 0.0
    share = pixels / (epochs * size.height * size.width)
    updates = math.ceil(images / config.batch_size_of(name)) * share * (1 + teacher)
    first_pixels = sum(
        stage.schedule.epochs * own
        for stage, own in zip(stages, seen, strict=True)
        if stage.loss == stages[0].loss != stages[-1].loss
    )
    inner = config.train.inner_share
    watching = images / epochs * inner / (1 - inner) if inner else val_images
    shown = watching * Fit(size).predicted_pixels(*(native or (size.height, size.width)))
    every = config.train.evaluate_every
    evaluations = sum(
        num_evaluations(
            stage.schedule.epochs, stage.schedule.epochs_per_cycle,
            evaluate_every(images / epochs * own, shown) if every == "auto" else every,
        )
        for stage, own in zip(stages, seen, strict=True)
    )  # fmt: skip
    kept = num_snapshots(config, name, key)
    tta = bool(config.predict.tta)
    return Work(name, updates, epochs, evaluations, val_images, kept, tta, watching,
                updates * first_pixels / pixels, key)  # fmt: skip


def epoch_cost(config: Config, key: RoundKey) -> float:
    """How long an epoch of a round takes, as a multiple of one of the labeled rows alone: a mean
    teacher adds unlabeled images to each step, and its own forward pass."""
    recipe = config.recipe(key)
    if not recipe.has_mean_teacher:
        return 1.0
    return (1 + FORWARD_SHARE) / (1.0 if config.train.steps_per_epoch else 1 - recipe.share)


def num_snapshots(config: Config, name: str, key: RoundKey = 0) -> int:
    """Snapshots that a member keeps: those of its last stage."""
    stage = config.stages_of(name, key)[-1]
    if stage.swa:
        return 1
    cycles = stage.schedule.cycles
    return {"cycles": cycles, "best_of_cycles": cycles, "top_k": stage.top_k}.get(stage.keep, 1)


def val_images(config: Config, size: DataSize, num_folds: int) -> float:
    """Images that a fold validates, as far as the data or the config tells."""
    return size.num_train * held_share(config, size, num_folds)


def held_share(config: Config, size: DataSize, num_folds: int) -> float:
    """The share of the train images that a fold validates."""
    if size.held is not None:
        return size.held
    return 1 / num_folds if num_folds > 1 else config.data.folds.fraction


def config_forecast(
    config: Config, todo: Iterable[Todo], size: DataSize, slots: Sequence[Slot],
    paces: Mapping[str, Pace], num_folds: int, *, prepared: bool,
) -> Forecast:  # fmt: skip
    """How long a run takes whose members `todo` are not done. paces: of every model of them."""
    held = val_images(config, size, num_folds)
    native = size.height, size.width
    works = [work_of(config, name, images, held, key, native) for key, name, images in todo]
    machine = Machine(
        len(slots), sum(slot.processes for slot in slots), config.compute.members_per_job
    )
    return forecast(
        works, paces, machine, num_train=size.num_train,
        num_test=size.num_test * size.test_share,
        pixels=size.height * size.width, outputs=config.num_outputs, prepared=prepared,
    )  # fmt: skip


def measured_lines(
    config: Config, todo: Sequence[Todo], size: DataSize, slots: Sequence[Slot],
    paces: Mapping[str, Pace], num_folds: int, *, prepared: bool,
) -> list[str]:  # fmt: skip
    """What `plan` says of time and memory where all models are measured."""
    found = config_forecast(config, todo, size, slots, paces, num_folds, prepared=prepared)
    lines = [f"time: about {found.text()}, by what this machine has shown"]
    lines += [f"  {name:<30} {duration(seconds):>9}" for name, seconds in found.phases.items()]
    for name in dict.fromkeys(name for _, name, _ in todo):
        pace = paces[name]
        rate = pace.batch_size / pace.step_s
        memory = f", {pace.memory / 1e9:.1f} GB at the highest" if pace.memory else ""
        lines.append(
            f"  {name}: {rate:.1f} images/s in training, {1 / max(pace.predict_s, 1e-9):.1f} in "
            f"prediction{memory}, a snapshot of {pace.saved / 1e6:.1f} MB"
        )
    return lines
