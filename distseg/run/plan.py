"""What `run` would do: the jobs, and what they need. Arithmetic; starts nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from distseg.config.schema import Config
from distseg.jobs.hardware import Slot, make_slots, num_cores, visible_gpus
from distseg.jobs.job import Job, train_job
from distseg.records.finished_member import is_done
from distseg.records.log import counted, duration
from distseg.records.paces import Pace
from distseg.records.paths import MemberPaths, RoundKey, Run, is_teachers, member_id, round_number
from distseg.run.changes import change_lines, find_changes
from distseg.run.forecast import makespan
from distseg.run.measure import DataSize, ModelSize, data_size, feature_bytes, model_sizes
from distseg.run.members import (
    MemberKey,
    known_folds,
    known_members,
    member_costs,
    round_keys,
    shown_paces,
)
from distseg.run.pace import known_paces, measured_paces
from distseg.run.work import held_share, measured_lines, num_snapshots, val_images

Item = TypeVar("Item")
NO_PACES: Mapping[str, Pace] = {}
MEASURE_S = 40.0  # that measuring takes; a process starts before, and models are counted after
PROCESS_BYTES = 700 << 20  # a Python with torch, timm, smp and albumentations imported, measured


def make_jobs(
    config: Config, run: Run, members: Sequence[MemberKey], num_slots: int, round: RoundKey = 0,
    again: Container[Path] = (),
) -> list[Job]:  # fmt: skip
    """Jobs for the members that are not done, longest first: `members_per_job` in a row, and fewer
    where slots would stay empty. again: folders of members that are done and made again."""
    todo = [one for one in members if not _stays(run.member(round, *one), again)]
    costs = member_costs(config, run, round)
    todo = longest_first(todo, [costs[name] for name, _ in todo])
    size = min(config.compute.members_per_job, math.ceil(len(todo) / max(1, num_slots)))
    return [
        train_job(run, round, todo[start : start + size])
        for start in range(0, len(todo), max(1, size))
    ]


def _stays(paths: MemberPaths, again: Container[Path]) -> bool:
    return is_done(paths) and paths.folder not in again


def longest_first(items: Sequence[Item], costs: Sequence[float]) -> list[Item]:
    """In the order of falling costs, equal ones as they come. Each given to the first free slot,
    the last one ends within a third of the best possible time (Graham 1969, "Bounds on
    multiprocessing timing anomalies"), and far nearer with many items."""
    order = sorted(range(len(items)), key=lambda index: -costs[index])
    return [items[index] for index in order]


def member_images(
    config: Config, name: str, size: DataSize, num_folds: int, key: RoundKey = 0
) -> int:
    """Images that training one member reads: train rows x epochs, at most: what rules drop is not
    known before. Pseudo-labels are counted as all test images, or what `top` leaves of them."""
    if steps := config.train.steps_per_epoch:
        return steps * config.batch_size_of(name) * config.epochs_of(name, key)
    missing = 2 if is_teachers(key) else 1
    share = max(0.0, 1 - missing * held_share(config, size, num_folds))
    share *= 1 - config.train.inner_share
    own, extra = round(size.num_train * share), _pseudo_rows(config, size, key)
    recipe, total = config.recipe(key), 0
    for number, stage in enumerate(config.stages_of(name, key)):
        which = config.rows_of_stage(name, key, number)
        rows = {"labeled": own, "pseudo": extra}.get(which, own + extra)
        if which == "all" and recipe.mix == "ratio" and extra:
            rows = round(own / (1 - recipe.share))
        if recipe.has_mean_teacher:
            rows = round(rows / (1 - recipe.share))
        total += rows * stage.schedule.epochs
    return total


def _pseudo_rows(config: Config, size: DataSize, key: RoundKey) -> int:
    """Pseudo-labels of a round at most; rounds inherit them from the one before."""
    if is_teachers(key):
        return 0
    for round_config in reversed(config.rounds[: round_number(key) + 1]):
        if round_config.kind == "supervised":
            return 0
        if round_config.makes_pseudo:
            most = int((round_config.top_share or 1.0) * size.num_test)
            return min(most, round_config.top or most)
    return 0


def disk_bytes(
    config: Config,
    size: DataSize,
    models: Mapping[str, ModelSize],
    planned: Mapping[RoundKey, Sequence[MemberKey]],
    num_slots: int,
    num_folds: int,
) -> dict[str, int]:
    """Bytes on disk by what they hold. planned: members by round."""
    pixels = size.height * size.width
    targets = len(config.classes) if config.task == "multilabel" else 1
    weights = {name: 4 * models[name].parameters for name in config.members}
    oof_images = val_images(config, size, num_folds)
    everyone = [(key, name) for key, members in planned.items() for name, _ in members]
    logits = sum(oof_images * num_logits(config, name, key) for key, name in everyone)
    reads_tests = any(r.makes_pseudo or r.has_mean_teacher for r in config.rounds)
    unlabeled = reads_tests * size.num_test * size.test_share
    bytes_each = pixels * (config.input.channels + targets)
    return {
        "decode cache": round((size.num_train + unlabeled) * bytes_each),
        "feature maps (float16)": feature_bytes(config, size, models, planned),
        "out-of-fold logits (float16)": round(logits * pixels * config.num_outputs * 2),
        "soft targets (float16)": round(
            _soft_rows(config, size, num_folds) * pixels * config.num_outputs * 2
        ),
        "snapshots": sum(
            num_snapshots(config, name, key) * weights[name] for key, name in everyone
        ),
        # weights and two moments, of members that could go on
        "kept states": sum(
            weights[name] + 8 * models[name].learning
            for key, name in everyone
            if config.keeps_state(name, key)
        ),
        # weights, two moments and averaged weights, and the copy that is being written
        "resume states": num_slots
        * 2
        * max(weights[name] + 12 * models[name].learning for name in config.members),
        "test masks": round(size.num_test * size.test_share * pixels / 8),
    }


def num_logits(config: Config, name: str, key: RoundKey) -> int:
    """Out-of-fold logits that a member leaves of the images of a fold."""
    if is_teachers(key):
        return 2  # of both folds that it leaves out
    snapshots = num_snapshots(config, name, key)
    return 1 + snapshots if snapshots > 1 and config.ensemble.snapshots == "search" else 1


def _soft_rows(config: Config, size: DataSize, num_folds: int) -> float:
    """Rows of logits that teachers leave, over all rounds and students, in train images."""
    rows = 0.0
    for round_config in config.rounds:
        if not round_config.makes_soft:
            continue
        students = 1 if round_config.judge == "all" else num_folds
        rows += students * size.num_test * size.test_share * round_config.makes_pseudo
        rows += (1 if round_config.judge in ("all", "oof") else num_folds) * size.num_train * (
            round_config.judges_labeled
        )  # fmt: skip
    return rows


def memory_bytes(config: Config, models: Mapping[str, ModelSize], slot: Slot) -> dict[str, int]:
    """Bytes of one rank while it trains, by model: weights, gradients, two moments, averaged
    weights where a round has them; activations of a micro-batch in float32."""
    averages = any(r.decay_of_averages(config.train.ema_decay) for r in config.rounds)
    needed = {}
    for name, model in models.items():
        micro = config.batch_size_of(name) / (config.train.accumulation * slot.processes)
        weights = 4 * model.parameters + (12 + 4 * averages) * model.learning
        needed[name] = weights + round(micro * model.activation_bytes)
    return needed


def plan(config: Config, run: Run, *, measure: bool = False) -> str:
    """What `distseg plan` prints, for this machine. Builds each model once, to count it; with
    `measure` it trains and predicts a few steps of each, about MEASURE_S. UserError: the run is
    there, and cannot have this config."""
    changed = find_changes(config, run)
    changed.refuse()
    gpus, size = visible_gpus(), data_size(config, run)
    slots = make_slots(config.compute, gpus, num_cores())
    if measure:
        busy = slots[: max(1, len(known_members(config, run)))]
        paces = measured_paces(config, size, busy, gpus, MEASURE_S)
    else:
        paces = known_paces(config, size, slots[0], gpus)
    again = {paths.folder for _, paths, _ in changed.outdated()}
    text = plan_text(config, run, slots, size, model_sizes(config), paces, again)
    lines = change_lines(changed)
    head = [f"{run.folder}: the config has changed", *lines, ""] if lines else []
    return "\n".join([*head, text])


def plan_text(
    config: Config, run: Run, slots: Sequence[Slot], size: DataSize,
    models: Mapping[str, ModelSize], paces: Mapping[str, Pace] = NO_PACES,
    again: Container[Path] = (),
) -> str:  # fmt: skip
    """The plan for a machine with these slots, from counts and sizes. paces: what is measured.
    again: as of `make_jobs`."""
    planned = {key: known_members(config, run, key) for key in round_keys(config, run)}
    num_folds = (
        1 if config.data.folds.kind in ("holdout", "split") else len(known_folds(config, run))
    )
    jobs = [
        job
        for key, own in planned.items()
        for job in make_jobs(config, run, own, len(slots), key, again)
    ]
    total = sum(map(len, planned.values()))
    rounds = f", {len(config.rounds)} rounds" if len(config.rounds) > 1 else ""
    models_folds = f"{counted(len(config.members), 'model')} x {counted(num_folds, 'fold')}"
    lines = [
        f"{config.name}: {models_folds}{rounds} = {counted(total, 'member')}",
        f"data: {size.num_train} train and {size.num_test} test images of about "
        f"{size.height} x {size.width} pixels",
        _slots_line(slots),
        "",
    ]
    for key, members in planned.items():
        lines += [_round_line(config, key)] if len(planned) > 1 else []
        lines += [*_member_lines(config, run, key, members, size, models, num_folds, again), ""]
    lines += [
        f"{counted(len(jobs), 'job')} to start, "
        f"{counted(total - sum(len(j.members) for j in jobs), 'member')} done already",
        *_time_lines(config, run, planned, jobs, slots, size, num_folds, paces),
        "",
        *_disk_lines(config, run, planned, slots, size, models, num_folds),
        *_memory_lines(config, slots, models),
    ]
    return "\n".join(lines)


def _round_line(config: Config, key: RoundKey) -> str:
    if is_teachers(key):
        return f"teachers of round {round_number(key)}, each without two folds"
    round_config = config.rounds[int(key)]
    teacher = f", teacher: {round_config.judge}" if round_config.has_teachers else ""
    word = f" ({config.flag(key)})" if round_config.kind != "supervised" else ""
    return f"round {key}: {round_config.kind}{teacher}{word}"


def _slots_line(slots: Sequence[Slot]) -> str:
    first = slots[0]
    where = f"GPUs {' '.join(','.join(s.devices) for s in slots)}" if first.devices else "CPU"
    each = f"{counted(first.processes, 'rank')} each, {counted(first.threads, 'thread')} a rank"
    return f"{counted(len(slots), 'job')} at a time on {where}: {each}"


def _member_lines(
    config: Config, run: Run, key: RoundKey, members: Sequence[MemberKey], size: DataSize,
    models: Mapping[str, ModelSize], num_folds: int, again: Container[Path],
) -> list[str]:  # fmt: skip
    header = f"{'member':<32} {'params':>8} {'epochs':>6} {'images':>10} {'snapshots':>9}  state"
    lines = [header]
    for name, fold in members:
        epochs = config.epochs_of(name, key)
        paths = run.member(key, name, fold)
        state = "to do" if not is_done(paths) else "again" if paths.folder in again else "done"
        lines.append(
            f"{member_id(name, fold):<32} {models[name].parameters / 1e6:>7.1f}M {epochs:>6} "
            f"{member_images(config, name, size, num_folds, key):>10,} "
            f"{num_snapshots(config, name, key):>9}  {state}"
        )
    return lines


def _time_lines(
    config: Config, run: Run, planned: Mapping[RoundKey, Sequence[MemberKey]],
    jobs: Sequence[Job], slots: Sequence[Slot], size: DataSize, num_folds: int,
    paces: Mapping[str, Pace],
) -> list[str]:  # fmt: skip
    pace = shown_paces(config, run, planned)
    todo = [(job.round, name) for job in jobs for name, _ in job.members]
    needed = [(name, member_images(config, name, size, num_folds, key)) for key, name in todo]
    lines = [f"{counted(sum(images for _, images in needed), 'image')} to train on"]
    early = {n for k, n in todo if any(s.early_stopping for s in config.stages_of(n, k))}
    if early:
        lines[0] += f", at most: early_stopping may end {', '.join(sorted(early))} before"
    if todo and all(name in paces for name, _ in needed):
        work = [(key, name, images) for (key, _), (name, images) in zip(todo, needed, strict=True)]
        return [
            *lines,
            *measured_lines(
                config, work, size, slots, paces, num_folds, prepared=run.truth.is_file()
            ),
        ]
    if not todo:
        return lines
    if any(name not in pace for name, _ in needed):
        unknown = "time: unknown until the first epoch of each model; --measure finds out"
        return [*lines, unknown]
    by_round = dict[RoundKey, list[float]]()
    for job in jobs:
        seconds = (member_images(config, name, size, num_folds, job.round) / pace[name]
                   for name, _ in job.members)  # fmt: skip
        by_round.setdefault(job.round, []).append(sum(seconds))
    hours = sum(map(sum, by_round.values())) / 3600 * config.compute.gpus_per_job
    gpus = f", {hours:.2f} GPU-hours" * bool(slots[0].devices)
    left = sum(makespan(own, len(slots)) for own in by_round.values())  # one after the other
    return [*lines, f"time: about {duration(left)}{gpus}, at the pace of this run"]


def _disk_lines(
    config: Config, run: Run, planned: Mapping[RoundKey, Sequence[MemberKey]],
    slots: Sequence[Slot], size: DataSize, models: Mapping[str, ModelSize], num_folds: int,
) -> list[str]:  # fmt: skip
    parts = disk_bytes(config, size, models, planned, len(slots), num_folds)
    needed, free = sum(parts.values()), free_bytes(run.folder)
    lines = [f"disk, when finished: {amount(needed)} of {amount(free)} free at {run.folder}"]
    lines += [f"  {name:<30} {amount(value):>9}" for name, value in parts.items()]
    if needed > free:
        lines.append("  NOT ENOUGH: free some, or use --out on another disk")
    return lines


def _memory_lines(
    config: Config, slots: Sequence[Slot], models: Mapping[str, ModelSize]
) -> list[str]:
    needed = memory_bytes(config, models, slots[0])
    worst = max(needed, key=lambda name: needed[name])
    ranks = len(slots) * slots[0].processes
    if slots[0].devices:
        host = f"memory: about {amount(ranks * PROCESS_BYTES)} for {counted(ranks, 'rank')}"
        return [host, f"GPU memory: about {amount(needed[worst])} a rank ({worst}; float32)"]
    total = ranks * (PROCESS_BYTES + needed[worst])
    return [f"memory: about {amount(total)} for {counted(ranks, 'rank')} ({worst} needs most)"]


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that `folder` is, or will be, on."""
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    return shutil.disk_usage(existing).free


def amount(num_bytes: float) -> str:
    """Bytes as a person reads them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
