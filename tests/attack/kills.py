"""A campaign of kills: commands are killed at random moments and started again until they end, and
what they leave is compared, bit for bit, with what they leave undisturbed.

    python -m tests.attack.kills LANE... --folder DIR [--kills N] [--seed S]
    python -m tests.attack.kills --table DIR

A lap is one piece of work (a run of two rounds, a prediction, an export) from nothing to
its end, with many kills. DIR/LANE.jsonl gets one line a kill and one a lap: what is there counts,
so that a campaign goes on where it was; with the seed and the lap's number the dice are thrown
again, though no machine is ever at the same place at the same time twice.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from distseg.jobs.guard import is_guard, status_of
from distseg.jobs.job import JOB_MARK, RUN_MARK
from distseg.records.files import append_line, read_json, read_lines, write_json
from tests.attack.forked import Forked, make_room
from tests.attack.traces import differences, files_of

MARK = "DISTSEG_KILLS"  # in the environment of all that a lap starts
WITHIN = ("rank", "launcher", "actor")  # whose end the driver mends
GONE_S = 30.0  # what is alive so long after a kill is an orphan
LOOK_S = 0.02  # how often it is looked where a command is
PER_PLACE = 6  # kills of a lap at one place: it is to come to its end
LAP_S = 1200.0  # a lap that takes longer hangs
Starter = Callable[[list[str], dict[str, str], Any], Any]

# (who, signal, weight). group: all processes at once, guards too. stop: a rank is stopped, and
# then the driver killed.
VICTIMS = {
    0: [("driver", "KILL", 8), ("driver", "TERM", 2)],
    1: [("rank", "KILL", 7), ("driver", "KILL", 6), ("group", "KILL", 4), ("driver", "TERM", 2),
        ("rank", "TERM", 1), ("driver", "STOP", 1)],
    2: [("rank", "KILL", 6), ("launcher", "KILL", 5), ("driver", "KILL", 5), ("group", "KILL", 4),
        ("driver", "TERM", 2), ("driver", "STOP", 1)],
}  # fmt: skip


def by_exec(command: list[str], environment: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    """A command as a shell starts it: where what it starts cannot be forked."""
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )


def by_fork(command: list[str], environment: dict[str, str], log: Any) -> Forked:
    """A command from this process, which has imported all that it needs."""
    return Forked(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


@dataclass
class Scene:
    """A piece of work.

    name: of its laps. folder: where it works, emptied before each lap; all that it leaves there is
    compared. command: starts it, and goes on with it. where: the place that it has come to. diary:
    a file of the run that the driver adds to as soon as it is under way.
    """

    name: str
    folder: Path
    command: list[str]
    where: Callable[[], str]
    ranks: int = 1
    start: Starter = by_fork
    max_kills: int = 25
    num_before: int = 0  # kills of earlier campaigns
    environment: dict[str, str] = field(default_factory=dict)
    diary: str = "ledger.jsonl"
    retries: bool = True  # a rank or launcher that is killed is started again by the driver
    outlives: bool = False  # jobs outlive their driver, as on a cluster of its own
    trace: Callable[[Path], dict[str, Any]] = files_of


@dataclass
class Lap:
    """One lap of a scene: its processes, and the dice."""

    scene: Scene
    mark: str
    dice: random.Random
    log: Path
    driver: Any = None
    since: float = 0.0

    def place(self) -> str:
        """Where the command has come to since it was last started."""
        diary = self.scene.folder / "run" / self.scene.diary
        if diary.is_file() and diary.stat().st_mtime < self.since:
            return "start of the driver"
        return self.scene.where()

    def start(self) -> None:
        """Start the command, or go on with it."""
        self.since = time.time()
        environment = {**os.environ, **self.scene.environment, MARK: self.mark}
        with self.log.open("ab") as out:
            self.driver = self.scene.start(self.scene.command, environment, out)

    def processes(self) -> list[psutil.Process]:
        """All that the lap has started and that is alive, guards too."""
        return [process for process, _ in self._marked()]

    def job_processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """(launchers, ranks) that are alive. A rank alone has no launcher."""
        launchers: list[psutil.Process] = []
        ranks: list[psutil.Process] = []
        for process, env in self._marked():
            if "RANK" in env and not is_guard(process):
                ranks.append(process)
            elif JOB_MARK in env and not is_guard(process):
                (launchers if self.scene.ranks > 1 else ranks).append(process)
        return launchers, ranks

    def _marked(self) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
        home = f"{self.scene.folder}/"  # a cluster's jobs inherit nothing from the driver
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid == os.getpid() or status_of(process) == psutil.STATUS_ZOMBIE:
                    continue
                environment = process.environ()
                if self.mark == environment.get(MARK) or environment.get(RUN_MARK, "").startswith(
                    home
                ):
                    yield process, environment

    def kill(self, place: str) -> dict[str, Any] | None:
        """Kill somebody; what was done. None: there was nobody."""
        launchers, ranks = self.job_processes()
        choices = VICTIMS[min(self.scene.ranks, 2) if ranks else 0]
        if not launchers:  # of a launch by hand it is the driver
            choices = [choice for choice in choices if choice[0] != "launcher"]
        if self.scene.outlives and ranks:
            # A stopped rank would not die with the driver, and so stand still for good
            alive = [choice for choice in choices if choice[1] != "STOP"]
            choices = [*alive, ("actor", "KILL", 5)]
        who, how, _ = self.dice.choices(choices, [weight for *_, weight in choices])[0]
        if who == "driver" and how == "STOP":
            _send(self.dice.choice(ranks).pid, signal.SIGSTOP)
            time.sleep(0.05)
        victims = {
            "driver": [self.driver.pid],
            "rank": [self.dice.choice(ranks).pid] if ranks else [],
            "launcher": [p.pid for p in launchers],
            "actor": [p.ppid() for p in (launchers or ranks)[:1]],
            "group": [self.driver.pid, *(p.pid for p in self.processes())],
        }[who]
        if not victims or self.driver.poll() is not None:
            return None
        for pid in victims:
            _send(pid, signal.SIGTERM if how == "TERM" else signal.SIGKILL)
        return {
            "event": "kill", "scene": self.scene.name, "place": place, "who": who, "signal": how,
            "ranks": len(ranks), "within": self.scene.retries and who in WITHIN,
        }  # fmt: skip

    def after(self, ended: bool = False) -> int:
        """Wait for the end of a driver that was killed, and of all that it had; the number of
        orphans, which are ended."""
        self.driver.wait(120)
        deadline = time.monotonic() + GONE_S
        while (left := self.processes()) and (ended or not self.scene.outlives):
            if time.monotonic() > deadline:
                for process in left:
                    print("orphan:", process, process.cmdline(), flush=True)
                    _send(process.pid, signal.SIGKILL)
                return len(left)
            time.sleep(0.05)
        return 0


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def calm(scene: Scene, log: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What the scene leaves undisturbed, and how long it is at each place at a time."""
    _empty(scene.folder)
    lap = Lap(scene, f"calm-{os.getpid()}-{scene.name}", random.Random(0), log)
    lap.start()
    stays: dict[str, list[float]] = {}
    place, since = scene.where(), time.monotonic()
    while lap.driver.poll() is None:
        time.sleep(LOOK_S)
        if (now := scene.where()) != place:
            stays.setdefault(place, []).append(time.monotonic() - since)
            place, since = now, time.monotonic()
    stays.setdefault(place, []).append(time.monotonic() - since)
    assert lap.driver.poll() == 0, f"{scene.name} fails undisturbed: see {log}"
    return scene.trace(scene.folder), {key: sum(s) / len(s) for key, s in stays.items()}


