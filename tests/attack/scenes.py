"""The pieces of work that the campaign of kills disturbs, each as small as it can be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from distseg.records.files import read_lines
from distseg.records.paths import ALL_ROUNDS, Run
from tests.attack import forked
from tests.attack.kills import Scene, by_exec, calm
from tests.attack.traces import files_of_sweep
from tests.attack.victim import victim_tree
from tests.made_run import write_data

FOLDS = 3
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0", "-m", "distseg"),
]
DISTSEG = [sys.executable, "-m", "distseg"]
SUPERVISED = {"kind": "supervised"}
# By pair teachers, which are members of their own: filtering, soft blends, warm starts
DISTILL = {"kind": "self_distill", "rules": {"worst": 0.3}, "action": "blend", "targets": "soft",
           "init": "previous"}  # fmt: skip
# By the members of the round before, in a job of predictions
PSEUDO = {"kind": "pseudo_label", "rules": {}, "match_strata": False, "mix": "ratio"}


def tree_of(
    root: Path, ranks: int, rounds: Sequence[dict[str, Any]] = (SUPERVISED,), **compute: Any
) -> dict[str, Any]:
    """Members of a few hundred weights, which train in a second or two."""
    tree = victim_tree(root)
    tree["data"]["folds"]["num"] = FOLDS
    tree["stages"][0]["schedule"]["epochs_per_cycle"] = 2
    tree["augment"] = [{"hflip": {"p": 0.5}}]
    tree["predict"] = {"tta": ["hflip"]}
    tree["rounds"] = list(rounds)
    own = {"retries": 99, "members_per_job": FOLDS, "processes_per_job": ranks}
    tree["compute"] |= {**own, **compute}
    return tree


def run_scene(
    name: str, folder: Path, tree: dict[str, Any], ranks: int, prefix: str = "", **more: Any
) -> Scene:
    """`distseg run`. prefix: of the names of its places."""
    config = folder.with_suffix(".yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    run, rounds = Run(folder / "run"), len(tree.get("rounds", [{}]))
    command = [*DISTSEG, "run", str(config), "--out", str(run.folder)]
    return Scene(name, folder, command, lambda: prefix + place_of(run, rounds), ranks, **more)


def place_of(run: Run, rounds: int) -> str:
    """How far a run has come: what its job does, or what the driver does between two jobs."""
    last: dict[str, Any] = {}
    prepared = False
    for event in read_lines(run.ledger):
        prepared = event["event"] != "run_started" and (prepared or event["event"] == "prepared")
        if event["event"] == "run_started" or event["event"].startswith("job_"):
            last = event
    if last.get("event") in ("job_started", "job_adopted"):
        return _place_of_job(run, last)
    if last.get("event") == "run_started" and not prepared:
        return "preparation"
    return _place_of_driver(run, rounds)


def _place_of_job(run: Run, started: dict[str, Any]) -> str:
    if started["job"].startswith("teach"):
        return "teachers' predictions"
    if started["job"].startswith("predict"):
        return "test prediction"
    if any(run.round(started["round"]).glob("members/*/oof_part*")):
        return "out-of-fold prediction"
    kinds = {"0": "training", "1/teachers": "training of pair teachers"}
    return kinds.get(str(started["round"]), "training of students")


def _place_of_driver(run: Run, rounds: int) -> str:
    if not run.truth.is_file():
        return "preparation"
    for number in range(rounds):
        if not all(run.train_set(number, fold).is_file() for fold in range(FOLDS)):
            return "selection"
        if len(list(run.round(number).glob("members/*/DONE"))) < FOLDS:
            return "start of a job"
        keys = (number, ALL_ROUNDS) if number else (number,)
        if not all(run.ensemble(key).is_file() for key in keys):
            return "ensemble fit"
    return "report" if run.submission.exists() or run.test_masks.exists() else "test prediction"


def make_data(folder: Path) -> Path:
    """Eighteen images with masks and four without, of 12 x 10 pixels."""
    root = folder / "data"
    if not root.is_dir():
        write_data(root, num=18)
    return root


def one_rank(folder: Path) -> list[Scene]:
    """A run of two rounds, with pair teachers, by jobs of one rank."""
    forked.prepare()
    tree = tree_of(make_data(folder), 1, [SUPERVISED, DISTILL])
    return [run_scene("run, one rank", folder / "one", tree, 1)]


def two_ranks(folder: Path) -> list[Scene]:
    """A run of two rounds, with pseudo-labels, by jobs of two ranks."""
    forked.prepare()
    tree = tree_of(make_data(folder), 2, [SUPERVISED, PSEUDO])
    return [run_scene("run, two ranks", folder / "two", tree, 2)]


def finished(folder: Path) -> Path:
    """A finished run, made once, which a lap only reads."""
    run = Run(folder / "finished" / "run")
    if not run.report_json.is_file():
        scene = run_scene("finished", run.folder.parent, tree_of(make_data(folder), 1), 1)
        calm(scene, folder / "finished.log")
    return run.folder


def outputs(folder: Path) -> list[Scene]:
    """`predict`, by one process and by a launch of two ranks, and `export`."""
    forked.prepare()
    run = finished(folder)
    images = str(folder / "data" / "images")

    def scene(name: str, arguments: Callable[[Path], list[str]], ranks: int = 1) -> Scene:
        place = folder / name.replace(" ", "_")
        command = [*(LAUNCH if ranks > 1 else DISTSEG), *arguments(place)]
        return Scene(name, place, command, lambda: name, ranks, retries=False, max_kills=6)

    def predict(out: Path, *more: str) -> list[str]:
        extra = ["--probabilities", "--overlay", *more]
        return ["predict", str(run), "--images", images, "--out", str(out / "masks"), *extra]

    return [
        scene("predict", lambda out: predict(out, "--rle", str(out / "masks.csv"))),
        scene("predict, two ranks", predict, 2),
        scene("export", lambda out: ["export", str(run), "--out", str(out / "model")]),
    ]  # fmt: skip


def zero(folder: Path) -> list[Scene]:
    """A run whose members are trained by two ranks under ZeRO."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    forked.prepare()
    import deepspeed  # noqa: F401

    scenes = []
    for stage in (2, 3):
        tree = tree_of(make_data(folder), 2, zero=stage)
        tree["members"]["a"]["decoder"]["depth"] = 3
        name = f"ZeRO-{stage}"
        scenes.append(run_scene(name, folder / name, tree, 2, f"{name}: "))
    return scenes


