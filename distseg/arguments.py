"""The commands' arguments. Imports nothing heavy: `distseg --help` is to come at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from distseg import __version__


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments; overrides `key=value` may stand anywhere after the config."""
    parser = make_parser()
    args, extra = parser.parse_known_args(argv)
    wrong = [text for text in extra if text.startswith("-") or "=" not in text]
    if wrong or (extra and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or extra)}")
    if extra:
        args.overrides = [*args.overrides, *extra]
    return args


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distseg",
        description="From a segmentation competition's files to an ensembled submission.",
    )
    parser.add_argument("--version", action="version", version=f"distseg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, help: str | None) -> argparse.ArgumentParser:
        if help is None:  # a hidden command: what a launcher starts
            return commands.add_parser(name)
        return commands.add_parser(name, description=help, help=help)

    def with_config(command: argparse.ArgumentParser, out: bool = True) -> None:
        command.add_argument("config", metavar="CONFIG", help="a YAML file, or a name in configs/")
        command.add_argument("overrides", metavar="key=value", nargs="*", help="config overrides")
        if out:
            command.add_argument("--out", type=Path, help="the run folder (default: runs/<name>)")

    with_config(add("run", "everything: train, ensemble, submission, report; also resumes"))
    with_config(add("plan", "what run would do: jobs, time, disk, memory"))
    with_config(add("inspect", "what the data holds, and what is wrong with it"), False)

    train = add("train", "one member, in this process group (what accelerate launches)")
    with_config(train)
    train.add_argument("--member", metavar="NAME", help="a key of the config's `members`")
    train.add_argument("--fold", type=int, metavar="K", help="the fold to leave out")
    train.add_argument("--members", metavar="NAME:K,...", help="several members in a row")
    train.add_argument("--round", type=_round_key, default=0, help="default: 0")

    find_lr = add("find-lr", "the loss over a growing learning rate: a picture, a rate")
    with_config(find_lr)
    find_lr.add_argument("--member", metavar="NAME", required=True)
    find_lr.add_argument("--fold", type=int, metavar="K", default=0, help="default: 0")
    find_lr.add_argument("--steps", type=int, default=100, help="updates at most (default: 100)")

    predict = add("predict", "a finished ensemble on new images: masks, and an RLE file")
    _run_argument(predict)
    predict.add_argument("--images", type=Path, required=True, metavar="DIR")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="for PNG masks")
    predict.add_argument("--rle", type=Path, metavar="FILE", help="write an RLE file too")

    tune = add("tune", "a sweep of the config's `tune` section on Ray Tune; also resumes")
    with_config(tune)
    tune.add_argument(
        "--postprocess", action="store_true",
        help="CONFIG is a finished run: search space, weights, threshold, area and gate jointly",
    )  # fmt: skip

    score = add("score", "a submission against the truth")
    score.add_argument("submission", type=Path, metavar="SUBMISSION", help="CSV or mask folder")
    score.add_argument("truth", type=Path, metavar="TRUTH", help="CSV or mask folder")
    score.add_argument("--metric", required=True, metavar="NAME")
    score.add_argument("--images", type=Path, metavar="DIR", help="whose sizes the RLE masks have")
    score.add_argument("--height", type=int, help="pixels of every RLE mask, instead of --images")
    score.add_argument("--width", type=int, help="pixels of every RLE mask")
    score.add_argument("--num-classes", type=int, metavar="N", help="masks hold class indices")
    score.add_argument("--void", type=int, metavar="N", help="the truth's void value")
    score.add_argument("--order", choices=["column", "row"], default="column", help="of RLEs")
    score.add_argument("--base", type=int, choices=[0, 1], default=1, help="an RLE's first pixel")
    score.add_argument("--empty", default="", metavar="TEXT", help="an RLE without an object")

    _run_argument(add("status", "where a run stands"))
    _run_argument(add("report", "write report.html and report.json again"))

    config = add("config", "`schema`: the JSON schema; `show CONFIG`: resolved")
    config.add_argument("what", choices=["schema", "show"])
    config.add_argument("config", metavar="CONFIG", nargs="?")
    config.add_argument("overrides", metavar="key=value", nargs="*")

    doctor = add("doctor", "whether this machine can do it, and what to mend")
    doctor.add_argument("config", metavar="CONFIG", nargs="?")
    doctor.add_argument("overrides", metavar="key=value", nargs="*")
    doctor.add_argument("--launch", action="store_true", help="really start two ranks (15 s)")

    test = add("predict-test", None)
    _run_argument(test)
    test.add_argument("--round", type=int)
    test.add_argument("--share", type=_share, required=True, help="FIRST/COUNT/TOTAL")
    teach = add("teach", None)
    _run_argument(teach)
    teach.add_argument("--round", type=int, required=True)
    return parser


def _round_key(text: str) -> int | str:
    """A round's number, or NUMBER/teachers."""
    number, slash, rest = text.partition("/")
    if not number.isdigit() or (slash and rest != "teachers"):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as 1 or 1/teachers")
    return text if slash else int(number)


def _share(text: str) -> tuple[int, ...]:
    """Three whole numbers."""
    return tuple(map(int, text.split("/")))


def _run_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder")
