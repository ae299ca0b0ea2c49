"""The Ray executor: a job is a detached actor on one node, which starts there the very `accelerate
launch` that the local executor starts.

The actor is detached so that a job outlives a driver that was killed: the next driver finds it by
its name. Which job goes where is the Scheduler's affair, on slots that are made of the nodes that
are alive; Ray reserves the slot's cores and GPUs, and says which GPUs they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distseg.config.schema import Config
from distseg.jobs.guard import ORPHAN_GRACE_S
from distseg.jobs.hardware import Slot, num_cores, visible_gpus
from distseg.jobs.job import Job, end_leftovers, launch_command
from distseg.jobs.local import CommandBuilder, LocalExecutor, LocalHandle
from distseg.jobs.ray_nodes import ANSWER_S, Nodes, Share, one_line
from distseg.jobs.scheduler import Started
from distseg.records.errors import UserError
from distseg.records.paths import Run

logger = logging.getLogger("distseg.run")

NAMESPACE = "distseg"
KNOCK_S = 10.0  # what the cluster's address gets to answer
FORGOTTEN_S = 600.0  # an ended job's actor leaves when no driver has asked for its status
SPARE_BYTES = 64_000_000  # that a cache leaves free on a node's disk
LOST = -9  # exit status of a job whose node or actor is gone


def connect() -> bool:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine. True: it is ours.

    Ray takes SIGTERM for itself; the driver's own handler is put back.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    ours = {"num_cpus": num_cores(), "num_gpus": len(visible_gpus()), "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    # These are read when Ray starts.
    # Ray's workers are niced by 15, and so would all that a job starts be.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        ray.init(
            address=address or "local", namespace=NAMESPACE, log_to_driver=False,
            logging_level=logging.WARNING, **({} if address else ours),
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 (Ray raises this very class when it starts too late)
        if not address:
            raise UserError(
                f"compute.executor: ray: Ray does not start on this machine: {one_line(error)}"
            ) from None
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({one_line(error)}). Start one "
            "with `ray start --head`, or unset RAY_ADDRESS to use this machine alone. Every node "
            "and this shell need the same token (docs/cluster.md)"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    return True


def _knock(address: str | None) -> None:
    """OSError when nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


# -- on a node ------------------------------------------------------------------------------------


class JobActor:
    """One job on this node, from its construction to the actor's end."""

    def __init__(
        self, folder: Path, job: Job, slot: Slot, log_start: int, home: str,
        command: CommandBuilder, share: Share,
    ) -> None:  # fmt: skip
        """home: the host whose jobs use the run folder's own cache; "": all do."""
        self.described = job, slot, log_start
        self.share = share
        self.handle: LocalHandle | None = None
        self.asked = time.monotonic()  # when a driver was last seen waiting
        if not share.why_not(slot.node):
            self._begin(Run(folder), job, slot, home, command)
        threading.Thread(target=self._leave_when_forgotten, daemon=True).start()

    def _begin(self, run: Run, job: Job, slot: Slot, home: str, command: CommandBuilder) -> None:
        os.chdir(self.share.start)  # relative paths count from where the driver was started
        # An earlier actor of this job may have died here (Ray kills one when memory is short);
        # its ranks take some seconds to notice. Jobs of this run whose actors live stay.
        end_leftovers(run, orphans=True)
        if slot.devices:  # Ray decides which they are: several runs may share the node
            listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            slot = replace(slot, devices=tuple(listed.split(",")))
        executor = LocalExecutor(run, [slot], command)
        self.handle = executor.start(with_own_cache(job, run.folder, home), slot)

    def describe(self) -> tuple[Job, Slot, int]:
        """The job, its slot as the driver gave it, and log_start: what `adopt` needs."""
        return self.described

    def wait(self) -> int | str:
        """Exit status of the job, when all of its processes are gone; or why this node cannot work
        on the run: what the job has written may be on another disk then, whatever its status."""
        # This call outlives the driver that made it: the actor goes on waiting, and the next
        # driver's own call returns the same status.
        while (status := self._status()) is None:
            time.sleep(0.1)
            self.asked = time.monotonic()
        return self.share.why_not(self.described[1].node) or status

    def _status(self) -> int | None:
        return self.handle.poll() if self.handle else LOST

    def terminate(self) -> None:
        """Ask the job's ranks to save their state and leave."""
        if self.handle:
            self.handle.terminate()

    def kill(self) -> None:
        """End all processes of the job now."""
        if self.handle:
            self.handle.kill()

    def _leave_when_forgotten(self) -> None:
        """The driver was killed, and none came to take its place: free what Ray keeps for us.

        A detached actor holds its cores and GPUs until somebody kills it, also when its job has
        ended.
        """
        while self._status() is None or time.monotonic() - self.asked < FORGOTTEN_S:
            time.sleep(1.0)
        os._exit(0)


