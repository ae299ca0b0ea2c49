"""The front door: every command, its arguments, and what it calls.

A command is a function of the parsed arguments that returns the exit status; its docstring is its
help. It imports what it needs itself, so that `distseg --help` comes at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distseg.arguments import COMMANDS, LISTED, RUN, SCRIPTS, arg, candidates, command, parse
from distseg.records.errors import Stopped, UserError, printable_path
from distseg.records.paths import RUN_FOLDER, SWEEP_FOLDER
from distseg.records.terminal import complain, fit_streams, hang_up, refused, tell

if TYPE_CHECKING:
    from distseg.config.schema import Config
    from distseg.records.paths import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    fit_streams()
    args = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        return COMMANDS[args.command][0](args)
    except UserError as error:
        return complain(str(error), 2)
    except Stopped as stopped:
        tell(f"{stopped}: the jobs have saved their state; run it again to resume")
        return stopped.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `distseg status | head`
        return hang_up()
    except (OSError, MemoryError) as error:
        return complain(*refused(error))


# -- arguments ------------------------------------------------------------------------------------

CONFIG_HELP = "a YAML file, or a name that `distseg list configs` shows"
CONFIG = arg("config", CONFIG_HELP, metavar="CONFIG")
CONFIG_OR_DATA = arg("config", f"{CONFIG_HELP}; or a folder of data", metavar="CONFIG")
MAYBE_CONFIG = arg("config", CONFIG_HELP, metavar="CONFIG", nargs="?")
OVERRIDES = arg("overrides", "change a key of the config", metavar="key=value", nargs="*")
INIT = (
    arg("--budget", "time for the run of a folder, as 1h30m (default: 30m)", metavar="TIME"),
    arg("--weights", "folder of pretrained encoders, NAME.safetensors", type=Path, metavar="DIR"),
)  # fmt: skip
OUT = arg("--out", "the run folder (default: runs/<name>)", type=Path, metavar="DIR")


# -- what commands open ---------------------------------------------------------------------------


def _load(args: argparse.Namespace) -> Config:
    from distseg.config.find import find_config
    from distseg.config.load import load_config
    from distseg.data.layouts import OWN_SPLIT, with_own_split

    path = find_config(args.config)
    config = load_config(path, args.overrides)
    if with_own_split(config) is config:
        return config
    return load_config(path, [*args.overrides, OWN_SPLIT])


def _folder(args: argparse.Namespace, default: str, config: Config) -> Path:
    """The folder that a command writes to: --out, else the default one of the config's name."""
    return args.out or Path(default.format(name=config.name))


def _check(args: argparse.Namespace, folder: str | None = RUN_FOLDER, **purpose: Any) -> Config:
    """The config, after everything has been looked at that can be known before the first job.
    UserError lists all mistakes.

    folder: where the command writes to without --out; None: nowhere. purpose: see `Purpose`.
    """
    from distseg.api import checked_config

    out = None if folder is None else args.out
    return checked_config(args.config, args.overrides, out=out, default=folder, **purpose)


def _check_for_run(args: argparse.Namespace, **purpose: Any) -> tuple[Config, Run]:
    """A config without mistakes, and its run."""
    from distseg.records.paths import Run

    config = _check(args, **purpose)
    return config, Run(_folder(args, RUN_FOLDER, config))


def _read_run(folder: Path) -> tuple[Config, Run]:
    """A run that exists, by its own config."""
    from distseg.config.load import load_config
    from distseg.records.paths import find_run

    run = find_run(folder)
    return load_config(run.config), run


# -- commands -------------------------------------------------------------------------------------


@command(
    "run", CONFIG_OR_DATA, OVERRIDES, OUT,
    *INIT,
    arg("--until", "train no longer than 8h, 30m or until 22:30, and end with what is finished",
        metavar="TIME"),
)  # fmt: skip
def _run(args: argparse.Namespace) -> int:
    """Train, ensemble, predict and report. Finished steps are skipped: to resume, run it again. A
    key that may change makes again what depends on it: `distseg plan` says what. For a folder of
    data, `init` writes the config first."""
    from distseg.api import RunFailed, run

    options = {"budget": args.budget, "weights": args.weights}
    try:
        run(args.config, args.overrides, out=args.out, until=args.until, **options)
    except RunFailed as error:
        print(f"distseg: {error}", file=sys.stderr)
        return 1
    return 0


