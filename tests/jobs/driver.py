"""Runs the members named on the command line as `distseg run` would, with worker.py as the job.

driver.py RUN START NAME:FOLD,... SLOTS

START: alone, a rank without a launcher; same or session, one under a launcher, in the launcher's
session or in its own.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from distseg.config.load import load_config
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job, train_job
from distseg.jobs.local import LocalExecutor
from distseg.jobs.scheduler import Scheduler
from distseg.records.errors import Stopped
from distseg.records.paths import Run
from distseg.run.folder import driver_lock, stop_on_signals
from distseg.run.view import LineView

WORKER = Path(__file__).with_name("worker.py")


def scripted(folder: Path, **script: list[str]) -> Run:
    """A run folder whose members act by a script: a0=["crash", "done"]."""
    run = Run(folder / "run")
    run.folder.mkdir()
    tree = {"name": "scripted", "members": {"a": {}, "b": {}}, "compute": {"retries": 2}}
    run.config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    (run.folder / "script.json").write_text(json.dumps(script))
    return run


def worker_command(run: Run, start: str = "alone") -> Callable[[Job, Slot, Path], list[str]]:
    def command(job: Job, slot: Slot, _yaml: Path) -> list[str]:
        members = ",".join(f"{name}:{fold}" for name, fold in job.members)
        arguments = [str(run.folder), members, *job.overrides]
        launcher = ["launcher", start] if slot.processes > 1 else ["rank"]
        return [sys.executable, str(WORKER), *launcher, *arguments]

    return command


def main(folder: str, start: str, members: str, slots: str) -> int:
    run = Run(Path(folder))
    config = load_config(run.config)
    keys = [(text.split(":")[0], int(text.split(":")[1])) for text in members.split(",")]
    ranks = 1 if start == "alone" else 2
    places = [Slot(n, (), ranks, 1) for n in range(int(slots))]
    executor = LocalExecutor(run, places, worker_command(run, start))
    view = LineView(config, run, keys, int(slots))
    with driver_lock(run), stop_on_signals():
        try:
            jobs = [train_job(run, 0, [key]) for key in keys]
            return 1 if Scheduler(config, run, executor, view).execute(jobs) else 0
        except Stopped as stopped:
            return stopped.status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
