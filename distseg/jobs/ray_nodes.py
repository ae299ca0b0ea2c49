"""The nodes of a Ray cluster that may take jobs of a run, and the slots that they have."""

from __future__ import annotations

import importlib
import logging
import re
import socket
import time
import uuid
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distseg import __version__
from distseg.config.schema import ComputeConfig
from distseg.jobs.hardware import Gpu, Slot, machine_slot, make_slots
from distseg.jobs.versions import package_versions
from distseg.records.errors import UserError
from distseg.records.files import atomic_write
from distseg.records.manifest import Manifest
from distseg.records.paths import Run

logger = logging.getLogger("distseg.run")

LOOK_S = 2.0  # how often the nodes are looked at
ANSWER_S = 60.0  # what the first nodes get to answer
COLORS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Node:
    """One node that may take jobs; `cached`: a job of this run has been there."""

    host: str
    slots: list[Slot]
    whole: list[Slot]  # one slot of all that the node has
    cached: bool = False


@dataclass(frozen=True)
class Share:
    """What all nodes must see. folder: the run's folder of such proofs, in which the driver has
    written its `token`; start: where the driver was started; files: some of the data."""

    folder: Path
    token: str
    start: Path
    files: tuple[Path, ...] = ()

    def why_not(self, node: str) -> str:
        """On a node: why it cannot work on the run; "" where it can. It then leaves a file of its
        own in the folder, by which the driver knows that it sees what the node writes."""
        host, driver = socket.gethostname(), self.folder / "driver"
        try:
            found = driver.read_text(encoding="utf-8") if driver.is_file() else ""
            if not _follows(found, self.token):
                return unseen(host, self.folder.parent)
            atomic_write(self.folder / node, found)
        except OSError as error:
            return f"{host} cannot use {self.folder}: {error.strerror or error}"
        if not self.start.is_dir():
            return (
                f"{host} has no folder {self.start}, from which relative paths of the config and "
                "the run count: start distseg in a folder that all nodes have"
            )
        if missing := [path for path in self.files if not path.is_file()]:
            return f"{host} does not see {missing[0]}: the data must lie there on all nodes"
        return ""


def next_token(before: str) -> str:
    """The token of a driver of a run, from that of the driver before it: `RUN NUMBER RANDOM`."""
    run, number = _parts(before) or (uuid.uuid4().hex, 0)
    return f"{run} {number + 1} {uuid.uuid4().hex}"


def _follows(token: str, own: str) -> bool:
    """Whether a token is that of the same driver, or of one that came after it: a job outlives its
    driver, and the next one takes it over. A stale copy of the run folder holds an older one, and
    another disk none of this run."""
    found, mine = _parts(token), _parts(own)
    if token == own or found is None or mine is None:
        return token == own
    return found[0] == mine[0] and found[1] > mine[1]


def _parts(token: str) -> tuple[str, int] | None:
    run, _, rest = token.partition(" ")
    number = rest.partition(" ")[0]
    return (run, int(number)) if run and number.isdecimal() else None


def unseen(host: str, folder: Path) -> str:
    """The reason of a host that has another disk at the place of the run folder."""
    return (
        f"{host} does not see the run folder {folder}: --out must lie on a file system that all "
        "nodes share, at the same path"
    )


# Of no cores: a node whose cores are all taken must answer, too. Not tried again: a node that dies
# meanwhile is no node.
@ray.remote(num_cpus=0, max_retries=0)
def look(version: str, share: tuple[Any, ...], node: str) -> dict[str, Any]:
    """What a node is, found out on the node: its host, its packages, and, where it has the driver's
    version of distseg, why it cannot work on the run. share: a Share, as a tuple."""
    # Ray brings this function along with what it reads of this file: a constant would be the
    # driver's, and a name that another distseg lacks would be an error.
    here = importlib.import_module("distseg").__version__
    answer = {"host": socket.gethostname(), "versions": {**package_versions(), "distseg": here}}
    if here != version:
        return answer
    own = importlib.import_module("distseg.jobs.ray_nodes").Share(*share)
    return {**answer, "unfit": own.why_not(node)}


