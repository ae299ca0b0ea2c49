"""How well jobs are spread: simulated with the real planner and Scheduler, or from a real ledger.

    python benchmarks/scheduling.py [--jobs 10000] [--out FILE.json]
    python benchmarks/scheduling.py --ledger RUN/ledger.jsonl

The simulation gives the Scheduler jobs whose lengths vary by 4x and a clock of its own, and
compares the makespan with the lower bound max(total work / GPUs, longest job). The planner knows
the lengths up to --error (a job of 100 s may be thought to take 80 to 120 s). With a ledger it
prints the time that was lost between two jobs on a slot, as a share of the jobs' time.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from distseg.config.schema import Config
from distseg.jobs.hardware import Slot
from distseg.jobs.job import Job
from distseg.jobs.scheduler import Scheduler, Started
from distseg.records.files import read_lines, write_json
from distseg.records.paths import Run
from distseg.run.plan import longest_first


class Clock:
    """Time that passes only where the Scheduler waits: to the next end of a job."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ends: set[float] = set()

    def sleep(self, _: float) -> None:
        self.now = min(self.ends)
        self.ends.discard(self.now)


class Handle:
    """A job that ends at a moment."""

    pid, cause = None, None

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.end = clock, clock.now + seconds
        clock.ends.add(self.end)

    def poll(self) -> int | None:
        return 0 if self.clock.now >= self.end else None

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class SimulatedExecutor:
    def __init__(self, clock: Clock, num_slots: int, seconds: dict[str, float]) -> None:
        self.clock, self.seconds = clock, seconds
        self.all = [Slot(number, (str(number),), 1, 1) for number in range(num_slots)]

    def slots(self, whole_machine: bool = False) -> list[Slot]:
        return self.all

    def start(self, job: Job, slot: Slot) -> Handle:
        return Handle(self.clock, self.seconds[job.label])

    def adopt(self) -> list[Started]:
        return []


class NoObserver:
    def started(self, job: Job, slot: Slot, attempt: int) -> None: ...

    def finished(self, job: Job) -> None: ...

    def failed(self, failure: object) -> None: ...

    def tick(self) -> None: ...


def simulate(num_jobs: int, num_slots: int, error: float, seed: int) -> dict[str, float]:
    """One run of the Scheduler over jobs of 1 to 4 hours."""
    draw = random.Random(seed)
    seconds = {f"job{i}": draw.uniform(3600, 4 * 3600) for i in range(num_jobs)}
    thought = [value * draw.uniform(1 - error, 1 + error) for value in seconds.values()]
    jobs = [Job(label, (label,), Path("/dev/null")) for label in seconds]
    began = time.perf_counter()
    ordered = longest_first(jobs, thought)
    planning = time.perf_counter() - began
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run, executor = Run(Path(folder)), SimulatedExecutor(clock, num_slots, seconds)
        scheduler = Scheduler(
            Config.model_validate({"name": "simulated", "members": {"a": {}}}),
            run,
            executor,
            NoObserver(),
            sleep=clock.sleep,
        )
        began = time.perf_counter()
        assert scheduler.execute(ordered) == []
        deciding = time.perf_counter() - began
    bound = max(sum(seconds.values()) / num_slots, max(seconds.values()))
    return {
        "gpus": num_slots,
        "jobs": num_jobs,
        "makespan_over_bound": round(clock.now / bound, 4),
        "planning_s": round(planning, 4),
        "scheduler_ms_per_job": round(1000 * deciding / num_jobs, 3),
    }


def lost_share(ledger: Path) -> dict[str, float]:
    """Of a real run: time between the end of a training job and the start of the next one of the
    same round on its slot, as a share of all jobs' time and these gaps."""
    events = [e for e in read_lines(ledger) if e.get("members")]
    last: dict[tuple[str, int], float] = {}
    slot_of, gaps, busy = {}, [], 0.0
    for event in events:
        key = (str(event["round"]), event["job"])
        if event["event"] == "job_started":
            slot_of[key] = (key[0], f"{event.get('node', '')}/{event['slot']}")
            if slot_of[key] in last:
                gaps.append(event["time"] - last[slot_of[key]])
        elif event["event"] in ("job_done", "job_failed") and key in slot_of:
            last[slot_of[key]] = event["time"]
            busy += event["seconds"]
    lost = sum(gaps)
    return {
        "jobs": len(slot_of),
        "gaps": len(gaps),
        "busy_s": round(busy, 1),
        "lost_s": round(lost, 3),
        "lost_share": round(lost / max(busy + lost, 1e-9), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--error", type=float, default=0.2, help="of the planner's estimates")
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.ledger:
        results = [lost_share(args.ledger)]
    else:
        sizes = [4, 8, 16, 32, 64, 128, 256, 512]
        results = [simulate(args.jobs, gpus, args.error, gpus) for gpus in sizes]
    for result in results:
        print(json.dumps(result))
    if args.out:
        write_json(args.out, results)


if __name__ == "__main__":
    main()
