"""Which jobs of a run work now, as its ledger has them."""

from __future__ import annotations

from typing import Any

from distseg.records.files import read_lines
from distseg.records.paths import Run


def running_jobs(run: Run) -> dict[str, dict[str, Any]]:
    """Of each job that has started and not ended, by its label, the line of its start."""
    running: dict[str, dict[str, Any]] = {}
    for line in read_lines(run.ledger):
        event, job = line.get("event"), str(line.get("job"))
        if event in ("job_started", "job_adopted"):
            running[job] = line
        elif event in ("job_done", "job_failed", "job_stopped"):
            running.pop(job, None)
        elif event == "run_started":
            running.clear()
    return running
