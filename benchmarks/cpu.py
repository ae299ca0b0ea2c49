"""The CPU column: training and prediction beside the limit and beside plain code, in pairs.

    python benchmarks/cpu.py TGS_ROOT OUT.json [--rounds 5] [--steps 12] [--parts step predict busy]

In turns, so that what the machine does meanwhile meets them all alike; each figure is a ratio of
one round, and the median of the rounds with the lowest and the highest.

step: a ResNet34 U-Net on 128 x 128, batches of 16, real TGS with augmentation: distseg's own steps
    from its loader, and its steps on batches that are in memory (the limit). Beside what others
    write: rivals/run.py.
predict: `distseg predict` of two such networks with a flip, from files to a table, start of the
    process included; the same networks' forward passes on batches in memory; and smp with a flip,
    image by image in float32, with a loop over runs, in a process of its own (gpu/peers.py).
busy: a step of distseg in memory alone, and beside a process that keeps one core busy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as every job of distseg has it

import segmentation_models_pytorch as smp
import torch

from benchmarks.rivals.turns import ratios
from distseg.config.data import FoldsConfig
from distseg.config.load import dump_config, load_config, parse_config
from distseg.config.schema import Config
from distseg.data.prepare import prepare
from distseg.distributed import make_accelerator
from distseg.inference.load import load_predictor
from distseg.jobs.guard import die_with_parent
from distseg.records.files import atomic_write
from distseg.records.paths import Run
from distseg.training.batches import Loaded
from distseg.training.member import Member
from distseg.training.stage import Stage, begin_epoch, set_up_stage, train_step

BATCH = 16
# a busy core, as long as this process lives
SPIN = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
AHEAD = 8  # batches that loaders have ready when their turn comes, and that are not counted
ROOT = Path(__file__).resolve().parents[1]


def config_of(root: Path) -> Config:
    model = {"arch": "Unet", "encoder": "resnet34", "encoder_weights": None,
             "decoder": {"attention": "scse"}}  # fmt: skip
    tree = {
        "name": "cpu",
        "data": {"format": "tgs", "root": str(root), "folds": {"num": 5}},
        "input": {"height": 128, "width": 128, "fit": "pad", "pad_mode": "reflect", "channels": 1},
        "metric": "tgs",
        "augment": [{"hflip": {"p": 0.5}},
                    {"affine": {"scale": [0.8, 1.4], "translate": 0.16, "p": 0.7}},
                    {"brightness_contrast": {"brightness": 0.2, "contrast": 0.2, "p": 0.4}}],
        "members": {"a": model, "b": {**model, "seed": 1}},
        "stages": [{"loss": {"bce": 1.0}, "optimizer": {"lr": 1e-3},
                    "schedule": {"epochs_per_cycle": 1}}],
        "train": {"batch_size": BATCH},
        "predict": {"tta": ["hflip"], "batch_size": 64},
    }  # fmt: skip
    return parse_config(tree, "cpu")


Turn = Callable[[], float]  # does its work and says how many seconds of it count


def clock(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn in each round."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            found[name].append(turn())
    return found


# -- training -------------------------------------------------------------------------------------


def steps_of(member: Member, stage: Stage, batches: Iterator[Loaded], number: int) -> None:
    for step in range(number):
        last = stage.sampling.steps - 1
        train_step(member, stage, batches, epoch=0, step=min(step, last - 1), lr_factor=0.1)


def endless(stage: Stage) -> Iterator[Loaded]:
    for epoch in itertools.count():
        yield from stage.batches.epoch(epoch)


@contextmanager
def stage_of(root: Path, scratch: Path) -> Iterator[tuple[Member, Stage]]:
    """A member that trains on TGS."""
    run = Run(scratch)
    config = prepare(config_of(root), run)
    member = Member(config, run, 0, "a", 0, make_accelerator(config))
    stage = set_up_stage(member, 0)
    begin_epoch(stage, stage.config.schedule.epochs)
    try:
        yield member, stage
    finally:
        stage.close()
        member.close()


def step(root: Path, scratch: Path, rounds: int, steps: int) -> dict[str, Any]:
    with stage_of(root, scratch) as (member, stage):
        loaded = endless(stage)
        kept = list(itertools.islice(loaded, 8))

        def train(batches: Iterator[Loaded], number: int = steps) -> float:
            return clock(lambda: steps_of(member, stage, batches, number))

        def ours() -> float:
            train(loaded, AHEAD)  # what is ready when the turn begins
            return train(loaded)

        def memory() -> float:
            train(itertools.cycle(kept), AHEAD)  # meanwhile the loader gets ready again
            return train(itertools.cycle(kept))

        turns: dict[str, Turn] = {"ours": ours, "memory": memory}
        in_turn(turns, 1)  # warms up
        found = in_turn(turns, rounds)
    rates = {name: round(steps * BATCH / statistics.median(s), 1) for name, s in found.items()}
    return {"images_per_s": rates, "of_the_limit": ratios(found["memory"], found["ours"])}


# -- prediction -----------------------------------------------------------------------------------


def trained(root: Path, scratch: Path) -> Run:
    """A run of two networks that have seen 64 images once: what they say makes no difference."""
    path, run = scratch / "cpu.yaml", Run(scratch / "run")
    tree = config_of(root)
    few = {"data": tree.data.model_copy(update={"limit": 64, "folds": FoldsConfig(kind="holdout")})}
    atomic_write(path, dump_config(tree.model_copy(update=few)))
    distseg("run", str(path), "--out", str(run.folder))
    return run


def distseg(*arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "distseg", *arguments]
    subprocess.run(
        command, check=True, env=environment, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
    )


def images_by_hand(root: Path, record: Path) -> float:
    """Images a second of one network, in a process that knows nothing of distseg."""
    script = [str(ROOT / "benchmarks/gpu/peers.py"), "predict", str(root), str(record)]
    subprocess.run([sys.executable, *script, "--limit", "70"], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)  # fmt: skip
    return float(json.loads(record.read_text(encoding="utf-8"))["images_per_s"][0])


def predict(root: Path, scratch: Path, rounds: int, images: int) -> dict[str, Any]:
    run, few = trained(root, scratch), scratch / "images"
    few.mkdir()
    for path in sorted((root / "test" / "images").glob("*.png"))[:images]:
        shutil.copy(path, few)
    snapshots = sorted(run.round(0).glob("members/*/snapshots/*.safetensors"))
    accelerator = make_accelerator(load_config(run.config))
    device, autocast = accelerator.device, accelerator.autocast
    predictors = [load_predictor([path], device, True, autocast) for path in snapshots]
    canvas = torch.randint(0, 256, (64, 1, 128, 128), dtype=torch.uint8)

    def files_to_table() -> None:
        arguments = ["--images", str(few), "--out", str(scratch / "masks")]
        distseg("predict", str(run.folder), *arguments, "--rle", str(scratch / "masks.csv"))

    def passes_alone() -> None:
        for first in range(0, images, 64):
            for one in predictors:
                one.canvas_logits(canvas[: min(64, images - first)], ["hflip"])

    turns: dict[str, Turn] = {
        "ours": lambda: clock(files_to_table),
        "passes": lambda: clock(passes_alone),
        "plain": lambda: len(snapshots) * images / images_by_hand(root, scratch / "hand.json"),
    }
    found = in_turn(turns, rounds)
    return {
        "images": images,
        "networks": len(snapshots),
        "seconds": {name: round(statistics.median(s), 1) for name, s in found.items()},
        "of_the_limit": ratios(found["passes"], found["ours"]),
        "times_plain": ratios(found["plain"], found["ours"]),
    }


# -- a busy core ----------------------------------------------------------------------------------


def busy(root: Path, scratch: Path, rounds: int, steps: int) -> dict[str, Any]:
    with stage_of(root, scratch) as (member, stage):
        kept = list(itertools.islice(endless(stage), 8))

        def alone() -> float:
            return clock(lambda: steps_of(member, stage, itertools.cycle(kept), steps))

        def beside() -> float:
            other = subprocess.Popen([sys.executable, "-c", SPIN])
            try:
                return alone()
            finally:
                other.kill()
                other.wait()

        alone()
        found = in_turn({"alone": alone, "beside": beside}, rounds)
    return {"threads": torch.get_num_threads(), "slower": ratios(found["beside"], found["alone"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("root", type=Path, help="TGS: train, test, *.csv")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="of a turn")
    parser.add_argument("--images", type=int, default=600, help="of a prediction")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    root, record = args.root.resolve(), dict[str, Any]()
    for part in args.parts:
        with tempfile.TemporaryDirectory() as scratch:
            amount = args.images if part == "predict" else args.steps
            record[part] = PARTS[part](root, Path(scratch), args.rounds, amount)
            print(part, json.dumps(record[part]), flush=True)
    versions = {"torch": torch.__version__, "smp": smp.__version__}
    record |= {"cores": os.cpu_count(), "rounds": args.rounds, "versions": versions}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


PARTS: dict[str, Callable[[Path, Path, int, int], dict[str, Any]]] = {
    "step": step,
    "predict": predict,
    "busy": busy,
}

if __name__ == "__main__":
    main()