_held: list[Any] = []  # what must live as long as the campaign
# A cluster, for as long as its standard input is open
HOLDER = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 2, "include_dashboard": False}
made = Cluster(initialize_head=True, head_node_args=node)
print(made.address, flush=True)
sys.stdin.read()
made.shutdown()
"""


def cluster(folder: Path) -> list[Scene]:
    """Runs whose jobs are actors on a Ray cluster of one node, which outlives their drivers."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    forked.prepare()
    import ray  # noqa: F401

    import distseg.jobs.ray  # noqa: F401

    # By another process: to be a cluster takes threads, which a fork would leave behind.
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _held.append(holder)
    address = holder.stdout.readline().strip() if holder.stdout else ""
    scenes = []
    for ranks in (1, 2):
        tree = tree_of(make_data(folder), ranks, executor="ray")
        scenes.append(
            run_scene(
                f"Ray, {ranks} ranks", folder / f"ray{ranks}", tree, ranks, "Ray: ", outlives=True,
                max_kills=10, environment={"RAY_ADDRESS": address},
            )
        )  # fmt: skip
    return scenes


def make_boxes(folder: Path) -> Path:
    """Bright boxes on noise, 24 images of 32 x 32 pixels."""
    root = folder / "boxes"
    if not root.is_dir():
        rng = np.random.default_rng(0)
        for part in ("images", "masks"):
            (root / part).mkdir(parents=True)
        for number in range(24):
            mask = np.zeros((32, 32), np.uint8)
            top, left = rng.integers(0, 16, size=2)
            mask[top : top + rng.integers(8, 16), left : left + rng.integers(8, 16)] = 255
            image = np.clip(rng.normal(90, 25, mask.shape) + 0.35 * mask, 0, 255)
            name = f"{number:02d}.png"
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / name)
            Image.fromarray(mask).save(root / "masks" / name)
    return root


def sweep(folder: Path) -> list[Scene]:
    """A sweep of three settings by Ray Tune, whose Ray ends with it."""
    tree = tree_of(make_data(folder), 1) | {"name": "swept"}
    del tree["rounds"]
    # Of what can be learned: no two settings score the same, where the first would be the best
    tree["data"]["root"] = str(make_boxes(folder))
    tree["input"] |= {"height": 32, "width": 32}
    tree["stages"][0] |= {"loss": {"bce": 1.0, "dice": 1.0}}
    tree["stages"][0]["schedule"]["epochs_per_cycle"] = 4
    learning_rates = {"stages.0.optimizer.lr": {"choice": [1e-2, 2e-2, 4e-2]}}
    tree["tune"] = {"space": learning_rates, "search": "grid", "folds": [0, 1]}
    place = folder / "sweep"
    config = place.with_suffix(".yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    run = place / "run"

    def where() -> str:
        if not list(run.glob("trials/*")):
            return "Tune: start"
        done = len(list(run.glob("trials/*/round_0/members/*/DONE")))
        return f"Tune: trials, {done} members done"

    command = [*DISTSEG, "tune", str(config), "--out", str(run)]
    environment = {"RAY_worker_niceness": "0"}
    return [
        Scene("Tune", place, command, where, start=by_exec, environment=environment,
              max_kills=15, diary="run.log", trace=files_of_sweep)
    ]  # fmt: skip


LANES: dict[str, Callable[[Path], list[Scene]]] = {
    "one_rank": one_rank,
    "two_ranks": two_ranks,
    "outputs": outputs,
    "zero": zero,
    "cluster": cluster,
    "sweep": sweep,
}

for name, value in (
    ("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE"), ("ACCELERATE_USE_CPU", "true"),
    ("DISTSEG_PACES", "off"), ("NO_ALBUMENTATIONS_UPDATE", "1"),
):  # fmt: skip
    os.environ.setdefault(name, value)