class Nodes:
    """The nodes by Ray's id, as they come and go. A node is used once it has shown that it reads
    and writes the run folder, reads the data and runs the same distseg; else it is left out with
    the reason."""

    def __init__(self, compute: ComputeConfig, run: Run) -> None:
        self.compute, self.run = compute, run
        self.folder = run.folder.resolve() / "nodes"
        # Files of an earlier start prove nothing: this one's do.
        token = next_token(_text(self.folder / "driver"))
        self.share = Share(self.folder, token, Path.cwd(), some_files(run))
        self.known: dict[str, Node] = {}
        self.refused: dict[str, str] = {}
        self.asked: dict[str, ray.ObjectRef] = {}  # those that have not answered yet
        self.looked_at = 0.0
        atomic_write(self.folder / "driver", self.share.token)
        self.look(ANSWER_S)

    def slots(self, whole_machine: bool = False) -> list[Slot]:
        """The slots of all nodes, best first: nodes that hold the decode cache come before those
        that do not, and the first slot of each node before the second of any. whole_machine: one
        slot a node, with all that it has."""
        if time.monotonic() - self.looked_at > LOOK_S:
            self.look(0.0)
        ranked = [
            (not node.cached, index, place, slot)
            for place, node in enumerate(self.known.values())
            for index, slot in enumerate(node.whole if whole_machine else node.slots)
        ]
        return [slot for *_, slot in sorted(ranked, key=lambda place: place[:3])]

    def is_alive(self, key: str) -> bool:
        """Whether Ray still reaches the node."""
        return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == key)

    def leave_out(self, key: str, reason: str) -> None:
        """Give a node no more jobs."""
        self.known.pop(key, None)
        self.refused[key] = reason
        logger.error("node %s is left out: %s", key, reason)
        self.run.log_event("node_refused", node=key, reason=reason)

    def look(self, patience_s: float) -> None:
        """Take up nodes that have joined, drop those that are gone.

        patience_s: how long new nodes get to answer; who answers later is taken up later.
        """
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for key in [key for key in self.known if key not in alive]:
            host = self.known.pop(key).host
            logger.error("node %s (%s) is gone; its jobs go elsewhere", key, host)
            self.run.log_event("node_lost", node=key, host=host)
        for key in alive.keys() - self.known.keys() - self.refused.keys() - self.asked.keys():
            strategy = NodeAffinitySchedulingStrategy(key, soft=False)
            task = look.options(scheduling_strategy=strategy)
            self.asked[key] = task.remote(__version__, astuple(self.share), key)
        refs = list(self.asked.values())
        ready = ray.wait(refs, num_returns=len(refs), timeout=patience_s)[0] if refs else []
        for key in [key for key, ref in self.asked.items() if ref in ready]:
            answer = self.asked.pop(key)
            if key in alive:
                self._take_up(key, answer, alive[key]["Resources"])
        self.looked_at = time.monotonic()

    def _take_up(self, key: str, answer: ray.ObjectRef, resources: dict[str, float]) -> None:
        try:
            found = ray.get(answer)
            self._check(key, found)
            slots, whole = node_slots(self.compute, resources, key, found["host"])
        except (RayError, UserError) as error:
            self.leave_out(key, one_line(error))
            return
        self.known[key] = Node(found["host"], slots, whole)
        self.run.log_event("node_joined", node=key, host=found["host"], slots=len(slots))

    def _check(self, key: str, found: dict[str, Any]) -> None:
        """UserError unless driver and node read what the other wrote and run the same distseg."""
        host, there, path = found["host"], found["versions"], self.folder / key
        # Another distseg may read the config otherwise; other packages only round otherwise.
        if there["distseg"] != __version__:
            raise UserError(
                f"{host} has distseg {there['distseg']}, the driver {__version__}: install the "
                "same on all nodes"
            )
        if found["unfit"]:
            raise UserError(found["unfit"])
        if not path.is_file() or path.read_text("utf-8") != self.share.token:
            raise UserError(unseen(host, self.folder.parent))
        for name, version in package_versions().items():
            if version != there[name]:
                text = "%s has %s %s, the driver %s: weights may differ in their last bits"
                logger.warning(text, host, name, there[name], version)


def _text(path: Path) -> str:
    """Of a small file; "" where there is none, or none that was written here."""
    try:
        return path.read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return ""


def some_files(run: Run) -> tuple[Path, ...]:
    """The first and the last image of the run's train set; none before there is one."""
    if not run.truth.is_file():
        return ()
    images = [sample.image for sample in Manifest.read(run.truth)]
    return tuple(Path(image).absolute() for image in dict.fromkeys(images[:1] + images[-1:]))


def node_slots(
    compute: ComputeConfig, resources: dict[str, float], key: str, host: str
) -> tuple[list[Slot], list[Slot]]:
    """(slots of jobs, one slot of the whole node) of a node with these Ray resources; empty for a
    node without cores and GPUs (a head that only coordinates). UserError: a job does not fit."""
    cores, count = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if not cores and not count:
        return [], []
    gpus = [Gpu(str(number), "GPU", 0) for number in range(count)]
    slots = make_slots(compute, gpus, max(1, cores))
    needed = slots[0].processes * slots[0].threads
    if needed > max(1, cores):
        raise UserError(
            f"{host} has {cores} cores, a job needs {needed} (compute.cpu_threads x processes)"
        )
    slots = slots[: max(1, cores) // needed]  # what Ray can place
    whole = machine_slot(slots, max(1, cores))
    return [replace(s, node=key, host=host) for s in slots], [replace(whole, node=key, host=host)]


def one_line(error: BaseException) -> str:
    """An error's message on one line of a decent length; of another machine's traceback its end."""
    text = COLORS.sub("", str(error)) or type(error).__name__
    if "Traceback (most recent call last)" in text:
        text = text.strip().splitlines()[-1]
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]}..."
