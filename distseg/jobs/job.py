"""How a job is started, watched and ended: the exact command, its environment, its processes.

A job is one process group: its ranks, their loader processes, and `accelerate launch` above several
ranks. One rank alone is started without a launcher, which would import torch a second time (two
seconds and 600 MB) only to wait for it. A job must leave no process behind, whoever dies first, for
what stays holds its GPU and writes into the run folder. Two mechanisms see to that, one from
outside and one from inside:

- torchrun puts the ranks into sessions of their own, so that a process group is not enough to find
  them. Every process of a job carries two marks in its environment, which its children inherit:
  DISTSEG_RUN (the run folder) and DISTSEG_JOB (this start of the job). Whoever ends a job looks
  for the marks (`end_processes`, `end_leftovers`).
- The driver itself may be killed. So a rank watches its parent and the driver, and leaves by
  itself when one of them is gone (`watch_parent`). A child of its own, its guard, ends it where it
  cannot, and ends what it leaves when it was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from distseg.jobs.guard import (
    ORPHAN_GRACE_S,
    die_with_parent,
    end_all,
    guard,
    is_guard,
    leave,
    status_of,
    watch,
)
from distseg.records.files import atomic_write, read_lines
from distseg.records.paths import RoundKey, Run, member_id

if TYPE_CHECKING:  # a rank imports this file first: it must be quick
    from distseg.jobs.hardware import Slot

RUN_MARK, JOB_MARK, DRIVER_MARK = "DISTSEG_RUN", "DISTSEG_JOB", "DISTSEG_DRIVER_PID"
LOCAL_RANK = "LOCAL_RANK"  # the variable by which torchrun tells each rank its number
LAUNCHER = "distseg.jobs.launcher"
# What accelerate and torch take a job's ranks and its training from: a job gets it from its
# launcher alone. The shell may hold some of it, of a scheduler, of MPI or of a person's profile.
SHELL_PREFIXES = (
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_", "DS_", "PARALLELISM_CONFIG_", "MEGATRON_LM_"),
    *("TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_", "MPI_", "MV2_", "I_MPI_", "HYDRA_", "SLURM_"),
)
SHELL_VARIABLES = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("CROSS_RANK", "CROSS_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# Where ranks listen for each other. torch's own choice is the interface of the host's name.
INTERFACES, LOOPBACK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), "lo"

# Given to each launcher: without it, accelerate merges the user's own default YAML in silently.
LAUNCH_YAML = """\
compute_environment: LOCAL_MACHINE
distributed_type: "NO"
mixed_precision: "no"
num_machines: 1
num_processes: 1
use_cpu: false
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One process group's work: members to train in a row, or what `arguments` says.

    arguments: what follows `distseg`, before the members and the overrides.
    log: file that takes standard output and standard error of launcher and ranks.
    overrides: `key=value` that only this job gets (a smaller micro-batch).
    progress: where a job without members tells how far it has come; see records/progress.py.
    """

    label: str
    arguments: tuple[str, ...]
    log: Path
    members: tuple[tuple[str, int], ...] = ()
    round: RoundKey = 0
    overrides: tuple[str, ...] = ()
    progress: Path | None = None

    def command(self) -> list[str]:
        """What follows `distseg`."""
        named = ",".join(f"{name}:{fold}" for name, fold in self.members)
        return [*self.arguments, *(["--members", named] if named else []), *self.overrides]


def train_job(run: Run, round: RoundKey, members: Sequence[tuple[str, int]]) -> Job:
    """The job that trains `members` (name, fold) in a row."""
    names = [member_id(*member) for member in members]
    label = names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}"
    arguments = ("train", str(run.config), "--out", str(run.folder), "--round", str(round))
    log = run.member(round, *members[0]).folder / "launch.log"
    return Job(label, arguments, log, tuple(members), round)


def narrow(job: Job, run: Run, members: Sequence[tuple[str, int]]) -> Job:
    """The same job for fewer members."""
    return replace(train_job(run, job.round, members), overrides=job.overrides)


def measured_pace(
    run: Run, members: Sequence[tuple[str, int]], round: RoundKey = 0
) -> dict[str, float]:
    """Images per second by model, as the run's own epochs show it; nothing before the first."""
    seen: dict[str, list[float]] = {}
    for name, fold in members:
        rows = read_lines(run.member(round, name, fold).metrics)
        seen.setdefault(name, []).extend(r["images_per_s"] for r in rows if r.get("images_per_s"))
    return {name: sum(values) / len(values) for name, values in seen.items() if values}


