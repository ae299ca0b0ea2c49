"""The scheduling policy, with real processes as jobs."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from distseg.config.load import load_config
from distseg.jobs.failure import Failure
from distseg.jobs.hardware import Slot
from distseg.jobs.job import RUN_MARK, Job, find_processes, train_job
from distseg.jobs.local import LocalExecutor
from distseg.jobs.scheduler import Scheduler
from distseg.records.errors import UserError
from distseg.records.files import read_lines
from distseg.records.paths import Run
from distseg.run.status import left_out, started_members
from distseg.run.view import LineView
from tests.jobs.driver import scripted, worker_command

Keys = Sequence[tuple[str, int]]


def execute(run: Run, jobs: Sequence[Keys], slots: int = 1) -> tuple[list[Failure], str]:
    """Run jobs of these members; returns the final failures and what was shown."""
    config, out = load_config(run.config), io.StringIO()
    executor = LocalExecutor(run, [Slot(n, (), 1, 1) for n in range(slots)], worker_command(run))
    members = [member for job in jobs for member in job]
    view = LineView(config, run, members, slots, out=out)
    scheduler = Scheduler(config, run, executor, view)
    failures = scheduler.execute([train_job(run, 0, job) for job in jobs])
    assert find_processes(RUN_MARK, str(run.folder)) == []
    return failures, out.getvalue()


def attempts(run: Run, name: str, fold: int) -> list[str]:
    """The overrides of each attempt."""
    path = run.member(0, name, fold).folder / "attempts"
    return path.read_text().splitlines() if path.exists() else []


def is_done(run: Run, name: str, fold: int) -> bool:
    return run.member(0, name, fold).done.is_file()


def test_all_slots_are_kept_busy(tmp_path: Path) -> None:
    run = scripted(tmp_path)
    keys = [("a", fold) for fold in range(4)]
    failures, shown = execute(run, [[key] for key in keys], slots=2)
    assert not failures
    assert all(is_done(run, *key) for key in keys)
    events = read_lines(run.ledger)
    assert [e["event"] for e in events[:2]] == ["job_started", "job_started"]
    assert {e["slot"] for e in events if e["event"] == "job_started"} == {0, 1}
    assert sum(e["event"] == "job_done" for e in events) == 4
    assert started_members(run) == {}
    assert shown.count("epoch 1/2 loss 1.0000 score 0.5000") == 4
    assert "ETA" in shown


def test_a_crash_is_tried_again(tmp_path: Path) -> None:
    run = scripted(tmp_path, a0=["crash", "vanish"])
    failures, shown = execute(run, [[("a", 0)]])
    assert not failures
    assert is_done(run, "a", 0)
    assert attempts(run, "a", 0) == ["", "", ""]
    causes = [e for e in read_lines(run.ledger) if e["event"] == "job_failed"]
    assert causes[0]["message"] == "RuntimeError: the loss has a hole"
    # not the first attempt's error
    assert causes[1]["message"].startswith("ended by SIGKILL, as the kernel does")
    assert "launch.log" in shown
    assert "the loss has a hole" in shown


def test_out_of_memory_halves_the_micro_batch(tmp_path: Path) -> None:
    run = scripted(tmp_path, a0=["fail:out_of_memory", "fail:out_of_memory"])
    failures, shown = execute(run, [[("a", 0)]])
    assert not failures
    assert attempts(run, "a", 0) == ["", "train.accumulation=2", "train.accumulation=4"]
    assert "with train.accumulation=4" in shown


def test_other_failures_keep_the_smaller_batch(tmp_path: Path) -> None:
    run = scripted(tmp_path, a0=["fail:out_of_memory", "crash"])
    assert not execute(run, [[("a", 0)]])[0]
    assert attempts(run, "a", 0) == ["", "train.accumulation=2", "train.accumulation=2"]


def test_a_broken_member_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = scripted(tmp_path, a0=["crash"] * 9, a1=["fail:non_finite"] * 9)
    failures, shown = execute(run, [[("a", 0)], [("a", 1)], [("b", 0)]])
    assert is_done(run, "b", 0)
    assert {(f.job.label, f.kind) for f in failures} == {
        ("a_fold0", "error"),
        ("a_fold1", "non_finite"),
    }
    assert len(attempts(run, "a", 0)) == 3  # retries: 2
    assert set(left_out(run)) == {"0:a_fold0", "0:a_fold1"}
    assert shown.count("LEFT OUT") == 2


@pytest.mark.parametrize("act", ["fail:user", "user_in_log"])
def test_a_users_mistake_ends_the_run(tmp_path: Path, act: str) -> None:
    """Not one member after another: the second, which would go on for minutes, is stopped, and
    the third never begins."""
    run = scripted(tmp_path, a0=[act] * 9, a1=["save"])
    with pytest.raises(UserError, match="a_fold0: "):
        execute(run, [[("a", 0)], [("a", 1)], [("b", 0)]], slots=2)
    assert find_processes(RUN_MARK, str(run.folder)) == []
    assert len(attempts(run, "a", 0)) == 1
    assert attempts(run, "b", 0) == []
    assert not is_done(run, "a", 1)
    assert [e["kind"] for e in read_lines(run.ledger) if e["event"] == "job_failed"] == ["user"]


def test_all_that_ended_are_judged_before_a_users_mistake_ends_the_run(tmp_path: Path) -> None:
    """Two jobs end between two looks at them: one is done, and one has found a mistake."""
    run = scripted(tmp_path, a0=["fail:user"] * 9)
    config, out = load_config(run.config), io.StringIO()
    executor = LocalExecutor(run, [Slot(n, (), 1, 1) for n in range(2)], worker_command(run))

    class Late(LineView):
        """Looks away until both have ended. A process that has just begun has no mark yet: what
        both leave is waited for, too."""

        def tick(self, force: bool = False) -> None:
            left = run.member(0, "a", 0).failure, run.member(0, "b", 0).done
            while len(self.active) == 2 and not all(path.is_file() for path in left):
                time.sleep(0.05)
            while find_processes(RUN_MARK, str(run.folder)):
                time.sleep(0.05)

    view = Late(config, run, [("a", 0), ("b", 0)], 2, out=out)
    jobs = [train_job(run, 0, [member]) for member in (("a", 0), ("b", 0))]
    with pytest.raises(UserError, match="a_fold0: it is fail:user"):
        Scheduler(config, run, executor, view).execute(jobs)
    events = {e["job"]: e["event"] for e in read_lines(run.ledger) if "job" in e}
    assert events == {"a_fold0": "job_failed", "b_fold0": "job_done"}


def test_a_prediction_that_finds_a_users_mistake_is_left_out(tmp_path: Path) -> None:
    """What is trained stays of use: its failure is returned, and the run goes on."""
    run = scripted(tmp_path)
    config, out = load_config(run.config), io.StringIO()
    text = "import sys; sys.exit('distseg: error: the image is torn')"

    def command(job: Job, slot: Slot, path: Path) -> list[str]:
        return [sys.executable, "-c", text if job.label == "predict" else "pass"]

    executor = LocalExecutor(run, [Slot(0, (), 1, 1)], command)
    jobs = [
        Job(label, ("predict-test",), run.folder / f"{label}.log") for label in ("predict", "teach")
    ]
    view = LineView(config, run, [], 1, out=out)
    (failure,) = Scheduler(config, run, executor, view).execute(jobs)
    assert (failure.kind, failure.message, failure.job.label) == (
        "user", "the image is torn", "predict",
    )  # fmt: skip
    done = [e["job"] for e in read_lines(run.ledger) if e["event"] == "job_done"]
    assert done == ["teach"]


def test_no_done_is_a_failure(tmp_path: Path) -> None:
    failures, _ = execute(scripted(tmp_path, a0=["no_done"] * 9), [[("a", 0)]])
    assert failures[0].message == "the job ended without DONE"


def test_a_member_in_the_middle_fails_alone(tmp_path: Path) -> None:
    """Four members in a row; the second never works: it gets its retries, the others one start."""
    run = scripted(tmp_path, a1=["fail:out_of_memory"] * 9)
    keys = [("a", fold) for fold in range(4)]
    failures, _ = execute(run, [keys])
    assert [f.job.members for f in failures] == [(("a", 1),)]
    assert [is_done(run, *key) for key in keys] == [True, False, True, True]
    assert attempts(run, "a", 1) == ["", "train.accumulation=2", "train.accumulation=4"]
    assert attempts(run, "a", 2) == attempts(run, "a", 3) == [""]
