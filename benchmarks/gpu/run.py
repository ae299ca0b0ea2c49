"""Measure one GPU machine in under ten minutes, each part within a limit of its own.

    python benchmarks/gpu/run.py --root data/tgs --out results/gpu [--seconds 560] [--parts ...]

Parts, in this order unless --parts names others:
    limit     steps and forward passes of one model on data in memory (limit.py)
    recipe    configs/tgs_salt.yaml from files to submission.csv, all five folds. After a while its
              epochs say how long it will take; if that is too long, it begins again with two folds
    step      distseg's training alone on the GPU, real TGS with augmentation: images a second
    step_launched    the same without CUDA graphs
    steps     its steps on batches in memory, and its loader alone (steps.py)
    plain, lightning    the same data, model and batch as people write it (peers.py)
    shared    limit.py in five processes at once: what five jobs can have of the GPU
    compile, step_compile    limit and step with torch.compile
    predict   `distseg predict` of the recipe's ensemble, files to a table, against peers.py predict
A part that fails or runs out of time is said in the summary; the others go on. OUT/summary.json has
every figure, OUT/utilization.csv the GPU's busy share each second.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml

from distseg.config.load import load_config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = (
    "limit", "recipe", "step", "step_launched", "steps", "plain", "lightning", "shared",
    "compile", "step_compile", "predict",
)  # fmt: skip
CAPS = {"limit": 110, "step": 75, "plain": 60, "lightning": 60, "shared": 60, "compile": 75}
CAPS |= {"steps": 75, "step_launched": 75, "step_compile": 100, "predict": 90}
JUDGED_AFTER_S = 110.0
END_S = 60.0  # ensemble, report and what else follows the training


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out.resolve()
        self.data = args.root.resolve()
        self.work = args.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.deadline = time.monotonic() + args.seconds
        self.summary: dict[str, Any] = {}

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def cap(self, part: str) -> float:
        """Seconds that a part may take; a CPU that tries the path is slow, not wrong."""
        return min(CAPS[part] * (5 if self.args.trial else 1), self.left)

    def call(
        self,
        name: str,
        command: list[str],
        cap: float,
        watch: Callable[[float], bool] | None = None,
    ) -> tuple[str, float]:
        """How a command ended ("ok", "failed N", "cut off" or "stopped") and its seconds.

        It is interrupted at `cap` seconds, and where `watch`, asked each second with its age, says
        so. Its output is OUT/NAME.log."""
        started = time.monotonic()
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()}
        with (self.out / f"{name}.log").open("wb") as log:
            job = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            ended = ""
            while job.poll() is None:
                age = time.monotonic() - started
                if age > cap:
                    ended = "cut off"
                elif watch is not None and watch(age):
                    ended = "stopped"
                if ended:
                    _stop(job)
                    break
                time.sleep(0.2)
        status = ended or ("ok" if job.returncode == 0 else f"failed {job.returncode}")
        return status, round(time.monotonic() - started, 1)

    def script(self, name: str, command: list[str]) -> dict[str, Any]:
        """Run a script of this folder that leaves a JSON file, and read it."""
        file = self.out / f"{name}.json"
        limited = [*command[:1], *(str(file) if a == "OUT" else a for a in command[1:])]
        status, seconds = self.call(name, [sys.executable, *limited], self.cap(name))
        record = json.loads(file.read_text()) if status == "ok" else {}
        return {"status": status, "seconds": seconds, **record}

    def limit(self) -> dict[str, Any]:
        return self.script("limit", self._limit())

    def shared(self) -> dict[str, Any]:
        many = ["--processes", "5", "--seconds", "6", "--graph"]
        return self.script("shared", [*self._limit(), *many])

    def compile(self) -> dict[str, Any]:
        return self.script("compile", [*self._limit(), "--compile", "--batches", "64"])

    def steps(self) -> dict[str, Any]:
        few = ["--steps", "2", "--workers", "0"] if self.args.trial else []
        return self.script("steps", [str(HERE / "steps.py"), str(self.data), "OUT", *few])

    def _limit(self) -> list[str]:
        return [str(HERE / "limit.py"), "OUT", *(["--batches", "8" if self.args.trial else "64"])]

    def plain(self) -> dict[str, Any]:
        return self.script("plain", self._peer("plain"))

    def lightning(self) -> dict[str, Any]:
        return self.script("lightning", self._peer("lightning"))

    def _peer(self, kind: str) -> list[str]:
        few = ["--limit", "256", "--epochs", "2"] if self.args.trial else []
        return [str(HERE / "peers.py"), kind, str(self.data), "OUT", *few]

    def config(self, name: str, **changes: Any) -> Path:
        """configs/tgs_salt.yaml with other top-level keys, as a file."""
        recipe = yaml.safe_load((ROOT / "configs" / "tgs_salt.yaml").read_text(encoding="utf-8"))
        recipe |= {"name": name, **changes}
        recipe["data"]["root"] = str(self.data)
        if self.args.trial:
            tiny = {"arch": "Unet", "encoder": "resnet18", "encoder_weights": None}
            recipe |= {"stages": [_stage(2)], "members": {"tiny": tiny}}
            recipe["input"] = {"height": 32, "width": 32, "fit": "resize", "channels": 1}
            recipe["data"]["folds"] |= {"use": [0, 1]}
        path = self.work / f"{name}.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        return path

    def step(self) -> dict[str, Any]:
        return self._step("step")

    def step_launched(self) -> dict[str, Any]:
        return self._step("step_launched", cuda_graphs=False)

    def step_compile(self) -> dict[str, Any]:
        return self._step("step_compile", compile=True)

    def _step(self, name: str, **compute: bool) -> dict[str, Any]:
        model = {"arch": "Unet", "encoder": "resnet34", "encoder_weights": None}
        config = self.config(
            name,
            members={"alone": model | {"decoder": {"attention": "scse"}}},
            stages=[_stage(12)],
            train={"batch_size": 64, "evaluate_every": 99},
            compute={"gpus_per_job": 1, "precision": "bf16", **compute},
        )
        run = self.work / name
        shutil.rmtree(run, ignore_errors=True)
        command = self._distseg("run", str(config), "--out", str(run), "data.folds.use=[0]")
        status, seconds = self.call(name, command, self.cap(name))
        rates = [row["images_per_s"] for row in _epochs(run)]
        self._keep(run, name)
        middle = round(median(rates[1:]), 1) if rates[1:] else None
        return {"status": status, "seconds": seconds, "median": middle, "images_per_s": rates[1:]}

    def recipe(self) -> dict[str, Any]:
        """All folds where they end in time, else two of them."""
        run = self.work / "tgs_salt"
        shutil.rmtree(run, ignore_errors=True)
        command = self._distseg("run", str(self.config("tgs_salt")), "--out", str(run))
        cap = min(self.args.recipe_seconds, self.left)
        recipe = load_config(ROOT / "configs" / "tgs_salt.yaml", [])
        epochs = sum(recipe.epochs_of(name, 0) for name in recipe.members) * recipe.data.folds.num
        judge = Judge(run, 0 if self.args.trial else epochs, cap)
        status, seconds = self.call("recipe", command, cap, judge)
        record = {"status": status, "seconds": seconds, "folds": 5, **judge.said}
        if status == "stopped":
            self._keep(run, "recipe_stopped")
            shutil.rmtree(run, ignore_errors=True)
            command += ["data.folds.use=[0,1]"]
            left = min(cap - seconds, self.left)
            record["status"], record["seconds"] = self.call("recipe", command, left)
            record["folds"] = 2
        if rows := _epochs(run):
            record["epochs_done"] = len(rows)
            record["images_per_s_of_a_job"] = round(median(r["images_per_s"] for r in rows), 1)
        for file in ("report.json", "submission.csv"):
            if (run / file).is_file():
                shutil.copy(run / file, self.out / file)
        self._keep(run, "recipe")
        return record

    def predict(self) -> dict[str, Any]:
        run, table = self.work / "tgs_salt", self.work / "predicted.csv"
        images, masks = self.data / "test" / "images", self.work / "predicted"
        command = self._distseg("predict", str(run), "--images", str(images), "--out", str(masks))
        status, seconds = self.call("predict", [*command, "--rle", str(table)], self.cap("predict"))
        rows = sum(1 for _ in table.open()) - 1 if table.is_file() else 0
        models = len(list(run.rglob("snapshots/*.safetensors")))
        record = {"status": status, "seconds": seconds, "images": rows, "models": models}
        file = self.out / "predict_peer.json"
        peer = [sys.executable, str(HERE / "peers.py"), "predict", str(self.data), str(file)]
        status, _ = self.call("predict_peer", [*peer, "--limit", "410"], min(60, self.left))
        if status == "ok":
            record["peer_images_per_s_one_model"] = json.loads(file.read_text())["images_per_s"][0]
        return record

    def _distseg(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "distseg", *arguments]

    def _keep(self, run: Path, name: str) -> None:
        """Records and logs of a run, without weights and logits."""
        if not run.is_dir():
            return
        with tarfile.open(self.out / f"{name}.tar.gz", "w:gz") as tar:
            for path in sorted(run.rglob("*")):
                record = path.suffix in (".jsonl", ".json", ".log", ".yaml") and path.is_file()
                if record and path.stat().st_size < 2_000_000:
                    tar.add(path, str(path.relative_to(run)))


class Judge:
    """Whether a run of `epochs` epochs in all will not end in `cap` seconds, asked while it goes.

    Its jobs run side by side, so the epochs of all of them together are what goes on evenly."""

    def __init__(self, run: Path, epochs: int, cap: float) -> None:
        self.run, self.epochs, self.cap = run, epochs, cap
        self.first = 0.0  # age at which the first epoch was done
        self.said: dict[str, Any] = {}

    def __call__(self, age: float) -> bool:
        done = len(_epochs(self.run))
        self.first = self.first or (age if done else 0.0)
        if not self.epochs or self.said or age < JUDGED_AFTER_S:
            return False
        pace = done / max(age - self.first, 1.0)
        needs = age + (self.epochs - done) / max(pace, 1e-9) + END_S
        self.said = {"epochs_at_judgement": done, "needs_s": round(needs, 1)}
        return needs > self.cap


def _stage(epochs: int) -> dict[str, Any]:
    schedule = {"kind": "cosine", "epochs_per_cycle": epochs}
    return {"loss": {"bce": 1.0}, "optimizer": {"name": "adamw", "lr": 1e-3}, "schedule": schedule}


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def _stop(job: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; whoever of its processes is there after 15 seconds is killed."""
    os.kill(job.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        job.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def _epochs(run: Path) -> list[dict[str, Any]]:
    rows = []
    for path in run.rglob("metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # the job is writing it
    return rows


def _busy(file: Path, begun: float, ended: float) -> dict[str, float]:
    """Mean busy share of the GPU, 0..100, and its highest memory in MiB, between two moments."""
    shares, memory = [], [0.0]
    for row in csv.reader(file.open()) if file.is_file() else []:
        try:
            at = time.mktime(time.strptime(row[0].split(".")[0], "%Y/%m/%d %H:%M:%S"))
            if begun <= at <= ended:
                shares.append(float(row[1].split()[0]))
                memory.append(float(row[3].split()[0]))
        except (ValueError, IndexError):
            continue
    return {"gpu_busy": round(mean(shares), 1), "gpu_mib": max(memory)} if shares else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="TGS: train, test, *.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/distseg_gpu"))
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--recipe-seconds", type=float, default=440.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--trial", action="store_true", help="tiny, to try the path on a CPU")
    bench = Bench(args := parser.parse_args())
    gpu = shutil.which("nvidia-smi")
    table = bench.out / "utilization.csv"
    watcher = None
    if gpu:
        query = "--query-gpu=timestamp,utilization.gpu,utilization.memory,memory.used,power.draw"
        command = [gpu, query, "--format=csv", "-l", "1"]
        if stdbuf := shutil.which("stdbuf"):
            command = [stdbuf, "-oL", *command]  # a line is there when its second is over
        watcher = subprocess.Popen(command, stdout=table.open("wb"))
        listing = subprocess.run([gpu, "-L"], capture_output=True, text=True)
        bench.summary["gpu"] = listing.stdout.strip().split(" (UUID")[0]
    bench.summary |= {"cores": os.cpu_count(), "machine": platform.machine()}
    bench.summary["versions"] = _versions()
    print(json.dumps(bench.summary), flush=True)
    for part in args.parts:
        if bench.left < 15:
            bench.summary[part] = {"status": "no time was left"}
        else:
            begun = time.time()
            bench.summary[part] = getattr(bench, part)()
            bench.summary[part] |= _busy(table, begun, time.time())
        print(part, json.dumps(bench.summary[part]), flush=True)
        (bench.out / "summary.json").write_text(json.dumps(bench.summary, indent=1) + "\n")
    if watcher:
        watcher.terminate()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "timm", "segmentation-models-pytorch", "accelerate", "albumentations",
                 "numpy", "opencv-python-headless", "lightning"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
