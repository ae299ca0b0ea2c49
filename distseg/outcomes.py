"""The commands about what runs have found: predict, compare, report, export, score, status; and
those that a driver launches with the folder of its run.

As those of `cli.py`: each imports what it needs itself, and nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from distseg.arguments import RUN, arg, command
from distseg.records.errors import UserError

BESIDE = Path()  # the place of an output whose folder is not named: beside that of the masks


@command(
    "predict", RUN,
    arg("--images", "an image, a folder with all below it, or a glob", type=Path, required=True,
        metavar="PATH", nargs="+"),
    arg("--out", "folder for the masks, PNG", type=Path, required=True, metavar="DIR"),
    arg("--rle", "write a table of RLEs too", type=Path, metavar="FILE"),
    arg("--values", "of the masks: those of the data set's own masks (default); 0 and 255; 0 and 1 "
        "or class numbers", choices=["data", "255", "index"], default="data"),
    arg("--probabilities", "write them too, .npy (default: OUT_probabilities)", type=Path,
        metavar="DIR", nargs="?", const=BESIDE),
    arg("--overlay", "write images with their masks too (default: OUT_overlay)", type=Path,
        metavar="DIR", nargs="?", const=BESIDE),
)  # fmt: skip
def _predict(args: argparse.Namespace) -> int:
    """Predict new images with the ensemble of a finished run: masks, and what is asked for."""
    from distseg.jobs.job import watch_launcher

    watch_launcher()  # ranks of an `accelerate launch` go with it
    from distseg.inference.predict_files import predict_files

    out = Path(os.path.abspath(args.out))  # noqa: PTH100 (`.` and `a/..` have no name)
    beside = {
        name: out.parent / f"{out.name}_{name}" if path is BESIDE else path
        for name in ("probabilities", "overlay")
        for path in (getattr(args, name),)
    }
    found = predict_files(
        args.run, args.images, args.out, args.rle, values=args.values,
        probabilities=beside["probabilities"], overlays=beside["overlay"],
    )  # fmt: skip
    if found.is_first:
        print(found.line)
    return 0 if found.written else 1


@command(
    "export", RUN,
    arg("overrides", "with --student: change a key of its config", metavar="key=value", nargs="*"),
    arg("--out", "the new folder (--student: RUN-student)", type=Path, metavar="DIR"),
    arg("--format", "ensemble: one folder that predicts (default); smp, onnx, torch: each member",
        choices=["ensemble", "smp", "onnx", "torch"], default="ensemble"),
    arg("--members", "those that go, such as unet:0,unet:1", default="", metavar="NAME:K,..."),
    arg("--images", "real images to check onnx and torch files on (default: the run's)", type=Path,
        metavar="DIR"),
    arg("--student", "distill one small model from the ensemble, on this encoder (default: that of "
        "the run's smallest model)", metavar="ENCODER", nargs="?", const=""),
    arg("--push", "send the folder to the model hub too, as a private repository; see "
        "docs/results.md", metavar="OWNER/NAME"),
    arg("--public", "with --push: everybody may see a repository that is new", action="store_true"),
)  # fmt: skip
def _export(args: argparse.Namespace) -> int:
    """Write a run's ensemble as a folder that predicts anywhere, its members as smp, ONNX or
    torch.export models, or one small model that learns from it."""
    from distseg.api import RunFailed, export_run
    from distseg.export.graph import ExportFailed
    from distseg.export.push import PushFailed

    if args.public and not args.push:
        raise UserError("--public: is for --push OWNER/NAME")
    if args.student is None and args.overrides:
        raise UserError(f"export: {args.overrides[0]!r}: changes of a config are for --student")
    if args.student is None and args.out is None:
        raise UserError("export: needs --out DIR")
    members = [name.strip() for name in args.members.split(",") if name.strip()]
    try:
        if args.student is not None:
            return _export_student(args)
        record = export_run(
            args.run, args.out, form=args.format, members=members, images=args.images,
            push=args.push, public=args.public,
        )  # fmt: skip
    except (ExportFailed, PushFailed, RunFailed) as error:
        print(f"distseg: {error}", file=sys.stderr)
        return 1
    for one in record.get("models", []):
        name = one.get("file", one.get("folder"))
        print(f"{name}: logits within {one['largest_difference']:.1e}")
    print(f"written: {args.out}")
    if args.push:
        print(f"pushed: {record['pushed']}")
    return 0


def _export_student(args: argparse.Namespace) -> int:
    """`export --student`: its run, its model, and the table of what it keeps and costs."""
    from distseg.api import export_student
    from distseg.export.student import table
    from distseg.records.paths import Run
    from distseg.run.student import default_folder

    given = {"--format": args.format != "ensemble", "--members": args.members,
             "--images": args.images}  # fmt: skip
    for flag in [flag for flag, value in given.items() if value]:
        raise UserError(f"{flag}: not with --student; export the student's own run with it")
    if "=" in args.student:  # `--student key=value`
        args.overrides, args.student = [args.student, *args.overrides], ""
    record = export_student(
        args.run, args.overrides, out=args.out, encoder=args.student, push=args.push,
        public=args.public,
    )  # fmt: skip
    print(f"\n{table(record)}\nwritten: {Run(args.out or default_folder(args.run)).model}")
    if args.push:
        print(f"pushed: {record['pushed']}")
    return 0


@command(
    "score",
    arg("submission", "CSV or folder of masks", type=Path, metavar="SUBMISSION"),
    arg("truth", "CSV or folder of masks", type=Path, metavar="TRUTH"),
    arg("--run", "a run, whose config says what the masks mean, and the metric", type=Path,
        metavar="RUN"),
    arg("--metric", "name of the metric, such as dice (default: the run's)", metavar="NAME"),
    arg("--values", "with --run, of the submission's masks: see predict (default: as its folder "
        "says, or the data's)", choices=["data", "255", "index"]),
    arg("--images", "folder of the images, whose sizes RLE masks have", type=Path, metavar="DIR"),
    arg("--height", "pixels of every RLE mask, instead of --images", type=int),
    arg("--width", "pixels of every RLE mask, instead of --images", type=int),
    arg("--num-classes", "masks hold this many class indices", type=int, metavar="N"),
    arg("--void", "value of the truth's pixels that do not count", type=int, metavar="N"),
    arg("--order", "how RLEs count (default: column)", choices=["column", "row"]),
    arg("--base", "number of the first pixel (default: 1)", type=int, choices=[0, 1]),
    arg("--empty", "an RLE without an object (default: nothing)", metavar="TEXT"),
)  # fmt: skip
def _score(args: argparse.Namespace) -> int:
    """Score a submission against the truth; with --run, by what the run's config says."""
    from distseg.api import score_submission

    names = ("images", "height", "width", "values", "num_classes", "void", "order", "base", "empty")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    wrong = [n for n in ("num_classes", "void", "order", "base", "empty") if n in given]
    if args.run is not None and wrong:
        raise UserError(f"score: --{wrong[0].replace('_', '-')}: --run says it already")
    if args.run is None and "values" in given:
        raise UserError("score: --values: needs --run RUN")
    record = score_submission(
        args.submission, args.truth, run=args.run, metric=args.metric, **given
    )
    print(json.dumps(record, indent=2))
    return 0


