"""A Slurm cluster of two hosts: munge, slurmctld on the first, slurmd on both."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from tests.hosts.hosts import Host
from tests.tiny import wait_until

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
# Debian's build; nothing of /etc/slurm is read. A host's own files lie on its own disk.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=a
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/tmp/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile=/mnt/slurm/slurmctld.log
SlurmdLogFile=/mnt/slurm/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=/mnt/slurm/jobs.txt
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=86400
GresTypes=gpu
NodeName=a,b CPUs=64 RealMemory=1000 Gres=gpu:1 State=UNKNOWN
PartitionName=low Nodes=a,b Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=a,b MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
# Slurm hands them out and sets CUDA_VISIBLE_DEVICES; torch sees that there are none.
GRES_CONF = "Name=gpu File=/dev/null\n"
CONF = {"SLURM_CONF": "/mnt/slurm/slurm.conf"}


def why_no_slurm() -> str:
    """Why there can be no cluster; "" where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"Slurm needs {', '.join(missing)} (slurm-wlm, munge)" if missing else ""


class Slurm:
    """A cluster on two hosts that share `folder`."""

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.head, self.folder = hosts[0], folder / "slurm"
        self.folder.mkdir()
        (self.folder / "slurm.conf").write_text(SLURM_CONF)
        (self.folder / "gres.conf").write_text(GRES_CONF)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        munged = (
            "mkdir -m 755 /tmp/munge && cp slurm/munge.key /tmp/munge/key && "
            "munged --force --socket=/tmp/munge/socket --key-file=/tmp/munge/key "
            "--log-file=/tmp/munge/log --pid-file=/tmp/munge/pid --seed-file=/tmp/munge/seed"
        )
        for host in hosts:
            host.run(["sh", "-c", f"{munged} >/tmp/munge.out 2>&1 </dev/null"])
        self.head.run(["sh", "-c", "mkdir /tmp/slurmctld && slurmctld >/dev/null 2>&1"], CONF)
        for host in hosts:
            host.run(["sh", "-c", f"mkdir /tmp/slurmd && slurmd -N {host.name} >/dev/null"], CONF)
        wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T %D"), "the nodes are up")

    def ask(self, *command: str, **environment: str) -> str:
        """What one of Slurm's commands says."""
        return self.head.run([*command], {**CONF, **environment}).strip()

    def submit(self, *arguments: str, **environment: str) -> str:
        """The id of a job that was submitted by `sbatch` in the shared folder."""
        return self.ask("sbatch", "--parsable", *arguments, **environment).splitlines()[-1]

    def state(self, job: str) -> str:
        """Of a job, as scontrol gives it: PENDING, RUNNING, COMPLETED, ... ; of an array's tasks
        all, joined."""
        return ",".join(self.field(job, "JobState"))

    def field(self, job: str, name: str) -> list[str]:
        """A field of `scontrol show job`, of each task of the job."""
        words = self.ask("scontrol", "show", "job", job).split()
        return [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]

    def wait(self, job: str, *states: str, patience_s: float = 600.0) -> None:
        """Until the job and all of its tasks are in one of the states."""
        end = time.monotonic() + patience_s
        while not set(self.state(job).split(",")) <= set(states):
            assert time.monotonic() < end, self.ask("scontrol", "show", "job", job)
            time.sleep(1.0)
