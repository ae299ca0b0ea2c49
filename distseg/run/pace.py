"""Measuring the models of a config: in a process of its own, as a job would run, on a few images.

What is found is kept in the user's cache (`records/paces.py`), by all that it depends on, so that
`plan` and `init` need not measure again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from distseg.config.data import FoldsConfig
from distseg.config.load import dump_config, load_config
from distseg.config.member import MemberConfig
from distseg.config.rounds import RoundConfig
from distseg.config.schema import Config
from distseg.config.training import StageConfig
from distseg.jobs.guard import process_age
from distseg.jobs.hardware import Gpu, Slot, make_slots, num_cores, visible_gpus
from distseg.jobs.job import Job, watch_launcher
from distseg.jobs.local import LocalExecutor
from distseg.records.errors import UserError
from distseg.records.files import append_line, atomic_write, read_json_or, read_lines
from distseg.records.manifest import Manifest
from distseg.records.paces import (
    SAVING_SHARE,
    Pace,
    mean_pace,
    parse_pace,
    read_paces,
    write_paces,
)
from distseg.records.paths import Run
from distseg.run.measure import DataSize, data_size
from distseg.run.members import known_members

logger = logging.getLogger("distseg.run")
RESULTS = "paces.jsonl"
GRACE_S = 120.0  # beyond its time, that a measurement may take: imports on a busy machine
SAVE_S, START_S = 0.2, 8.0  # what a run does not write down of its jobs
MIN_IMAGES, MAX_IMAGES = 12, 160
MAX_VALUES = 48_000_000  # pixels of the images that a measurement decodes


def measure(
    config: Config, size: DataSize, slots: Sequence[Slot], seconds: float
) -> dict[str, Pace]:
    """The pace of each model of a config on slots that work side by side, as jobs of a run do,
    which slow each other down; models that could not be measured are missing.

    seconds: about what it may take in all. Nothing is fetched: weights are random.
    """
    found: dict[str, list[Pace]] = {}
    for line in measured_lines(config, size, slots, seconds):
        if (pace := parse_pace(line)) is not None:
            found.setdefault(str(line["name"]), []).append(pace)
    return {name: mean_pace(paces) for name, paces in found.items()}


def measured_lines(
    config: Config, size: DataSize, slots: Sequence[Slot], seconds: float, *options: str
) -> list[dict[str, Any]]:
    """What jobs of the command `measure` with these options have found, one on each slot at the
    same time, a line a model and slot; what they could not measure is a warning."""
    with tempfile.TemporaryDirectory(prefix="distseg-measure-") as scratch:
        runs = [Run(Path(scratch) / str(number)) for number in range(len(slots))]
        jobs, handles = [], []
        deadline = time.monotonic() + seconds + GRACE_S
        try:
            for run, slot in zip(runs, slots, strict=True):
                one = replace(slot, processes=1, devices=slot.devices[:1])
                run.folder.mkdir()
                atomic_write(run.config, dump_config(measuring(config, size, slot.processes)))
                command = ("measure", str(run.folder), "--seconds", f"{seconds:.1f}", *options)
                jobs.append(Job("measure", command, run.folder / "measure.log"))
                handles.append(LocalExecutor(run, [one]).start(jobs[-1], one))
            while any(handle.poll() is None for handle in handles) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for handle in handles:
                handle.kill()
        lines = [line for run in runs for line in read_lines(run.folder / RESULTS)]
        problems = {str(x.get("name")): x["problem"] for x in lines if "problem" in x}
        for name, problem in problems.items():
            logger.warning("%s: not measured: %s", name, problem)
        found = [x for x in lines if "problem" not in x and str(x.get("name")) in config.members]
        if not found and jobs[0].log.is_file():
            tail = jobs[0].log.read_text(errors="replace").strip().splitlines()[-1:]
            logger.warning("nothing could be measured: %s", " ".join(tail))
    return found


def measuring(config: Config, size: DataSize, ranks: int = 1) -> Config:
    """The config of a measurement: a few images, one fold, weights at random, an epoch that is long
    enough; a rank's share of a batch."""
    batches = [config.batch_size_of(name) for name in config.members]
    limit = max(MIN_IMAGES, min(MAX_IMAGES, 2 * max(batches)))
    limit = max(4, min(limit, MAX_VALUES // max(1, size.height * size.width)))
    data = config.data.model_copy(
        update={"limit": limit, "folds": FoldsConfig(kind="holdout", fraction=0.25),
                "allow_bad": True, "strict": False, "cache_dir": None}
    )  # fmt: skip
    if data.format == "synthetic":
        made = data.synthetic.model_copy(update={"num_train": limit, "num_test": 1})
        data = data.model_copy(update={"synthetic": made})
    members = {
        name: member.model_copy(
            update={
                "encoder_weights": _weights(member, config.stages_of(name)),
                "folds": None,
                "stages": None if member.stages is None else _plain(member.stages),
                "batch_size": max(1, config.batch_size_of(name) // ranks),
            }
        )
        for name, member in config.members.items()
    }
    train = config.train.model_copy(update={"steps_per_epoch": 100})
    compute = config.compute.model_copy(update={"executor": "local"})
    return config.model_copy(
        update={"data": data, "members": members, "train": train, "compute": compute,
                "stages": _plain(config.stages), "rounds": [RoundConfig()], "tune": None}
    )  # fmt: skip


def _weights(member: MemberConfig, stages: list[StageConfig]) -> str | None:
    """Random ones cost the same; only a frozen encoder may not have them."""
    stays = any(stage.freeze_encoder == "always" for stage in stages)
    return member.encoder_weights if stays else None


def _plain(stages: list[StageConfig]) -> list[StageConfig]:
    """Stages that any few images can train."""
    return [stage.model_copy(update={"positive_share": None, "rows": None}) for stage in stages]


def measure_here(run: Run, seconds: float, *, bench: bool = False) -> None:
    """What the job of `measure` does: a line of RESULTS for each model, as soon as it is known: its
    Pace, or with `bench` its Speed."""
    watch_launcher()
    began = time.perf_counter() - process_age()
    from distseg.data.inspect import inspect
    from distseg.data.layouts import layout
    from distseg.data.prepare import prepare
    from distseg.training.bench import bench_member
    from distseg.training.pace import measure_member

    config = load_config(run.config)
    config = prepare(config, run)
    rows = layout(config.data.format).train(config)
    mark = time.perf_counter()
    inspect(config, rows)
    prepare_s = (time.perf_counter() - mark) / max(1, len(rows))
    imports = time.perf_counter() - began
    for number, name in enumerate(config.members):
        left = max(0.0, began + seconds - time.perf_counter()) / (len(config.members) - number)
        try:
            if bench:
                append_line(run.folder / RESULTS, asdict(bench_member(config, run, name, left)))
                continue
            pace = measure_member(config, run, name, left, prepare_s)
        except Exception as error:  # noqa: BLE001 (one model's failure must not hide the others')
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            append_line(run.folder / RESULTS, {"name": name, "problem": problem[:300]})
            continue
        record = asdict(replace(pace, start_s=pace.start_s + imports))
        append_line(run.folder / RESULTS, {"name": name, **record})


# -- what is known ---------------------------------------------------------------------------------


def known_paces(config: Config, size: DataSize, slot: Slot, gpus: list[Gpu]) -> dict[str, Pace]:
    """Paces of a config's models that this machine has shown before."""
    every = read_paces()
    keys = {name: pace_key(config, name, size, slot, gpus) for name in config.members}
    return {name: every[key] for name, key in keys.items() if key in every}


def measured_paces(
    config: Config, size: DataSize, slots: Sequence[Slot], gpus: list[Gpu], seconds: float
) -> dict[str, Pace]:
    """Measure the models of a config on slots side by side, those once that differ in nothing that
    matters (a seed), and remember what was found."""
    keys = {name: pace_key(config, name, size, slots[0], gpus) for name in config.members}
    first = {key: name for name, key in reversed(keys.items())}
    members = {name: config.members[name] for name in config.members if name in first.values()}
    measured = measure(config.model_copy(update={"members": members}), size, slots, seconds)
    found = {keys[name]: pace for name, pace in measured.items()}
    write_paces(found)
    return {name: found[key] for name, key in keys.items() if key in found}


def remember(config: Config, run: Run) -> None:
    """Keep what a run on this machine has shown of models that are not measured, for `plan`."""
    if config.compute.executor != "local":
        return
    gpus = visible_gpus()
    slots, size = make_slots(config.compute, gpus, num_cores()), data_size(config, run)
    known = known_paces(config, size, slots[0], gpus)
    shown = {n: p for n, p in shown_by(config, run).items() if n not in known}
    write_paces({pace_key(config, n, size, slots[0], gpus): pace for n, pace in shown.items()})


def shown_by(config: Config, run: Run) -> dict[str, Pace]:
    """The pace of each model that a finished member of round 0 has shown."""
    manifest, found = Manifest.read(run.truth), dict[str, Pace]()
    for name, fold in known_members(config, run):
        paths = run.member(0, name, fold)
        rows, done = read_lines(paths.metrics), read_json_or(paths.done, {})
        val, kept = len(manifest.val_rows(fold)), done.get("snapshots") or []
        firsts, lasts = _image_seconds(rows, config, name)
        watching = done.get("watched_by") or val  # images of an evaluation
        if name in found or not (lasts and val and kept):
            continue
        scored = [
            (row.get("epoch_seconds", 0.0) - row.get("seconds", 0.0)) / watching
            for row in rows
            if row.get("score") is not None
        ]
        evaluate = max(0.0, statistics.mean(scored)) if scored else 0.0
        oof = done.get("oof_seconds", 0.0) / (val * len(kept))
        plain = evaluate if config.predict.tta else 0.0  # it is counted without views, too
        epoch = statistics.mean(row.get("epoch_seconds", 0.0) for row in rows)
        pace = Pace(
            batch_size=config.batch_size_of(name),
            step_s=config.batch_size_of(name) * statistics.mean(lasts),
            first_step_s=config.batch_size_of(name) * statistics.mean(firsts or lasts),
            spread=statistics.pstdev(lasts) / statistics.mean(lasts),
            evaluate_s=evaluate, predict_s=max(evaluate, oof - plain),
            save_s=min(SAVE_S, SAVING_SHARE * epoch), start_s=START_S, prepare_s=0.0, memory=0,
            saved=sum(done.get("files", {}).get(str(file), 0) for file in kept[:1]),
        )  # fmt: skip
        found |= {name: pace} if parse_pace(asdict(pace)) else {}
    return found


def _image_seconds(
    rows: Sequence[Mapping[str, Any]], config: Config, name: str
) -> tuple[list[float], list[float]]:
    """Seconds of an image in each epoch, as they would be at the size of the model's input: of the
    stages that have the first one's loss, where the last has another, and of all others. Their mean
    and not their middle, since what they add up to is what a run takes; without the first epoch of
    all, in which kernels are searched for, where there are others."""
    size, stages = config.input_of(name), config.stages_of(name)
    firsts, lasts = list[float](), list[float]()
    later = rows[1:] or rows
    for number, stage in enumerate(stages):
        share = stage.pixel_share((size.height, size.width))
        own = [row for row in later if row.get("stage", 0) == number and row.get("images_per_s")]
        of_first = stage.loss == stages[0].loss != stages[-1].loss
        (firsts if of_first else lasts).extend(1 / (share * row["images_per_s"]) for row in own)
    return firsts, lasts


def pace_key(config: Config, name: str, size: DataSize, slot: Slot, gpus: list[Gpu]) -> str:
    """A hash of all that a pace depends on: the network, its input and batch, the images' size,
    augmentation, precision, this machine, and the version of torch."""
    member = config.members[name].model_dump(
        mode="json", exclude={"encoder_weights", "folds", "stages", "input", "batch_size", "seed"}
    )
    shown = config.input_of(name).model_dump(
        mode="json", exclude={"mean", "std", "pad_mode", "normalize"}
    )
    compute = config.compute.model_dump(
        mode="json", include={"precision", "channels_last", "compile", "workers", "augment_on"}
    )
    augment = [one.model_dump(mode="json") for one in config.augment]
    stages, limit = config.stages_of(name), config.data.feature_cache_gb
    losses = [stage.loss.model_dump(mode="json") for stage in (stages[0], stages[-1])]
    frozen = [[s.freeze_encoder == "always", s.views] for s in (stages[0], stages[-1])] + [limit]
    parts: Mapping[str, Any] = {
        "member": member, "input": shown, "outputs": config.num_outputs, "task": config.task,
        "batch": config.batch_size_of(name) // slot.processes, "compute": compute,
        "accumulation": config.train.accumulation, "ema": config.train.ema_decay,
        "augment": augment, "loss": losses, "frozen": frozen, "tta": config.predict.tta,
        "images": [config.predict.batch_size, size.height, size.width],
        "threads": slot.threads, "device": device_name(slot, gpus), "torch": _torch_version(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def device_name(slot: Slot, gpus: list[Gpu]) -> str:
    """The GPU's name, or the CPU's with its cores."""
    if slot.devices:
        return next((gpu.name for gpu in gpus if gpu.device == slot.devices[0]), "GPU")
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} x {num_cores()}"


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise UserError("torch is not installed") from None