@command("status", RUN, arg("--watch", "again and again, until the run ends", action="store_true"))
def _status(args: argparse.Namespace) -> int:
    """Show where a run stands."""
    if args.watch:
        from distseg.run.view import watch

        watch(args.run)
        return 0
    from distseg.run.status import status_text

    print(status_text(args.run))
    return 0


@command("report", RUN)
def _report(args: argparse.Namespace) -> int:
    """Write report.html and report.json of a run again."""
    from distseg.config.load import load_config
    from distseg.records.paths import find_run
    from distseg.run.summary import report

    run = find_run(args.run)
    print(report(load_config(run.config), run))
    return 0


@command(
    "compare",
    arg("runs", "run folders; the first is what the others are compared with", type=Path,
        metavar="RUN", nargs="+"),
    arg("--out", "write compare.json and compare.html into this folder", type=Path, metavar="DIR"),
)  # fmt: skip
def _compare(args: argparse.Namespace) -> int:
    """Compare finished runs on the images that they share: scores, images and configs."""
    from distseg.api import compare_runs
    from distseg.report.compare import text

    print(text(compare_runs(*args.runs, out=args.out)))
    if args.out:
        print(f"\nwritten: {args.out / 'compare.html'}")
    return 0


# -- what a driver starts with the folder of its run -----------------------------------------------


@command(
    "predict-test", RUN,
    arg("--round", "the round whose ensemble predicts (default: the final one)", type=int),
    arg("--share", "first share, number of shares, all shares", nargs=3, type=int, required=True),
)  # fmt: skip
def _predict_test(args: argparse.Namespace) -> int:
    """Predict a share of the test images for the submission."""
    from distseg.records.paths import find_run
    from distseg.run.launched import predict_test_here

    predict_test_here(find_run(args.run), args.round, *args.share)
    return 0


@command("teach", RUN, arg("--round", "the round that learns", type=int, required=True))
def _teach(args: argparse.Namespace) -> int:
    """Predict what the students of a round learn from."""
    from distseg.records.paths import find_run
    from distseg.run.launched import teach_here

    teach_here(find_run(args.run), args.round)
    return 0


@command("track", RUN)
def _track(args: argparse.Namespace) -> int:
    """Copy the scores of a run to what its `track` names."""
    from distseg.records.paths import find_run
    from distseg.run.launched import track_here

    track_here(find_run(args.run))
    return 0