def with_own_cache(job: Job, folder: Path, home: str) -> Job:
    """A member's job with the decode cache on this node's own disk: built once per node, and not
    read over the network. On the driver's host (`home`) the run folder's cache is near enough, and
    so it is for a node whose disk has no room."""
    if not job.members or home in ("", socket.gethostname()):
        return job
    own = node_cache(folder)
    if own is None:
        return job
    return replace(job, overrides=(*job.overrides, f"data.cache_dir={own}"))


def node_cache(folder: Path) -> Path | None:
    """A folder for the run's cache below the node's temporary one, which everybody may write to: of
    one name, so that the run's next job finds it, but only where it is ours alone. One that others
    have prepared, a link too, is left to them. None: the disk is too full for a cache."""
    there = sum(path.stat().st_size for path in Run(folder).cache.rglob("*"))
    if shutil.disk_usage(tempfile.gettempdir()).free < there + SPARE_BYTES:
        return None
    own = Path(tempfile.gettempdir()) / f"distseg-cache-{os.getuid()}-{_key(folder)}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    is_ours = found.st_uid == os.getuid() and not found.st_mode & 0o077
    if stat.S_ISDIR(found.st_mode) and is_ours:
        return own
    return Path(tempfile.mkdtemp(prefix="distseg-cache-"))


def _key(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]


# -- in the driver --------------------------------------------------------------------------------


class RayHandle:
    """A job on the cluster."""

    def __init__(self, actor: Any, slot: Slot, nodes: Nodes) -> None:
        self.actor, self.slot, self.nodes = actor, slot, nodes
        self.pid: int | None = None
        self.cause: tuple[str, str] | None = None
        self.lost_at: float | None = None
        self.ended = False
        self.result = actor.wait.remote()

    def poll(self) -> int | None:
        """Exit status; LOST, with `cause`, some seconds after the node or the actor is gone: that
        long its processes may live."""
        if self.lost_at is None:
            # Without blocking: the driver polls all its jobs in one loop.
            if not ray.wait([self.result], timeout=0)[0]:
                return None
            try:
                status = ray.get(self.result)
            except ActorUnavailableError:  # the network, for a moment
                self.result = self.actor.wait.remote()
                return None
            except RayError as error:
                self.lost_at, self.cause = time.monotonic(), self._cause(error)
                return None
            ray.kill(self.actor)  # detached: nothing else would end it
            self.ended = True
            if isinstance(status, str):
                self.cause = "node_unfit", status
                self.nodes.leave_out(self.slot.node, status)
                return LOST
            return int(status)
        # A node that Ray cannot reach may still run, and so may a job whose actor was killed: its
        # ranks leave ORPHAN_GRACE_S after they notice. Only then may the member start elsewhere,
        # or two jobs would write into its folder.
        return LOST if time.monotonic() - self.lost_at > 2 * ORPHAN_GRACE_S else None

    def _cause(self, error: RayError) -> tuple[str, str]:
        if not self.nodes.is_alive(self.slot.node):
            return "node_lost", f"node {self.slot.node} ({self.slot.host}) is gone"
        if isinstance(error, OutOfMemoryError):
            return "out_of_memory", f"Ray ended the job on {self.slot.host}: out of memory"
        return "error", one_line(error)

    def terminate(self) -> None:
        """Ask the job to save its state and leave; the answer is not waited for."""
        self.actor.terminate.remote()

    def kill(self) -> None:
        """End the job's processes, and then the actor; a node that does not answer is left to
        itself: its processes go with it."""
        if self.ended:
            return
        try:
            ray.get(self.actor.kill.remote(), timeout=ORPHAN_GRACE_S)
        except (RayError, GetTimeoutError):
            logger.warning("%s does not answer; its job ends by itself", self.slot.host)
        ray.kill(self.actor)


