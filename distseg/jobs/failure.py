"""Why a job failed, as its log says it, and the job with half the micro-batch."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from distseg.config.schema import Config
from distseg.jobs.job import Job

ACCUMULATION = "train.accumulation="
LOG_BYTES = 64_000  # of a log's end, where its errors stand
USER_ERROR = "distseg: error: "  # how cli.main begins the line
ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
LAUNCHER_ERRORS = ("subprocess.CalledProcessError", "torch.distributed.elastic")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without its work.

    kind: out_of_memory | non_finite | user | damaged | node_lost | node_unfit | error.
    status: of the process that was started, a rank or a launcher; a signal that ended it is
        negative.
    """

    job: Job
    kind: str
    message: str
    status: int
    final: bool  # the member is left out; else it is tried again


def smaller_batch(job: Job, config: Config, processes: int) -> Job | None:
    """The job with half the micro-batch and twice the accumulation: the same global batch, so the
    same training in less memory. None when the batch cannot be divided further.

    processes: ranks of the job, among which a batch is divided.
    """
    if not job.members:  # a prediction has no batch of the optimizer to divide: as it is
        return job
    now = config.train.accumulation
    for text in job.overrides:
        if text.startswith(ACCUMULATION):
            now = int(text.removeprefix(ACCUMULATION))
    recipe = config.recipe(job.round)
    for size in [config.batch_size_of(name) for name, _ in job.members]:
        share = round(size * recipe.share) if recipe.mixes else 0
        if size % (2 * now * processes) or share % (2 * now * processes):
            return None
    kept = tuple(text for text in job.overrides if not text.startswith(ACCUMULATION))
    return replace(job, overrides=(*kept, f"{ACCUMULATION}{2 * now}"))


def cause_in_log(path: Path, start: int) -> tuple[str, str] | None:
    """(kind, message) of the last error that a rank wrote after byte `start`; None: there is none.
    The launcher's own error, which only says that a rank has failed, comes after it and does not
    count."""
    if not path.is_file():
        return None
    for line in reversed(_last_lines(path, start)):
        if line.startswith(USER_ERROR):
            return "user", line.removeprefix(USER_ERROR)
        if ERROR_LINE.match(line) and not line.startswith(LAUNCHER_ERRORS):
            return "error", line[:500]
    return None


def how_it_ended(status: int) -> str:
    """An exit status in words, for a job that wrote no error."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"ended by {name}{', as the kernel does where memory runs out' * (name == 'SIGKILL')}"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(_last_lines(path)[-lines:]) if path.is_file() else ""


def _last_lines(path: Path, start: int = 0) -> list[str]:
    """The lines after byte `start`; of a long log those of its last LOG_BYTES."""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - LOG_BYTES))
        return file.read().decode("utf-8", errors="replace").splitlines()
