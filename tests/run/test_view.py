"""The live table of a terminal; the lines of elsewhere are in tests/jobs/test_scheduler.py."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from distseg.config.load import load_config
from distseg.jobs.failure import Failure
from distseg.jobs.hardware import Slot
from distseg.jobs.job import train_job
from distseg.records.files import append_line, mark_done
from distseg.run.view import LiveView
from tests.jobs.driver import scripted


def test_live_table(tmp_path: Path) -> None:
    run, out = scripted(tmp_path), io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    members = [("a", 0), ("b", 0)]
    jobs = [train_job(run, 0, [member]) for member in members]
    row = {"epoch": 4, "epochs": 10, "loss": 0.5, "score": 0.25, "seconds": 5, "eta_s": 65}
    with LiveView(load_config(run.config), run, members, 2, console=console) as view:
        for number, job in enumerate(jobs):
            view.started(job, Slot(number, (str(number),), 1, 1), 1)
        append_line(run.member(0, "a", 0).metrics, row)
        view.tick(force=True)
        view.failed(Failure(jobs[1], "error", "[not markup] broke", 1, final=True))
        mark_done(run.member(0, "a", 0).done, {"score": 0.5})
        view.finished(jobs[0])
    shown = out.getvalue()
    for text in ("a_fold0: started on GPU 0", "5/10", "━━━━━━······", "0.2500", "1m05s"):
        assert text in shown
    assert "b_fold0: LEFT OUT: error: [not markup] broke" in shown
    last = shown[shown.rindex("1 of 2 members") :]
    assert "ETA" not in last, "the table that has ended stays on the screen"