class RayExecutor:
    """Starts jobs of `run` on the nodes of a Ray cluster. `command` builds a job's arguments.

    UserError: no cluster, or no node that can take a job.
    """

    def __init__(self, config: Config, run: Run, command: CommandBuilder = launch_command) -> None:
        self.compute, self.command, self.folder = config.compute, command, run.folder.resolve()
        # A cache that the config names is the user's affair: on all nodes.
        self.home = "" if config.data.cache_dir else socket.gethostname()
        self.ours = connect()
        self.nodes = Nodes(config.compute, run)
        if not self.nodes.slots():
            reasons = "; ".join(self.nodes.refused.values()) or "they have neither cores nor GPUs"
            raise UserError(f"compute.executor: ray: no node can take a job: {reasons}")

    def close(self) -> None:
        """End the cluster if it is ours."""
        if self.ours:
            ray.shutdown()

    def slots(self, whole_machine: bool = False) -> list[Slot]:
        """Room for jobs now, on the nodes that are there. whole_machine: one slot a node."""
        return self.nodes.slots(whole_machine)

    def start(self, job: Job, slot: Slot) -> RayHandle:
        """Start a job on a free slot and return at once."""
        if slot.node in self.nodes.known:
            self.nodes.known[slot.node].cached = True
        per_job = self.compute.gpus_per_job
        shared = len(slot.devices) == 1 and per_job < 1
        options: dict[str, Any] = {
            "name": f"{_key(self.folder)}/{job.label}/{uuid.uuid4().hex[:8]}",
            "namespace": NAMESPACE,
            # It outlives the driver; the name is how the next driver finds it.
            "lifetime": "detached",
            "num_cpus": slot.processes * slot.threads,
            "num_gpus": per_job if shared else len(slot.devices),
            # The scheduler has chosen the node: it knows which one holds the decode cache.
            "scheduling_strategy": NodeAffinitySchedulingStrategy(slot.node, soft=False),
            # What failed is judged and started again by the scheduler, which counts attempts.
            "max_restarts": 0,
            # `wait` occupies one thread; `terminate`, `kill` and `describe` need others.
            "max_concurrency": 8,
        }
        log_start = job.log.stat().st_size if job.log.is_file() else 0
        actor = ray.remote(JobActor).options(**options)
        made = actor.remote(
            self.folder, job, slot, log_start, self.home, self.command, self.nodes.share
        )
        return RayHandle(made, slot, self.nodes)

    def adopt(self) -> list[Started]:
        """Jobs of an earlier driver of this run that are still there."""
        found = []
        for name in list_named_actors():
            if not name.startswith(f"{_key(self.folder)}/"):
                continue
            try:
                actor = ray.get_actor(name, NAMESPACE)
                job, slot, log_start = ray.get(actor.describe.remote(), timeout=ANSWER_S)
            except GetTimeoutError:
                ray.kill(actor)  # it has no room yet, or its node hangs: the job is started anew
                continue
            except (RayError, ValueError):
                continue  # it is going
            handle = RayHandle(actor, slot, self.nodes)
            found.append(Started(job, slot, handle, log_start))
        return found