@command(
    "init", arg("data", "a folder of data", type=Path, metavar="DATA_DIR"), OVERRIDES,
    arg("-o", "the config to write, which names its run folder (default: NAME.yaml, of the "
        "data folder's name)", type=Path, dest="out", metavar="FILE"),
    *INIT,
)  # fmt: skip
def _init(args: argparse.Namespace) -> int:
    """Look at a folder of data and write a config that fits it, this machine and a budget."""
    from distseg.api import init

    options = {"out": args.out, "budget": args.budget, "weights": args.weights}
    print("\n".join(init(args.data, args.overrides, **options)[1]))
    return 0


@command(
    "plan", CONFIG, OVERRIDES, OUT,
    arg("--measure", "train and predict a few steps of each model first", action="store_true"),
)  # fmt: skip
def _plan(args: argparse.Namespace) -> int:
    """Show what `run` would do: jobs, time, disk and memory."""
    from distseg.run.plan import plan

    print(plan(*_check_for_run(args), measure=args.measure))
    return 0


@command(
    "bench", CONFIG, OVERRIDES, OUT,
    arg("--seconds", "time for each model (default: 20)", type=float, default=20.0),
    arg("--json", "print the figures as JSON", action="store_true"),
)  # fmt: skip
def _bench(args: argparse.Namespace) -> int:
    """Train and predict a few steps of each model here, say what limits them (loader, device, host,
    disk, memory), and which key to change. Exit status 1: a model could not be measured."""
    from distseg.run.bench import bench, bench_record, bench_text

    found = bench(*_check_for_run(args), args.seconds)
    print(json.dumps(bench_record(found), indent=2) if args.json else bench_text(found))
    return 1 if found.missing else 0


@command(
    "inspect", CONFIG_OR_DATA, OVERRIDES,
    arg("--out", "write inspect.html and inspect.json into this folder", type=Path, metavar="DIR"),
    arg("--json", "print the findings as JSON", action="store_true"),
)  # fmt: skip
def _inspect(args: argparse.Namespace) -> int:
    """Show what the data holds, and what is wrong with it. Exit status 1: something serious."""
    from distseg.api import is_data
    from distseg.run.look import look_at_data

    if is_data(args.config):
        from distseg.init.given import given_keys
        from distseg.init.look import reading_config

        given = given_keys(args.overrides, printable_path(args.config))
        config = reading_config(Path(args.config), given)
    else:
        config = _check(args, None, trains=False)
    text, serious = look_at_data(config, args.out, as_json=args.json)
    print(text)
    return 1 if serious else 0


@command(
    "train", CONFIG, OVERRIDES, OUT,
    arg("--member", "a key of the config's `members`", metavar="NAME"),
    arg("--fold", "the fold to leave out", type=int, metavar="K"),
    arg("--members", "several members, one after another", metavar="NAME:K,..."),
    arg("--round", "the round that they belong to (default: 0)", default="0"),
)  # fmt: skip
def _train(args: argparse.Namespace) -> int:
    """Train one member in this process group (what `accelerate launch` starts)."""
    from distseg.jobs.job import is_driven, local_rank, num_ranks, watch_launcher
    from distseg.records.paths import Run
    from distseg.run.launched import parse_members, parse_round, train_here, wait_for_first

    watch_launcher()  # before the seconds that the checks take, and importing torch
    if args.members is None and (args.member is None or args.fold is None):
        raise UserError("train: needs --member NAME and --fold K, or --members NAME:K,...")
    if is_driven():  # its run has looked at everything before
        config = _load(args)
    elif local_rank() == 0:
        config = _check(args, ranks=num_ranks())
    else:
        config = wait_for_first(
            lambda: _load(args), lambda config: Run(_folder(args, RUN_FOLDER, config))
        )
    run = Run(_folder(args, RUN_FOLDER, config))
    members = parse_members(config, args.members or f"{args.member}:{args.fold}")
    train_here(config, run, parse_round(args.round), members)
    return 0