def launch_command(job: Job, slot: Slot, config_file: Path) -> list[str]:
    """The exact command of a job on a slot: where it has several ranks `accelerate launch`, by way
    of `jobs/launcher.py`, which keeps their store to this machine.

    `--cpu --num_processes 2` would start one process; two CPU ranks are `--multi_gpu` with
    ACCELERATE_USE_CPU in the environment. Port 0: jobs never collide.
    """
    work = ["-m", "distseg", *job.command()]
    if slot.processes == 1:
        return [sys.executable, *work]
    return [
        *(sys.executable, "-m", LAUNCHER, "--config_file", str(config_file)),
        *("--multi_gpu", "--main_process_port", "0"),
        *("--num_processes", str(slot.processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", str(slot.threads)),
        *work,
    ]


def write_launch_yaml(run: Run) -> Path:
    """The accelerate YAML of the run's jobs, which is written where it is not there yet."""
    path = run.launch_config
    if not path.is_file():
        atomic_write(path, LAUNCH_YAML)
    return path


def launch_environment(slot: Slot, run: Run, mark: str) -> dict[str, str]:
    """The environment of a job: its GPUs, its threads, and the marks of its processes."""
    # A driver that is itself a rank of some launch would hand its world size and its rendezvous
    # to the job's ranks, which would then wait for ranks that are not theirs; and what the shell
    # says of accumulation or precision would change the weights without a word.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in SHELL_VARIABLES and not name.startswith(SHELL_PREFIXES)
    }
    environment |= {
        RUN_MARK: str(run.folder.resolve()),
        JOB_MARK: mark,
        DRIVER_MARK: str(os.getpid()),
        "OMP_NUM_THREADS": str(slot.threads),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONUNBUFFERED": "1",
        # Seconds that torchrun gives to ranks once one has failed: they hang in a collective with
        # the dead one, deaf to SIGTERM. Its default is 30.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
        # Empty on a CPU slot: a job that was not given a GPU must not see one.
        "CUDA_VISIBLE_DEVICES": ",".join(slot.devices),
    }
    # All ranks of a job are on one machine: nobody else need reach them.
    environment |= {name: LOOPBACK for name in INTERFACES if name not in os.environ}
    if not slot.devices:
        # accelerate's own `--cpu` starts a single process, whatever --num_processes says.
        environment["ACCELERATE_USE_CPU"] = "true"
        # Threads that wait for each other by spinning lose up to 20 times beside a busy core.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return environment


# -- processes ------------------------------------------------------------------------------------


def find_processes(mark: str, value: str) -> list[psutil.Process]:
    """Living processes, other than this one, that have `mark=value` in their environment.

    The environment is read from the kernel: a process that has changed its name, its group or its
    session, or that has lost its parent, is found all the same. A zombie holds nothing. Nor does a
    guard, which goes by itself once it finds nothing of its rank.
    """
    found = []
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _value(process, mark) == value:
            found.append(process)
    alive = [p for p in found if p.is_running() and status_of(p) != psutil.STATUS_ZOMBIE]
    return [p for p in alive if not is_guard(p)]


def _value(process: psutil.Process, variable: str) -> str | None:
    """A variable of a process's environment; None where it lacks it or cannot be read: processes of
    other users, and those that end while they are looked at."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(variable)
    return None


def ranks_of(parent: int, launched: bool) -> list[psutil.Process]:
    """The ranks of a job: of a launcher its children, or itself while it has none; else the
    process itself.

    Only ranks get SIGTERM: a launcher that dies first would take them along before they saved,
    and a loader process that dies fails its rank.
    """
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(parent)
        return (launched and process.children()) or [process]
    return []


def end_processes(mark: str, value: str, grace_s: float) -> int:
    """Wait up to grace_s for the marked processes to leave, then SIGKILL until none is left.
    Returns how many had to be killed."""
    return end_all(lambda: find_processes(mark, value), grace_s)


def end_leftovers(run: Run, grace_s: float = 2 * ORPHAN_GRACE_S, *, orphans: bool = False) -> int:
    """End processes that an earlier, killed driver of this run left on this machine: they would
    write into the same folders. Returns how many there were.

    orphans: only those whose driver is gone. On a cluster the others are jobs that go on without
    the run's driver: theirs is the node's actor.
    """
    folder = str(run.folder.resolve())

    def find() -> list[psutil.Process]:
        return [p for p in find_processes(RUN_MARK, folder) if not (orphans and _is_driven(p))]

    left = len(find())
    end_all(find, grace_s)  # they are leaving by themselves
    return left


def _is_driven(process: psutil.Process) -> bool:
    driver = _value(process, DRIVER_MARK) or ""
    return driver.isdigit() and psutil.pid_exists(int(driver))


# -- inside a job ---------------------------------------------------------------------------------


def num_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """Processes of this launch, on all machines; 1 where no launcher says so."""
    return int(environment.get("WORLD_SIZE", "1"))


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those of this launch on this machine."""
    return int(environment.get(LOCAL_RANK, "0"))


def is_driven(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process belongs to a job that a run or a sweep has started."""
    return RUN_MARK in environment


def left_by_rank(environment: Mapping[str, str] = os.environ) -> list[psutil.Process]:
    """What a rank of a job has started and would leave: a rank alone all that carries the job's
    mark, one of several what carries its own number, too. Without the mark it cannot be known, and
    is left to itself."""
    if JOB_MARK not in environment:
        return []
    marked, own = find_processes(JOB_MARK, environment[JOB_MARK]), environment.get(LOCAL_RANK)
    return [p for p in marked if own is None or _value(p, LOCAL_RANK) == own]


def watch_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """`watch_parent` in a rank of a job or of an `accelerate launch`, which sets the variable;
    nothing in a process that a person has started."""
    if is_driven(environment) or "ACCELERATE_DYNAMO_BACKEND" in environment:
        watch_parent(environment)


def is_orphan(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher of this rank was gone before we could look at it: the rank is the first
    process's child then. In a container that may be the launcher itself."""
    if LOCAL_RANK not in environment or os.getppid() != 1:
        return False
    command = " ".join(psutil.Process(1).cmdline())
    return not any(name in command for name in ("accelerate", "torch", LAUNCHER))


def watch_parent(environment: Mapping[str, str] = os.environ) -> None:
    """End this rank when its launcher or the driver of the run is gone: first by SIGTERM, which
    saves the state, and ORPHAN_GRACE_S later without asking, children included.

    The kernel's signal covers the launcher, the thread covers the driver. Without a driver
    (`accelerate launch` by hand) only the launcher counts.
    """
    # The kernel's signal comes at once, but only for the parent, the launcher. The driver is a
    # grandparent, for which there is no such signal: a thread looks twice a second.
    driver = environment.get(DRIVER_MARK, "")
    watched = [os.getppid(), *([int(driver)] if driver.isdigit() else [])]
    die_with_parent(signal.SIGTERM)
    try:
        if is_orphan(environment):
            leave(0.0)
        alive = [psutil.Process(pid) for pid in watched]
    except psutil.NoSuchProcess:  # gone before we asked: nothing is trained yet, nothing to save
        leave(0.0)
    guard(alive, lambda: left_by_rank(environment))
    threading.Thread(target=watch, args=(os.getppid(), alive), daemon=True).start()
