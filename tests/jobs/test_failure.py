"""Why a job failed, and with how small a batch it is tried again."""

from __future__ import annotations

from pathlib import Path

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.jobs.failure import cause_in_log, smaller_batch, tail
from distseg.jobs.job import Job, train_job
from tests.jobs.driver import scripted
from tests.tiny import tiny_tree


def test_a_job_without_members_goes_again_as_it_is(tmp_path: Path) -> None:
    job = Job("predict-test-0", ("predict-test", "run"), tmp_path / "log")
    assert smaller_batch(job, Config.model_validate(tiny_tree()), 1) == job


def test_a_batch_of_one_cannot_be_halved(tmp_path: Path) -> None:
    run = scripted(tmp_path)
    config = load_config(run.config, ["train.batch_size=8"])
    job = train_job(run, 0, [("a", 0)])
    for factor in (2, 4):
        smaller = smaller_batch(job, config, 2)
        assert smaller is not None
        job = smaller
        assert job.overrides == (f"train.accumulation={factor}",)
    assert smaller_batch(job, config, 2) is None  # 8 images, 2 ranks, 4 parts: one image each


def test_cause_in_log(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    log.write_text("ValueError: old\n")
    start = log.stat().st_size
    assert cause_in_log(log, start) is None
    with log.open("a") as file:
        file.write("torch.OutOfMemoryError: CUDA out of memory\n")
        file.write("subprocess.CalledProcessError: Command failed\n")
    assert cause_in_log(log, start) == ("error", "torch.OutOfMemoryError: CUDA out of memory")
    assert cause_in_log(tmp_path / "absent", 0) is None


def test_tail_is_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert tail(log, 2) == "line 99998\nline 99999"
    assert tail(tmp_path / "absent") == ""