@command(
    "find-lr", CONFIG, OVERRIDES, OUT,
    arg("--member", "a key of the config's `members`", metavar="NAME", required=True),
    arg("--fold", "the fold to leave out (default: 0)", type=int, metavar="K", default=0),
    arg("--steps", "updates at most (default: 100)", type=int, default=100),
)  # fmt: skip
def _find_lr(args: argparse.Namespace) -> int:
    """Suggest a learning rate: draw the loss while the rate grows."""
    from distseg.run.launched import find_lr_here

    config, run = _check_for_run(args, ranks=1)
    suggested = find_lr_here(config, run, args.member, args.fold, args.steps)["suggested"]
    print(f"suggested learning rate: {suggested:.1e} (pictures in {run.folder / 'find_lr'})")
    return 0


@command(
    "measure", RUN,
    arg("--seconds", "time to take", type=float, required=True),
    arg("--bench", "take a step apart", action="store_true"),
)  # fmt: skip
def _measure(args: argparse.Namespace) -> int:
    """Measure the models of a config; `plan --measure`, `bench` and `init` start it."""
    from distseg.records.paths import find_run
    from distseg.run.pace import measure_here

    measure_here(find_run(args.run), args.seconds, bench=args.bench)
    return 0


@command(
    "tune", CONFIG, OVERRIDES, OUT,
    arg("--postprocess", "tune the ensemble of a finished run, CONFIG", action="store_true"),
)  # fmt: skip
def _tune(args: argparse.Namespace) -> int:
    """Search the space of the config's `tune` section with Ray Tune. To resume, run it again."""
    from distseg.tune import postprocess, search

    if not args.postprocess:
        config = _check(args, SWEEP_FOLDER, sweep=True)
        return search.tune(config, _folder(args, SWEEP_FOLDER, config))
    if args.overrides or args.out:
        raise UserError("tune RUN --postprocess: takes a run folder, nothing else")
    print(postprocess.tune_postprocess(*_read_run(Path(args.config))))
    return 0


@command(
    "config", arg("what", "what to print", choices=["schema", "show"]), MAYBE_CONFIG, OVERRIDES
)
def _config(args: argparse.Namespace) -> int:
    """Print the JSON schema, or with `show CONFIG` a config with every default."""
    from distseg.config.load import dump_config, json_schema

    if args.what == "schema":
        print(json.dumps(json_schema(), indent=2))
        return 0
    if args.config is None:
        raise UserError("config show: needs a CONFIG")
    print(dump_config(_load(args)), end="")
    return 0


@command(
    "list",
    arg("what", "what to list", choices=LISTED),
    arg("word", "only those that hold this text", nargs="?", default=""),
)
def _list(args: argparse.Namespace) -> int:
    """List what a config may name: shipped configs, encoders, losses, metrics and the like."""
    from distseg.run.names import names

    print("\n".join(line for line in names(args.what) if args.word.lower() in line.lower()))
    return 0


@command("completion", arg("shell", "for which shell", choices=tuple(SCRIPTS)))
def _completion(args: argparse.Namespace) -> int:
    """Print what makes a shell complete commands, options, configs and keys."""
    print(SCRIPTS[args.shell])
    return 0


@command("complete", arg("words", "what follows `distseg` on the line so far", nargs="*"))
def _complete(args: argparse.Namespace) -> int:
    """Print what may stand in place of the last word; the scripts of `completion` call it."""
    print("\n".join(candidates(args.words)))
    return 0


@command(
    "doctor", MAYBE_CONFIG, OVERRIDES,
    arg("--launch", "really start two ranks (15 s)", action="store_true"),
)  # fmt: skip
def _doctor(args: argparse.Namespace) -> int:
    """Check whether this machine can run distseg, or CONFIG, and say what to mend."""
    from distseg.doctor.machine import examine

    try:
        config = _check(args, None) if args.config else None
    except UserError:  # the mistakes come after what can be said of the machine
        examine(None, launch=args.launch)
        raise
    return examine(config, launch=args.launch)


from distseg import outcomes  # noqa: E402, F401  its commands stand after these in --help
