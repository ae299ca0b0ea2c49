"""The front door. Imports nothing heavy before it knows what is asked for.

Exit status: 0 done, 1 failed, 2 the user's mistake.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distseg.arguments import parse
from distseg.records.errors import UserError, nearest

if TYPE_CHECKING:
    from distseg.config.schema import Config
    from distseg.records.paths import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        return COMMANDS[args.command](args)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"distseg: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `distseg status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# -- commands -------------------------------------------------------------------------------------


def find_config(name: str) -> Path:
    """A path, or a name in configs/. UserError with the nearest name."""
    if Path(name).is_file():
        return Path(name)
    folders = [Path("configs"), Path(__file__).resolve().parents[1] / "configs"]
    for folder in folders:
        for path in (folder / name, folder / f"{name}.yaml"):
            if path.is_file():
                return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    close = nearest(Path(name).stem, known)
    hint = f" Did you mean {close!r}?" if close else ""
    listed = f" In configs/: {', '.join(known)}" if known else ""
    raise UserError(f"{name}: no such config.{hint}{listed}")


def _load(args: argparse.Namespace) -> Config:
    from distseg.config.load import load_config

    return load_config(find_config(args.config), args.overrides)


def _check(args: argparse.Namespace, *, sweep: bool = False) -> Config:
    """The config, after everything has been looked at that can be known before the first job.
    sweep: `tune` needs more than the others. UserError lists all mistakes."""
    from distseg.config.load import load_tree, read_tree
    from distseg.run.check import refuse, run_of
    from distseg.tune.space import space_mistakes, sweep_mistakes

    path = find_config(args.config)
    read = read_tree(load_tree(path, args.overrides))
    extra = space_mistakes(read.config) if read.config else []
    extra += sweep_mistakes(read.config) if read.config and sweep else []
    folder = getattr(args, "out", None)
    return refuse(read, str(path), run_of(folder, read.config), extra)


def _check_run(args: argparse.Namespace) -> tuple[Config, Run]:
    from distseg.records.paths import Run

    config = _check(args)
    return config, Run(args.out or Path("runs") / config.name)


def _load_run(args: argparse.Namespace) -> tuple[Config, Run]:
    """Without a look at this machine: a job that a run has started, which has looked."""
    from distseg.records.paths import Run

    config = _load(args)
    return config, Run(args.out or Path("runs") / config.name)


def _open_run(folder: Path) -> tuple[Config, Run]:
    """A run that exists, by its own config."""
    from distseg.config.load import load_config
    from distseg.records.paths import Run

    run = Run(folder)
    if not run.config.is_file():
        raise UserError(f"{folder}: no run here (config.yaml is missing)")
    return load_config(run.config), run


def _run(args: argparse.Namespace) -> int:
    from distseg.run import pipeline
    from distseg.run.folder import Stopped

    config, run = _check_run(args)
    try:
        return pipeline.run(config, run.folder)
    except Stopped as stopped:
        print(f"distseg: {stopped}: jobs have saved; run it again to go on", file=sys.stderr)
        return stopped.status


def _plan(args: argparse.Namespace) -> int:
    from distseg.jobs.hardware import make_slots, num_cores, visible_gpus
    from distseg.run.measure import data_size, model_sizes
    from distseg.run.plan import plan_text

    config, run = _check_run(args)
    slots = make_slots(config.compute, visible_gpus(), num_cores())
    print(plan_text(config, run, slots, data_size(config, run), model_sizes(config)))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from distseg.data.formats import layout
    from distseg.data.inspect import inspect, report

    config = _check(args)
    form = layout(config.data.format)
    print(report(config, inspect(config, form.train(config)), len(form.test(config))))
    return 0


def _train(args: argparse.Namespace) -> int:
    _watch_launcher()
    from distseg.jobs.job import is_driven
    from distseg.run.launched import train_here

    config, run = _load_run(args) if is_driven() else _check_run(args)
    train_here(config, run, args.round, _members(args, config))
    return 0


def _watch_launcher() -> None:
    """A rank goes with its launcher, also in the seconds that importing torch takes."""
    from distseg.jobs.job import is_launched, watch_parent

    if is_launched():
        watch_parent()


def _find_lr(args: argparse.Namespace) -> int:
    from distseg.data.prepare import prepare
    from distseg.records.errors import unknown
    from distseg.records.manifest import Manifest
    from distseg.training.find_lr import find_lr

    config, run = _check_run(args)
    if args.member not in config.members:
        raise unknown("member", args.member, config.members, "--member: ")
    if args.steps < 10:
        raise UserError(f"--steps: {args.steps}: needs 10 or more")
    run.folder.mkdir(parents=True, exist_ok=True)
    prepare(config, run)
    known = Manifest.read(run.truth).folds
    if args.fold not in known:
        raise UserError(f"--fold {args.fold}: no such fold; valid: {known}")
    record = find_lr(config, run, args.member, args.fold, args.steps)
    folder = run.folder / "find_lr"
    print(f"suggested learning rate: {record['suggested']:.1e} (pictures in {folder})")
    return 0


def _members(args: argparse.Namespace, config: Config) -> list[tuple[str, int]]:
    """--member and --fold, or --members, checked against the config."""
    from distseg.records.errors import unknown

    texts = args.members.split(",") if args.members else []
    if not texts:
        if args.member is None or args.fold is None:
            raise UserError("train: needs --member NAME and --fold K, or --members NAME:K,...")
        texts = [f"{args.member}:{args.fold}"]
    members = []
    for text in texts:
        name, _, fold = text.rpartition(":")
        if not name or not fold.isdigit():
            raise UserError(f"train: {text!r}: write a member as NAME:FOLD")
        if name not in config.members:
            raise unknown("member", name, config.members, "--member: ")
        members.append((name, int(fold)))
    return members


def _predict_test(args: argparse.Namespace) -> int:
    _watch_launcher()
    from distseg.run.launched import predict_test_here

    _, run = _open_run(args.run)
    predict_test_here(run, args.round, *args.share)
    return 0


def _teach(args: argparse.Namespace) -> int:
    _watch_launcher()
    from distseg.run.launched import teach_here

    _, run = _open_run(args.run)
    teach_here(run, args.round)
    return 0


def _predict(args: argparse.Namespace) -> int:
    from distseg.inference.predict import predict_folder

    _open_run(args.run)
    predict_folder(args.run, args.images, args.out, rle_path=args.rle)
    return 0


def _tune(args: argparse.Namespace) -> int:
    if args.postprocess:
        return _tune_postprocess(args)
    from distseg.run.folder import Stopped
    from distseg.tune import search

    config = _check(args, sweep=True)
    try:
        return search.tune(config, args.out or Path("runs") / f"{config.name}-tune")
    except Stopped as stopped:
        print(f"distseg: {stopped}: the same command goes on", file=sys.stderr)
        return stopped.status


def _tune_postprocess(args: argparse.Namespace) -> int:
    from distseg.tune.postprocess import tune_postprocess

    if args.overrides or args.out:
        raise UserError("tune RUN --postprocess: takes a run folder, nothing else")
    config, run = _open_run(Path(args.config))
    print(tune_postprocess(config, run))
    return 0


def _score(args: argparse.Namespace) -> int:
    from distseg.submission.score import score_submission

    options = ("images", "height", "width", "num_classes", "void", "order", "base", "empty")
    given = {name: getattr(args, name) for name in options}
    record = score_submission(args.submission, args.truth, args.metric, **given)
    print(json.dumps(record, indent=2))
    return 0


def _status(args: argparse.Namespace) -> int:
    from distseg.run.status import status_text

    print(status_text(args.run))
    return 0


def _report(args: argparse.Namespace) -> int:
    from distseg.run.pipeline import report

    config, run = _open_run(args.run)
    print(report(config, run))
    return 0


def _config(args: argparse.Namespace) -> int:
    from distseg.config.load import dump_config, json_schema

    if args.what == "schema":
        print(json.dumps(json_schema(), indent=2))
        return 0
    if args.config is None:
        raise UserError("config show: needs a CONFIG")
    print(dump_config(_load(args)), end="")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from distseg.doctor.machine import examine

    config, mistakes = None, None
    if args.config:
        try:
            config = _check(args)
        except UserError as error:  # after what can be said of the machine
            mistakes = error
    status = examine(config, launch=args.launch)
    if mistakes is not None:
        raise mistakes
    return status


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "plan": _plan,
    "inspect": _inspect,
    "train": _train,
    "find-lr": _find_lr,
    "predict": _predict,
    "tune": _tune,
    "score": _score,
    "status": _status,
    "report": _report,
    "config": _config,
    "doctor": _doctor,
    "predict-test": _predict_test,
    "teach": _teach,
}