def disturbed(
    scene: Scene, seed: str, log: Path, stays: dict[str, float], seen: Counter[str],
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:  # fmt: skip
    """A lap with kills; tells of each. Returns what is said of the lap, but for the comparison."""
    _empty(scene.folder)
    lap = Lap(scene, f"{os.getpid()}-{scene.name}-{seed}", random.Random(seed), log)
    began, kills, starts, orphans = time.monotonic(), 0, 1, 0
    problems: list[str] = []
    here: Counter[str] = Counter()
    killed = False  # since the last start
    lap.start()
    entered: tuple[Any, ...] = ()
    while time.monotonic() - began < LAP_S:
        status = lap.driver.poll()
        if status == 0:
            break
        if status is not None:
            if not killed or (scene.retries and status not in (-9, -15, 143)):
                problems.append(f"exit status {status}")
            if len(problems) > 3:
                break
            orphans += lap.after()
            lap.start()
            starts, killed, entered = starts + 1, False, ()
        place = lap.place()
        entry = (place, lap.driver.pid, _num_jobs(scene))
        if entry == entered or kills >= scene.max_kills:
            time.sleep(LOOK_S)
            continue
        entered = entry
        rare = seen[place] <= sum(seen.values()) / max(1, len(seen))
        often = rare or not scene.retries
        chance = 0.1 if place.startswith("start") else 0.9 if often else 0.2
        if lap.dice.random() > chance or (scene.retries and here[place] >= PER_PLACE):
            continue
        if scene.ranks > 1 and _num_jobs(scene):
            _await_ranks(lap, place)
        _wait(lap, lap.dice.uniform(0.0, stays.get(place, 1.0) / scene.ranks))
        if lap.driver.poll() is not None:
            continue
        place = lap.place()
        if record := lap.kill(place):
            kills, killed = kills + 1, True
            seen[place] += 1
            here[place] += 1
            tell(record)
            entered = ()
            if not record["within"]:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    lap.driver.wait(120)
            else:
                time.sleep(0.3)
    else:
        problems.append(f"no end after {LAP_S:.0f} s")
        for process in lap.processes():
            _send(process.pid, signal.SIGKILL)
    orphans += lap.after(ended=True)
    seconds = round(time.monotonic() - began, 1)
    return {
        "event": "lap", "scene": scene.name, "seed": seed, "kills": kills, "starts": starts,
        "orphans": orphans, "problems": problems, "seconds": seconds,
    }  # fmt: skip


def _wait(lap: Lap, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and lap.driver.poll() is None:
        time.sleep(max(0.0, min(0.01, deadline - time.monotonic())))


def _await_ranks(lap: Lap, place: str) -> None:
    """Until all ranks of a job that has been started are alive, or it has ended."""
    deadline = time.monotonic() + 30.0
    while lap.driver.poll() is None and lap.place() == place and time.monotonic() < deadline:
        launchers, ranks = lap.job_processes()
        if len(ranks) >= lap.scene.ranks or not (launchers or ranks):
            return
        time.sleep(0.1)


def _num_jobs(scene: Scene) -> int:
    run = scene.folder / "run"
    ledgers = [*run.glob("ledger.jsonl"), *run.glob("trials/*/ledger.jsonl")]
    return sum(ledger.read_bytes().count(b'"job_started"') for ledger in ledgers)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def campaign(scenes: Sequence[Scene], lane: str, folder: Path, kills: int, seed: int) -> None:
    """Laps of the scenes, in turn, until there were so many kills."""
    path, log = folder / f"{lane}.jsonl", folder / f"{lane}.log"
    done = [e for e in read_lines(path) if e["event"] == "kill"]
    laps = sum(e["event"] == "lap" for e in read_lines(path))
    seen = {s.name: Counter(e["place"] for e in done if e["scene"] == s.name) for s in scenes}
    undisturbed = {scene.name: _known_calm(scene, folder, log) for scene in scenes}
    count = len(done)
    while count < kills:
        scene = scenes[laps % len(scenes)]
        expected, stays = undisturbed[scene.name]
        record = disturbed(
            scene, f"{seed}-{laps}", log, stays, seen[scene.name], lambda e: append_line(path, e)
        )
        different, litter = differences(expected, scene.trace(scene.folder))
        record |= {"different": different, "litter": litter}
        append_line(path, record)
        print({key: value for key, value in record.items() if value != []}, flush=True)
        if different or litter or record["problems"]:
            shutil.copytree(scene.folder, folder / f"bad-{lane}-{laps}", dirs_exist_ok=True)
        count, laps = count + record["kills"], laps + 1


def _known_calm(scene: Scene, folder: Path, log: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """`calm`, once for all campaigns of a folder."""
    path = folder / "calm" / f"{scene.name}.json"
    if not path.is_file():
        write_json(path, calm(scene, log))
    trace, stays = read_json(path)
    return trace, stays


def table(folder: Path) -> str:
    """All that the lanes have written, as Markdown: a row a place."""
    events = [e for path in sorted(folder.glob("*.jsonl")) for e in read_lines(path)]
    rows: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    pending: dict[str, list[str]] = {}
    for event in events:
        if event["event"] == "kill":
            row = rows.setdefault(_row(event["place"]), Counter())
            for one in (row, total):
                one["kills"] += 1
                one["two ranks"] += event["ranks"] >= 2
                one["within"] += event["within"]
            pending.setdefault(event["scene"], []).append(_row(event["place"]))
            continue
        touched = set(pending.pop(event["scene"], []))
        equal = not event["different"] and not event["problems"]
        for one in (*(rows[place] for place in touched), total):
            one["laps"] += 1
            one["equal"] += equal
            one["orphans"] += event["orphans"]
            one["litter"] += len(event["litter"])
    heads = ("kills", "two ranks", "within", "laps", "equal", "orphans", "litter")
    lines = [
        "| killed in | kills | of these with two ranks alive | tried again within the run "
        "| runs to the end | of these bit-equal | orphans | litter |",
        "|---|" + "---:|" * len(heads),
    ]
    for place, row in (*sorted(rows.items()), ("all", total)):
        lines.append(f"| {place} | " + " | ".join(str(row[head]) for head in heads) + " |")
    return "\n".join(lines)


def _row(place: str) -> str:
    """The row of a place in the table: what runs elsewhere or otherwise has one for all of it."""
    return place.partition(":")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lane", nargs="?", help="what is killed: see tests/attack/scenes.py")
    parser.add_argument("--folder", type=Path, help="takes the results")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, metavar="DIR", help="only print what DIR holds")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    make_room()
    from tests.attack.scenes import LANES

    arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = arguments.folder.resolve()
    scenes = LANES[arguments.lane](folder / "work" / arguments.lane)
    campaign(scenes, arguments.lane, folder, arguments.kills, arguments.seed)


if __name__ == "__main__":
    main()
