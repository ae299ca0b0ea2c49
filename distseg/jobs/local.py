"""The local executor: a job is a child process of the driver, on a slot of this machine.

The driver polls its children; nothing else connects them. When the driver dies, the kernel tells
its children, and the ranks notice (see jobs/job.py): a job never outlives its driver here.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from distseg.jobs.guard import begin_child
from distseg.jobs.hardware import Slot, machine_slot, num_cores
from distseg.jobs.job import (
    JOB_MARK,
    Job,
    end_processes,
    launch_command,
    launch_environment,
    ranks_of,
    write_launch_yaml,
)
from distseg.jobs.scheduler import Started
from distseg.records.paths import Run

CommandBuilder = Callable[[Job, Slot, Path], list[str]]


class LocalHandle:
    """One started job."""

    cause: tuple[str, str] | None = None  # what its files do not say: nothing, on this machine

    def __init__(self, process: subprocess.Popen[bytes], mark: str, launched: bool) -> None:
        """launched: the process is a launcher, and its children are the ranks."""
        self.process, self.mark, self.pid = process, mark, process.pid
        self.launched = launched

    def poll(self) -> int | None:
        """Exit status once every process of the job is gone, None before."""
        status = self.process.poll()
        if status is not None:
            # The slot is about to be given to another job: a rank that hangs, or a loader process
            # whose rank was killed, would share its GPU.
            end_processes(JOB_MARK, self.mark, 0.0)
        return status

    def terminate(self) -> None:
        """Ask the ranks to save their state and leave."""
        # Not the launcher: it would pass the signal on and kill the ranks before they have saved.
        running = self.process.poll() is None
        for process in ranks_of(self.pid, self.launched) if running else []:
            if process.is_running():
                process.terminate()

    def kill(self) -> None:
        """End all processes of the job now."""
        end_processes(JOB_MARK, self.mark, 0.0)
        self.process.wait()


class LocalExecutor:
    """Starts jobs of `run` on the given slots. `command` builds a job's argument list."""

    def __init__(self, run: Run, slots: list[Slot], command: CommandBuilder = launch_command):
        self.run, self._slots, self.command = run, slots, command

    def slots(self, whole_machine: bool = False) -> list[Slot]:
        """The slots of this machine. whole_machine: one slot, with all that it has."""
        return [machine_slot(self._slots, num_cores())] if whole_machine else self._slots

    def adopt(self) -> list[Started]:
        """Jobs do not outlive their driver here."""
        return []

    def start(self, job: Job, slot: Slot) -> LocalHandle:
        """Start a job; its output is appended to job.log."""
        mark = uuid.uuid4().hex
        command = self.command(job, slot, write_launch_yaml(self.run))
        environment = launch_environment(slot, self.run, mark)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n# {time.ctime()}\n".encode())
            log.flush()
            # A process group of its own keeps Ctrl-C away from the launcher, which would leave
            # before its ranks have saved: the driver alone gets it, and asks the ranks. A session
            # of its own (start_new_session) would hide the job from Ray and Slurm, which end what
            # belongs to their session.
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=begin_child,
            )
        return LocalHandle(process, mark, slot.processes > 1)
